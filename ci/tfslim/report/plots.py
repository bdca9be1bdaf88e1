"""The charts of a report as pictures, readable at the width of a comment, in light and dark.

matplotlib is imported when a picture is drawn, not before: most verbs draw none. The same chart
gives the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tfslim.report.blocks import Chart, Curves, Pairs, Panel, StackedBars, Trend, Trends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["THEMES", "Theme", "drawn", "inline_svg", "png", "svg"]

Mode = Literal["light", "dark"]

_WIDTH = 7.2  # inches; 720 pixels in a page, which is a comment's width
_PAGE_DPI = 100
_FILE_DPI = 200
_FONT = 9.5  # points; nothing is smaller than 9

# Okabe and Ito's colours, which people with any kind of colour vision tell apart, and tints of them
# for parts that belong together (https://jfly.uni-koeln.de/color/).
_COLOURS = {
    "gpu": "#004B7A",
    "gpu-own": "#0072B2",
    "gpu-other": "#56B4E9",
    "gpu-portable": "#B5DDF5",
    "host-tensorflow": "#D55E00",
    "host-cuda": "#E69F00",
    "host-rest": "#F5D48F",
    "headers": "#CC79A7",
    "python": "#009E73",
    "rest": "#9AA0A6",
}
_PHASES = {
    "create": "#9AA0A6",
    "start": "#F5D48F",
    "interpreter": "#56B4E9",
    "imports": "#0072B2",
    "imports, model, warm-up": "#0072B2",
    "gpu init": "#009E73",
    "model load": "#E69F00",
    "warm up": "#D55E00",
    "first answer": "#CC79A7",
}
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9AA0A6", "#8C6D1F")
_DASHES = ((0.0, ()), (0.0, (5, 2)), (0.0, (1, 1)), (0.0, (6, 2, 1, 2)))
_MOST_MARKS = 30  # runs of a history that are marked one by one
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Theme:
    """Colours that are not data: of paper, text and lines."""

    paper: str
    text: str
    soft: str
    grid: str


THEMES: dict[Mode, Theme] = {
    "light": Theme(paper="#ffffff", text="#1f2328", soft="#59636e", grid="#d1d9e0"),
    "dark": Theme(paper="#0d1117", text="#f0f6fc", soft="#a5b0bc", grid="#3d444d"),
}
# Colours that no data has: in a page they become the page's own (see `inline_svg`).
_PAGE = Theme(paper="none", text="#010203", soft="#010204", grid="#010205")


def svg(chart: Chart, mode: Mode) -> str:
    """Return a picture as SVG; text is drawn as shapes, so that no font is needed."""
    return _saved(chart, THEMES[mode], "svg").decode("utf-8")


def png(chart: Chart, mode: Mode) -> bytes:
    """Return a picture as PNG, sharp on fine screens."""
    return _saved(chart, THEMES[mode], "png")


def inline_svg(chart: Chart) -> str:
    """Return a picture to put into a page: without a prologue, and in the page's colours.

    The page defines the CSS variables `--text`, `--soft` and `--grid`.
    """
    drawn = _saved(chart, _PAGE, "svg").decode("utf-8")
    drawn = drawn[drawn.index("<svg") :]
    for colour, name in ((_PAGE.text, "text"), (_PAGE.soft, "soft"), (_PAGE.grid, "grid")):
        drawn = drawn.replace(colour, f"var(--{name})")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    # Shapes of letters have the same names in every picture; a page has each name once.
    return re.sub(r'(id="|href="#|url\(#)', rf"\1{chart.name}-", drawn)


@contextmanager
def drawn(chart: Chart, theme: Theme) -> Iterator[Figure]:
    """Draw a chart, in the style that holds within the context.

    Names come from records: a dollar sign in one is no formula, and a character without a shape
    in the font is a box, not a warning.
    """
    import matplotlib as mpl  # noqa: PLC0415 (slow to import, and not everybody draws)

    style: dict[Any, Any] = {
        "font.family": ["DejaVu Sans"],
        "font.size": _FONT,
        "text.parse_math": False,
        "svg.fonttype": "path",
        "svg.hashsalt": f"tfslim-{chart.name}",
        "text.color": theme.text,
        "axes.labelcolor": theme.soft,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": "none",
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.labelsize": _FONT,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": theme.soft,
        "ytick.color": theme.text,
        "xtick.labelsize": 9.0,
        "ytick.labelsize": _FONT,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 9.0,
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = _figure(chart, theme)
        figure.set_facecolor(theme.paper)
        yield figure


def _saved(chart: Chart, theme: Theme, form: Literal["svg", "png"]) -> bytes:
    out = io.BytesIO()
    with drawn(chart, theme) as figure:
        if form == "png":
            figure.savefig(out, format="png", dpi=_FILE_DPI, metadata={"Software": None})
            return out.getvalue()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # The text of each label stands in a comment beside its shapes: nobody needs it there.
    return re.sub(rb"\s*<!--.*?-->", b"", out.getvalue(), flags=re.DOTALL)


def _figure(chart: Chart, theme: Theme) -> Figure:
    if isinstance(chart, StackedBars):
        return _stacked(chart, theme)
    if isinstance(chart, Pairs):
        return _pairs(chart, theme)
    if isinstance(chart, Curves):
        return _curves(chart)
    return _trends(chart, theme)


def _empty(height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(_WIDTH, height), dpi=_PAGE_DPI, layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg]
    return figure


def _stacked(chart: StackedBars, theme: Theme) -> Figure:
    """Draw one horizontal bar a row, its total at its end, parts labelled where they have room."""
    legend_rows = math.ceil(len(chart.segments) / 3)
    figure = _empty(0.95 + 0.42 * len(chart.rows) + 0.21 * legend_rows)
    axes = figure.add_subplot()
    longest = max((chart.total(row) for row in range(len(chart.rows))), default=0.0) or 1.0
    start = [0.0] * len(chart.rows)
    for segment in chart.segments:
        colour = _COLOURS.get(segment.colour) or _PHASES.get(segment.label, "#9AA0A6")
        axes.barh(range(len(chart.rows)), segment.values, left=start, color=colour, height=0.66,
                  label=segment.label, edgecolor=theme.paper, linewidth=0.6)  # fmt: skip
        for row, value in enumerate(segment.values):
            if value / longest > 0.075:
                axes.text(start[row] + value / 2, row, f"{value:.{chart.decimals}f}", ha="center",
                          va="center", color=_ink(colour), fontsize=9)  # fmt: skip
        start = [left + value for left, value in zip(start, segment.values, strict=True)]
    for row, end in enumerate(start):
        axes.text(end + longest * 0.012, row, f"{end:.{chart.decimals}f} {chart.unit}",
                  va="center", fontweight="bold", fontsize=_FONT)  # fmt: skip
    axes.set_xlim(0, longest * 1.16)
    _rows(axes, chart.rows)
    axes.set_xlabel(chart.unit)
    axes.set_title(chart.title, fontweight="bold")
    if chart.segments:
        figure.legend(loc="outside lower left", ncols=3, handlelength=1.1, columnspacing=1.4,
                      handletextpad=0.5)  # fmt: skip
    return figure


def _pairs(chart: Pairs, theme: Theme) -> Figure:
    """Draw two thin bars a row; one that is not known is a line of text."""
    figure = _empty(1.15 + 0.44 * len(chart.rows))
    axes = figure.add_subplot()
    sides = ((0.19, _COLOURS["rest"], 1), (-0.19, _COLOURS["gpu-own"], 2))
    longest = max((v for row in chart.rows for v in row[1:] if v is not None), default=1.0) or 1.0
    for number, (shift, colour, field) in enumerate(sides):
        for row, values in enumerate(chart.rows):
            value = values[1] if field == 1 else values[2]
            axes.barh(row - shift, value or 0, color=colour, height=0.36,
                      label=chart.labels[number] if row == 0 else None)  # fmt: skip
            axes.text((value or 0) + longest * 0.01, row - shift,
                      _known(value, chart.below[number], chart.unit), va="center", fontsize=9,
                      color=theme.text if value is not None else theme.soft)  # fmt: skip
    axes.set_xlim(0, longest * 1.17)
    _rows(axes, [row[0] for row in chart.rows])
    axes.set_xlabel(chart.unit)
    axes.set_title(chart.title, fontweight="bold")
    figure.legend(loc="outside lower left", ncols=2, handlelength=1.1)
    return figure


def _curves(chart: Curves) -> Figure:
    """Draw the share of requests answered within a time, a panel for each kind of load."""
    columns = 1 if len(chart.panels) == 1 else 2
    rows = math.ceil(len(chart.panels) / columns)
    labels = list(dict.fromkeys(c.label for panel in chart.panels for c in panel.curves))
    legend_rows = math.ceil(len(labels) / 4)
    figure = _empty(0.75 + 2.35 * rows + 0.21 * legend_rows)
    for number, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _panel(axes, panel, labels, chart.unit)
        axes.set_ylabel("answered" if number % columns == 0 else "")
    figure.suptitle(chart.title + ": share of requests answered within a time", x=0.01,
                    ha="left", fontweight="bold", fontsize=10.5)  # fmt: skip
    _shared_legend(figure, labels)
    return figure


def _panel(axes: Axes, panel: Panel, labels: Sequence[str], unit: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415

    for curve in panel.curves:
        index = labels.index(curve.label)
        count = len(curve.values)
        shares = [(n + 1) / count for n in range(count)]
        axes.step(curve.values, shares, where="post", color=_LINES[index % len(_LINES)],
                  linestyle=_DASHES[index % len(_DASHES)], linewidth=1.8)  # fmt: skip
    low = min(curve.values[0] for curve in panel.curves)
    high = max(curve.values[-1] for curve in panel.curves)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.08, high * 1.08)
    axes.xaxis.set_major_locator(FixedLocator(_round_marks(low / 1.08, high * 1.08)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks([0, 0.5, 0.9, 1], ["0", "50 %", "90 %", "100 %"])
    axes.tick_params(axis="y", labelsize=9)
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True)
    axes.set_xlabel(unit)
    axes.set_title("\n".join(textwrap.wrap(panel.title, 44)), fontsize=9.5)


def _trends(chart: Trends, theme: Theme) -> Figure:
    """Draw each line over its runs; a ring and a dashed line where its level changed."""
    legend_rows = math.ceil(len(chart.lines) / 3)
    figure = _empty(3.4 + 0.21 * legend_rows)
    axes = figure.add_subplot()
    runs = list(dict.fromkeys(run for line in chart.lines for run in line.runs))
    for index, line in enumerate(chart.lines):
        _trend(axes, line, runs, index, theme)
    shown = _spread(len(runs), 8)
    axes.set_xticks(shown, [runs[n] for n in shown], rotation=30, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axes.set_xlim(-0.5, max(len(runs) - 0.5, 0.5))
    highest = max((v for line in chart.lines for v in line.values if v is not None), default=1.0)
    axes.set_ylim(0, highest * 1.1 or 1.0)
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(visible=True, axis="y")
    axes.set_ylabel(chart.unit)
    axes.set_title(chart.title, fontweight="bold")
    labels = [line.label for line in chart.lines]
    _shared_legend(figure, labels, markers=len(runs) <= _MOST_MARKS, columns=3)
    return figure


def _trend(axes: Axes, line: Trend, runs: Sequence[str], index: int, theme: Theme) -> None:
    colour = _LINES[index % len(_LINES)]
    known = [(runs.index(r), v) for r, v in zip(line.runs, line.values, strict=True)
             if v is not None]  # fmt: skip
    mark = _MARKERS[index % len(_MARKERS)] if len(runs) <= _MOST_MARKS else ""
    axes.plot([x for x, _ in known], [y for _, y in known], color=colour, linewidth=1.8,
              linestyle=_DASHES[index % len(_DASHES)], marker=mark, markersize=4.5)  # fmt: skip
    for change in line.changes:
        value = line.values[change]
        if value is not None:
            place = runs.index(line.runs[change])
            axes.axvline(place - 0.5, color=theme.soft, linewidth=0.9, linestyle=(0, (3, 3)))
            axes.plot([place], [value], marker="o", markersize=11, markerfacecolor="none",
                      markeredgecolor=colour, markeredgewidth=1.6)  # fmt: skip


def _shared_legend(
    figure: Figure, labels: Sequence[str], *, markers: bool = False, columns: int = 4
) -> None:
    """Draw one legend for all panels, below them."""
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D(
            [],
            [],
            color=_LINES[index % len(_LINES)],
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=1.8,
            marker=_MARKERS[index % len(_MARKERS)] if markers else "",
            markersize=4.5,
        )
        for index in range(len(labels))
    ]
    figure.legend(handles, labels, loc="outside lower left", ncols=columns,
                  handlelength=2.6, columnspacing=1.4)  # fmt: skip


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name horizontal bars, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _known(value: float | None, below: float | None, unit: str) -> str:
    if value is not None:
        return f"{value:.{0 if value >= 10 else 1}f} {unit}"
    return "gone or not listed" if below is None else f"gone, or below {below:.0f} {unit}"


def _ink(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour (WCAG's luminance)."""
    red, green, blue = (_linear(int(colour[n : n + 2], 16) / 255) for n in (1, 3, 5))
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def _round_marks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones, far enough apart on a logarithmic axis."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    apart = math.log10(high / low) / 6.5
    marks: list[float] = []
    for steps in ((1,), (2, 5), (3, 7), (1.5, 4), (2.5, 6, 8)):
        for mark in (step * 10.0**exponent for exponent in exponents for step in steps):
            if low <= mark <= high and all(abs(math.log10(mark / m)) >= apart for m in marks):
                marks.append(mark)
    return sorted(marks) or [float(f"{math.sqrt(low * high):.2g}")]


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many positions out of a row, the last one included."""
    step = max(math.ceil(count / most), 1)
    return sorted({*range(count - 1, -1, -step)})
