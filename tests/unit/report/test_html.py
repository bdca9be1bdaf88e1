"""The page: one file, nothing from anywhere else, inert whatever the record says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib

import report_records as records
from tfslim.report import render

OURS = {"html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "h3", "p",
        "span", "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "details",
        "summary", "figure", "figcaption"}  # fmt: skip
DRAWN = {"svg", "defs", "style", "g", "path", "use", "clipPath", "rect"}
SVG = "{http://www.w3.org/2000/svg}"


@cache
def page(hostile: bool = False) -> str:
    return render.html(records.hostile() if hostile else records.full())


@cache
def parsed(hostile: bool = False) -> Element:
    return html5lib.parse(page(hostile), namespaceHTMLElements=True)


def elements(root: Element) -> list[tuple[str, Element]]:
    html = "{http://www.w3.org/1999/xhtml}"
    return [
        (element.tag.replace(html, ""), element)
        for element in root.iter()
        if isinstance(element.tag, str)
    ]


def test_a_hostile_record_adds_no_element() -> None:
    for tag, element in elements(parsed(hostile=True)):
        if tag.startswith(SVG):
            assert tag.removeprefix(SVG) in DRAWN, tag
        else:
            assert tag in OURS, tag
        for name, value in element.attrib.items():
            assert not name.startswith("on"), name
            assert "javascript:" not in value
            if name.endswith("href"):
                assert value.startswith("#"), value


def test_a_hostile_record_has_the_structure_of_an_honest_one() -> None:
    def sections(root: Element) -> list[str | None]:
        return [element.get("id") for tag, element in elements(root) if tag == "details"]

    assert sections(parsed(hostile=True)) == [
        section.key for section in render.make_report(records.hostile()).sections
    ]


def test_the_page_loads_nothing() -> None:
    text = page()
    assert "default-src 'none'" in text
    assert re.findall(r"(?:src|action|formaction|poster)=", text) == []
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s<)]+", text)) <= namespaces
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_the_page_can_be_read_without_seeing_its_pictures() -> None:
    found = elements(parsed())
    figures = [element for tag, element in found if tag == "figure"]
    assert len(figures) == 4
    for figure in figures:
        assert figure.get("role") == "img"
        assert "inference" in (figure.get("aria-label") or "")
    tags = [tag for tag, _ in found if re.fullmatch("h[1-6]", tag)]
    assert tags[0] == "h1"
    assert tags.count("h1") == 1
    assert next(element for tag, element in found if tag == "html").get("lang") == "en"
    heads = [element for tag, element in found if tag == "th"]
    assert {element.get("scope") for element in heads} == {"col", "row"}


def test_the_page_is_light_and_dark_and_prints() -> None:
    text = page()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_page_has_every_section_and_cell_of_the_report() -> None:
    report = render.make_report(records.full())
    text = " ".join("".join(parsed().itertext()).replace("\u00a0", " ").split())
    assert report.verdict in text
    for section in report.sections:
        assert section.title in text
    for cell in report.summary.rows[1]:
        assert cell.replace("\u00a0", " ") in text


def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    assert render.html(records.full()) == page()
