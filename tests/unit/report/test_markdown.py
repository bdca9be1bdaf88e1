"""Markdown for a comment: it fits, it is inert, its diagrams are diagrams."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
from markdown_it import MarkdownIt

import report_records as records
from tfslim.report import mermaid, render
from tfslim.report.blocks import Segment, StackedBars, Trend, Trends
from tfslim.report.inert import line, markdown_text, mermaid_label, plain
from tfslim.report.markdown import LIMIT_BYTES, markdown

OURS = {"html", "head", "body", "p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td",
        "details", "summary", "pre", "code", "ul", "li"}  # fmt: skip


def parsed(text: str) -> Element:
    """Return what a browser makes of Markdown with its HTML let through, as GitHub begins."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return html5lib.parse(parser.render(text), namespaceHTMLElements=False)


def foreign(root: Element) -> list[str]:
    """Return every element and attribute that no report of ours has."""
    found = []
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue  # a comment
        allowed = {"style", "class"} if element.tag in ("td", "th", "code") else set()
        found += [element.tag] if element.tag not in OURS else []
        found += [f"{element.tag}@{name}" for name in element.attrib if name not in allowed]
    return found


def shown(root: Element) -> str:
    return " ".join(text for text in root.itertext())


def test_a_hostile_record_renders_inert() -> None:
    root = parsed(render.markdown(records.hostile()))
    assert foreign(root) == []


def test_a_hostile_record_mentions_nobody_and_links_nothing() -> None:
    # What GitHub does on the finished text, outside of code.
    root = parsed(render.markdown(records.hostile()))
    for code in root.iter("pre"):
        code.clear()
    text = shown(root)
    for pattern in (r"@\w", r"#\d", r"\bGH-\d", r"https?://", r"\bwww\.\w", r":\w+:", r"\w@\w"):
        assert re.findall(pattern, text) == [], pattern


def test_a_hostile_record_breaks_no_table() -> None:
    root = parsed(render.markdown(records.hostile()))
    tables = list(root.iter("table"))
    assert len(tables) > 10
    for table in tables:
        columns = len(table.findall("./thead/tr/th"))
        assert {len(row) for row in table.findall("./tbody/tr")} <= {columns}


def test_a_hostile_record_keeps_its_sections() -> None:
    report = render.make_report(records.hostile())
    text = markdown(report, limit_bytes=10**7)
    titles = [summary.text for summary in parsed(text).iter("summary")]
    assert titles == [
        *(section.title for section in report.sections if section.key != "history"),
        "What the columns mean",
    ]


def test_hostile_figures_are_no_figures() -> None:
    text = render.markdown(records.hostile()).lower()
    assert re.findall(r"(?<![a-z])(nan|inf|infinity)(?![a-z])", text) == []
    assert "-5 b" not in text


@pytest.mark.parametrize("text", records.HOSTILE)
def test_each_hostile_text_stays_the_text_that_it_shows(text: str) -> None:
    kept = plain(text, 300)
    made = shown(parsed(line(kept))).replace("\u200b", "").replace("\u00a0", " ").strip()
    assert made == kept
    cell = shown(parsed(f"| a |\n| --- |\n| {markdown_text(kept)} |"))
    assert cell.split("a", 1)[1].replace("\u200b", "").replace("\u00a0", " ").strip() == kept


@pytest.mark.parametrize("text", ["- a", "1. a", "# a", "+ a", "=== ", "> a", "12) a", "--- "])
def test_a_line_begins_no_list_heading_or_rule(text: str) -> None:
    root = parsed(line(plain(text)))
    assert {element.tag for element in root.iter()} == {"html", "head", "body", "p"}


def test_plain_shortens_and_takes_hidden_characters_out() -> None:
    assert plain("x" * 500, 10) == "xxxxxxxxx…"
    assert plain("a\u202eb\x1b[2Kc\x00d\ne") == "a bc d e"
    assert plain("e\u0301" + "\u0301" * 50) == "e\u0301\u0301"


def test_a_long_report_drops_whole_sections_in_order_of_rank_and_says_so() -> None:
    report = render.make_report(records.full())
    whole = markdown(report, limit_bytes=10**6)
    ranks = sorted(report.sections, key=lambda section: -section.rank)
    for kept in range(len(ranks)):
        limit = len(whole.encode()) * (kept + 1) // (len(ranks) + 1)
        text = markdown(report, limit_bytes=max(limit, 1600))
        titles = [summary.text for summary in parsed(text).iter("summary")]
        gone = [section.title for section in ranks if section.title not in titles]
        assert gone == [section.title for section in ranks][: len(gone)]
        assert all(f"“{title}”" in text for title in gone)
        assert len(text.encode()) <= max(limit, 1600)
        assert text.count("<details>") == text.count("</details>")


