"""Pictures: the same every time, nothing over anything else, nothing too small to read."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree as ET

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import report_records as records
from tfslim.report import charts, plots, render
from tfslim.report.blocks import (
    Chart,
    Curve,
    Curves,
    Pairs,
    Panel,
    Segment,
    StackedBars,
    Trend,
    Trends,
)
from tfslim.report.causes import CAUSES, by_cause, library_name
from tfslim.report.record import RunRecord

SVG = "{http://www.w3.org/2000/svg}"
LONG = "registry.example.org/some/team/an-image-with-a-very-long-name:2026"


def bars(rows: int, *, zero: bool = False, name: str = "an image {}") -> StackedBars:
    segments = tuple(
        Segment(label, cause, tuple(0.0 if zero else (n + 1) * 0.07 for n in range(rows)))
        for cause, label in CAUSES.items()
    )
    names = tuple(charts.name_of(name.format(n)) for n in range(rows))
    return StackedBars("bars", "Disk by cause", "GB", names, segments)


def trends(lines: int, runs: int) -> Trends:
    names = tuple(f"11-{n % 28 + 1:02d} 10:{n % 60:02d} {n:07d}" for n in range(runs))
    return Trends(
        "history-1",
        "pull over runs",
        "GB",
        tuple(
            Trend(
                f"image {line}", names, tuple(line + 1 + (n > runs // 2) for n in range(runs)),
                changes=(runs // 2 + 1,) if runs > 2 else (1,),
            )
            for line in range(lines)
        ),
    )  # fmt: skip


def curves(panels: int, lines: int, spread: float = 3.0) -> Curves:
    return Curves(
        "latency",
        "Latency",
        "ms",
        tuple(
            Panel(
                f"HTTP, {p} client(s), batch {p}, NVIDIA H200",
                tuple(
                    Curve(f"image {c}", tuple(10 + c + spread * n for n in range(50)))
                    for c in range(lines)
                ),
            )
            for p in range(panels)
        ),
    )


CHARTS: dict[str, Chart] = {
    "one image": bars(1),
    "twelve long names": bars(12, name="{} " + LONG),
    "nothing at all": bars(2, zero=True),
    "pairs": Pairs(
        "libraries",
        "Libraries on disk",
        "MB",
        ("stock", "inference"),
        (("libtensorflow_cc", 1096.0, 682.0), ("a" * 34, 193.0, None), ("libz", None, 0.2)),
        (12.0, None),
    ),
    "one panel": curves(1, 2),
    "four panels": curves(4, 8),
    "a narrow range": curves(2, 3, spread=0.001),
    "a wide range": curves(2, 3, spread=4000.0),
    "two runs": trends(1, 2),
    "no bytes": StackedBars("bars", "Disk by cause", "GB", ("stock",), ()),
    "many runs": trends(8, 60),
}


def drawn_texts(chart: Chart) -> tuple[Bbox, list[tuple[Text, Bbox]]]:
    """Return the picture's frame, and every text on it with the place that it takes."""
    with plots.drawn(chart, plots.THEMES["light"]) as figure:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        found = [
            (text, text.get_window_extent(canvas.get_renderer()))
            for text in figure.findobj(Text)
            if isinstance(text, Text) and text.get_visible() and text.get_text().strip()
        ]
        hidden = {
            id(label)
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
            for label in (tick.label1, tick.label2)
        }
        return figure.bbox.frozen(), [(text, box) for text, box in found if id(text) not in hidden]


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_lies_on_another_or_leaves_the_picture(name: str) -> None:
    frame, texts = drawn_texts(CHARTS[name])
    assert len(texts) > 3
    for text, box in texts:
        assert frame.x0 - 1 <= box.x0 <= box.x1 <= frame.x1 + 1, text.get_text()
        assert frame.y0 - 1 <= box.y0 <= box.y1 <= frame.y1 + 1, text.get_text()
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        if one.get_rotation() or other.get_rotation():
            continue  # the box around slanted text is larger than the text
        over = Bbox.intersection(a, b)
        covered = over is not None and min(over.width, over.height) > 1.5
        assert not covered, (one.get_text(), other.get_text())


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_is_smaller_than_nine_points(name: str) -> None:
    _, texts = drawn_texts(CHARTS[name])
    assert min(text.get_fontsize() for text, _ in texts) >= 9


@pytest.mark.parametrize("name", ["one image", "pairs", "one panel", "two runs"])
def test_the_same_chart_gives_the_same_bytes(name: str) -> None:
    assert plots.svg(CHARTS[name], "dark") == plots.svg(CHARTS[name], "dark")
    assert plots.png(CHARTS[name], "light") == plots.png(CHARTS[name], "light")


