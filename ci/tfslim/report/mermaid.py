"""Charts as Mermaid `xychart-beta`, which GitHub draws in a comment that can hold no picture.

Its bars lie one over the other and it has no legend: a stack is written as running sums, the
longest first, and the colours are those of the squares that the text below names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfslim.report.blocks import Chart, StackedBars, Trend, Trends
from tfslim.report.inert import mermaid_label

__all__ = ["SQUARES", "diagram", "legend"]

_MOST_BARS = 12
_MOST_SEGMENTS = 8
_MOST_RUNS = 12
SQUARES = ("🟦", "🟧", "🟩", "🟪", "🟨", "🟥", "🟫", "⬛")
_COLOURS = (
    "#3b82f6", "#f59e0b", "#22a06b", "#a855f7", "#eab308", "#dc2626", "#92400e", "#6b7280",
)  # fmt: skip


def diagram(chart: Chart) -> str | None:
    """Return the text of a diagram; None for a chart that Mermaid cannot draw."""
    if isinstance(chart, Trends):
        return _lines(chart)
    return _bars(chart) if isinstance(chart, StackedBars) and chart.rows else None


def _bars(chart: StackedBars) -> str | None:
    shown = _merged(chart)
    count = min(len(shown.rows), _MOST_BARS)
    sums = [0.0] * count
    bars = []
    for segment in shown.segments:
        sums = [total + segment.values[row] for row, total in enumerate(sums)]
        bars.append(f"  bar [{', '.join(_figure(total) for total in sums)}]")
    # The last sum is the longest bar: drawn first, it takes the last colour.
    colours = tuple(reversed(_COLOURS[: len(bars)]))
    names = [mermaid_label(row) for row in shown.rows[:count]]
    return _text(chart, colours, names, max(sums), bars[::-1], kind="xychart-beta horizontal")


def _lines(chart: Trends) -> str | None:
    """Return the lines that have a value for every run of the first one."""
    if not chart.lines:
        return None
    shown = _complete(chart)
    runs = [f'"{n + 1}"' for n in range(len(chart.lines[0].runs[-_MOST_RUNS:]))]
    values = [[value or 0.0 for value in line.values[-_MOST_RUNS:]] for line in shown]
    drawn = [f"  line [{', '.join(map(_figure, row))}]" for row in values]
    top = max((value for row in values for value in row), default=0.0)
    return _text(chart, _COLOURS[: len(drawn)], runs, top, drawn) if drawn else None


def _complete(chart: Trends) -> list[Trend]:
    whole = [line for line in chart.lines if line.runs == chart.lines[0].runs]
    return [line for line in whole if None not in line.values][: len(_COLOURS)]


def _text(
    chart: Chart,
    colours: Sequence[str],
    names: Sequence[str],
    top: float,
    drawn: Sequence[str],
    *,
    kind: str = "xychart-beta",
) -> str | None:
    if 0 < top < 0.0005:
        return None  # images of kilobytes in a chart of gigabytes: an axis from 0 to 0
    # Two places of one name would be one place.
    alike = [f'{name[:-1]} {n + 1}"' if name in names[:n] else name for n, name in enumerate(names)]
    palette = f"{{'xyChart': {{'plotColorPalette': '{', '.join(colours)}'}}}}"
    return "\n".join(
        [
            f"%%{{init: {{'themeVariables': {palette}}}}}%%",
            kind,
            f"  title {mermaid_label(chart.title, 60)}",
            f"  x-axis [{', '.join(alike)}]",
            f"  y-axis {mermaid_label(chart.unit)} 0 --> {_figure(top * 1.05 or 1.0)}",
            *drawn,
        ]
    )


def legend(chart: Chart) -> str:
    """Return what each colour means, and what the diagram leaves out."""
    if isinstance(chart, Trends):
        squares = zip(SQUARES, _complete(chart), strict=False)
        named = ", ".join(f"{square} {line.label}" for square, line in squares)
        runs = chart.lines[0].runs[-_MOST_RUNS:]
        return f"{named}; the last {len(runs)} runs, from {runs[0]} to {runs[-1]}"
    if not isinstance(chart, StackedBars):
        return ""
    segments = zip(SQUARES, _merged(chart).segments, strict=False)
    named = ", ".join(f"{square} {segment.label}" for square, segment in segments)
    left_out = len(chart.rows) - _MOST_BARS
    return f"{named}; {left_out} more below" if left_out > 0 else named


def _merged(chart: StackedBars) -> StackedBars:
    """Join the smallest neighbours at the end where there are more segments than colours."""
    if len(chart.segments) <= _MOST_SEGMENTS:
        return chart
    kept, rest = chart.segments[: _MOST_SEGMENTS - 1], chart.segments[_MOST_SEGMENTS - 1 :]
    joined = type(rest[0])(
        label=", ".join(segment.label for segment in rest),
        colour=rest[0].colour,
        values=tuple(sum(s.values[row] for s in rest) for row in range(len(chart.rows))),
    )
    return StackedBars(
        chart.name, chart.title, chart.unit, chart.rows, (*kept, joined), chart.decimals
    )


def _figure(value: float) -> str:
    """Return a number as the grammar knows it: fixed decimals, never "nan", "inf" or "1e9"."""
    if not math.isfinite(value) or value < 0:
        return "0.000"
    return f"{min(value, 1e9):.3f}"