def test_the_verdict_stands_however_long_the_record_is() -> None:
    size = records.size(2_500_000_000, 5_900_000_000)
    many = {f"registry.example/an/image/with/a/long/name:{n:0200d}": size for n in range(3000)}
    text = render.markdown(records.small(sizes=many))
    assert len(text.encode()) <= LIMIT_BYTES
    assert "no budgets are set" in text
    assert "The first 40 of 3000 images" in text
    for table in parsed(text).iter("table"):
        columns = len(table.findall("./thead/tr/th"))
        assert {len(row) for row in table.findall("./tbody/tr")} <= {columns}


def test_bytes_are_counted_not_characters() -> None:
    wide = {f"画像{n:04d}" + "漢" * 60: records.size(10**9, 2 * 10**9) for n in range(2000)}
    assert len(render.markdown(records.small(sizes=wide)).encode()) <= LIMIT_BYTES


def bars(*rows: str, values: tuple[float, ...] = (1.0,)) -> StackedBars:
    return StackedBars("x", "Sizes", "GB", rows, (Segment("a", "rest", values * len(rows)),))


def test_a_diagram_has_quoted_labels_and_fixed_decimals() -> None:
    text = mermaid.diagram(bars("stock", 'in"ference]\nbar [9]'))
    assert text is not None
    assert '  x-axis ["stock", "inference bar 9"]' in text
    assert text.endswith("  bar [1.000, 1.000]")


def test_stacks_are_running_sums_the_longest_first() -> None:
    chart = StackedBars("x", "t", "s", ("a",), (Segment("p", "", (1.0,)), Segment("q", "", (0.5,))))
    text = mermaid.diagram(chart)
    assert text is not None
    assert text.splitlines()[-2:] == ["  bar [1.500]", "  bar [1.000]"]
    assert "#f59e0b, #3b82f6" in text
    assert mermaid.legend(chart) == "🟦 p, 🟧 q"


def test_lines_over_runs_have_a_colour_each_and_only_whole_ones_are_drawn() -> None:
    runs = tuple(f"run {n}" for n in range(20))
    whole = Trend("stock", runs, tuple(float(n) for n in range(20)))
    broken = Trend("inference", runs, (None, *(1.0 for _ in range(19))))
    chart = Trends("history-1", "pull over runs", "GB", (whole, broken))
    text = mermaid.diagram(chart)
    assert text is not None
    assert text.count("  line [") == 1
    assert '"11", "12"]' in text
    assert mermaid.legend(chart) == "🟦 stock; the last 12 runs, from run 8 to run 19"


def test_what_is_too_small_for_its_unit_is_not_drawn() -> None:
    """An axis from 0 to 0.000 is none; the table below the chart has the figures."""
    assert mermaid.diagram(bars("a", values=(0.0002,))) is None
    assert mermaid.diagram(bars("a", values=(0.2,))) is not None


def test_no_two_bars_have_one_place() -> None:
    text = mermaid.diagram(bars("a`", "a<", "b"))
    assert text is not None
    assert 'x-axis ["a", "a 2", "b"]' in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_a_diagram_has_only_numbers_that_the_grammar_knows(value: float) -> None:
    text = mermaid.diagram(bars("a", values=(value,)))
    assert text is not None
    for numbers in re.findall(r"bar \[(.*)\]|--> (.*)", text):
        assert re.fullmatch(r"\d+\.\d{3}(, \d+\.\d{3})*", "".join(numbers))


@pytest.mark.parametrize("text", records.HOSTILE)
def test_a_diagram_s_label_cannot_end_it(text: str) -> None:
    label = mermaid_label(text)
    assert re.fullmatch(r'"[^"\n\[\]{}<>%;`\\$&#@]*"', label.replace("%", "")), label


@pytest.mark.slow
def test_mermaid_itself_reads_every_diagram(tmp_path: Path) -> None:
    """With Mermaid's own parser: `npm install mermaid jsdom` in the folder TFSLIM_MERMAID."""
    import os  # noqa: PLC0415

    folder = os.environ.get("TFSLIM_MERMAID", "")
    node = shutil.which("node")
    if not folder or node is None:
        pytest.skip("TFSLIM_MERMAID names no folder with Mermaid, or there is no node")
    found = []
    for record in (records.small(), records.full(), records.hostile(), records.two_machines()):
        found += re.findall(r"```mermaid\n(.*?)```", render.markdown(record), re.DOTALL)
    assert len(found) > 4
    for number, diagram in enumerate(found):
        (tmp_path / f"{number}.mmd").write_text(diagram, encoding="utf-8")
    script = Path(__file__).with_name("parse_mermaid.mjs")
    done = subprocess.run(
        [node, str(script), folder, *map(str, sorted(tmp_path.glob("*.mmd")))],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("xychart") == len(found)