def test_a_picture_needs_no_font_and_tells_no_date() -> None:
    text = plots.svg(bars(2), "light")
    root = ET.fromstring(text)
    tags = {element.tag.removeprefix(SVG) for element in root.iter() if SVG in str(element.tag)}
    assert tags <= {"svg", "metadata", "defs", "style", "g", "path", "use", "clipPath", "rect"}
    assert "<!--" not in text
    assert re.search(r"\b20\d\d-\d\d-\d\d", text) is None
    assert root.get("width") == "518.4pt"  # 7.2 inches: 720 pixels at 100 a comment's inch


def test_light_and_dark_differ_in_paper_and_ink_alone() -> None:
    ours = {colour for theme in plots.THEMES.values() for colour in vars(theme).values()}
    marks = r"|\bm[0-9a-f]{10}\b"  # names of marks, made from their style
    pattern = re.compile("|".join(sorted(ours)) + marks)
    light, dark = (pattern.sub("", plots.svg(bars(2), mode)) for mode in ("light", "dark"))
    assert light == dark


def test_no_two_images_have_one_name() -> None:
    same_end = ["a" * 40 + "/inference", "b" * 40 + "a" * 30 + "/inference", "stock"]
    names = charts.names_of(same_end)
    assert list(names) == same_end
    assert len(set(names.values())) == 3
    assert names["stock"] == "stock"


def test_pictures_in_a_page_have_names_of_their_own_and_the_page_s_colours() -> None:
    first = plots.inline_svg(bars(2))
    second = plots.inline_svg(curves(1, 2))
    names = [set(re.findall(r'\bid="([^"]*)"', text)) for text in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', first))
    assert used <= names[0]
    assert "var(--text)" in first
    assert "#010203" not in first


def test_hostile_names_are_drawn_as_they_are() -> None:
    for chart in render.make_report(records.hostile()).charts():
        text = plots.svg(chart, "light")
        ET.fromstring(text)
        for word in (
            "script",
            "onerror",
            "onload",
            "javascript",
            "evil",
            "<image",
            "foreignObject",
        ):
            assert word not in text, word


def test_every_chart_says_in_words_what_it_shows() -> None:
    for chart in render.make_report(records.full()).charts():
        assert chart.alt.startswith(chart.title)
        assert "inference" in chart.alt


def test_causes_add_up_to_the_image() -> None:
    size = records.full().sizes["stock"]
    parts = by_cause(size, ["90"])
    assert sum(parts.values()) == pytest.approx(size.disk_bytes, rel=1e-9)
    assert parts["gpu-own"] == size.disk_bytes // 16
    assert parts["gpu-other"] == size.disk_bytes // 16
    assert parts["gpu-portable"] == size.disk_bytes // 32


@pytest.mark.parametrize(
    ("arch", "gpus", "cause"),
    [
        ("sm_90", ["90"], "gpu-own"),
        ("sm_90a", ["9.0"], "gpu-own"),
        ("sm_80", ["86"], "gpu-own"),
        ("sm_86", ["80"], "gpu-other"),
        ("sm_80a", ["86"], "gpu-other"),
        ("sm_80", ["90"], "gpu-other"),
        ("sm_120", ["120", "90"], "gpu-own"),
        ("compute_90", ["90"], "gpu-portable"),
        ("lto_90", ["90"], "gpu-portable"),
        ("sm_90", [], "gpu"),
    ],
)
def test_gpu_code_counts_for_the_gpus_that_run_it(arch: str, gpus: list[str], cause: str) -> None:
    size = records.full().sizes["stock"]
    assert size.gpu is not None
    gpu = size.gpu.model_copy(update={"by_arch_bytes": {arch: 1000}})
    parts = by_cause(size.model_copy(update={"gpu": gpu}), gpus)
    assert parts[cause] == 1000


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("usr/lib/x86_64-linux-gnu/libcublasLt.so.12.4.5.8", "libcublasLt"),
        ("a/libcublasLt.so.12", "libcublasLt"),
        ("a/_pywrap.so", "_pywrap"),
        ("libnvrtc.alt.so.12", "libnvrtc.alt"),
        ("a/data.bin", "data.bin"),
    ],
)
def test_a_library_has_one_name_in_every_image(path: str, name: str) -> None:
    assert library_name(path) == name


def test_steps_of_a_start_follow_one_another() -> None:
    record = RunRecord.parse(records.of_version_1(), name="old")
    chart = charts.cold_start_bars(record)
    assert chart is not None
    assert [segment.label for segment in chart.segments] == [
        "create", "start", "interpreter", "imports, model, warm-up", "first answer",
    ]  # fmt: skip
    assert chart.total(0) == pytest.approx(4.02)


def test_cold_and_warm_page_cache_have_a_bar_each() -> None:
    chart = charts.cold_start_bars(records.full())
    assert chart is not None
    assert chart.rows == ("stock, cold", "stock, warm", "inference, cold", "inference, warm")
    assert "second answer" not in [segment.label for segment in chart.segments]
