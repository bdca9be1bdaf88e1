"""A report for a terminal: what the comment says, in as many columns as there are.

rich leaves colours out where the output is no terminal or NO_COLOR is set. Text is put in as
`Text`, so that nothing in a record is read as rich's own markup.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from tfslim.report.blocks import Block, Facts, Paragraph, Report, StackedBars, Status, Table
from tfslim.report.markdown import SIGNS

__all__ = ["terminal"]

_STYLES: dict[Status, str] = {"good": "bold green", "bad": "bold red", "unsure": "bold yellow"}
_NARROW = 110  # columns below which the summary is written one image below the other
_BARS = ("█", "▓", "▒", "░", "▚", "=", "+", "·", "-")  # told apart without colours
_SHADES = ("blue", "cyan", "bright_cyan", "red", "yellow", "bright_yellow", "magenta", "green",
           "bright_black")  # fmt: skip


def terminal(report: Report, *, whole: bool = False) -> RenderableType:
    """Return the report for `Console.print`.

    Args:
        report: What to say.
        whole: Every section, not the verdict, the table and the notes alone.
    """
    parts: list[RenderableType] = [
        Text(f"{SIGNS[report.status]} {report.verdict}", style=_STYLES[report.status]),
        *(Text(f"  • {alarm}", style="red") for alarm in report.alarms),
        Text(),
        _Summary(report.summary),
        Text(),
        *(Text(note, style="dim") for note in report.notes),
    ]
    if whole:
        for section in report.sections:
            parts += [Text(), Text(section.title, style="bold underline")]
            for block in section.blocks:
                parts += [*_block(block), Text()]
    return Group(*parts)


class _Summary:
    """The table where there is room; else each image with its figures below it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= _NARROW:
            yield _table(self._table)
            return
        for row in self._table.rows:
            yield Text(row[0], style="bold")
            yield _facts(tuple(zip(self._table.header[1:], row[1:], strict=True)))


def _block(block: Block) -> Iterator[RenderableType]:
    if isinstance(block, Paragraph):
        text = Text(block.strong, style="bold")
        yield text.append(" " if block.strong else "").append(block.text, style="not bold")
    elif isinstance(block, Table):
        yield _table(block)
    elif isinstance(block, Facts):
        yield _facts(block.rows)
    elif isinstance(block, StackedBars):
        yield _Bars(block)


def _table(table: Table) -> RichTable:
    made = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title, figures in zip(table.header, table.figures, strict=True):
        made.add_column(Text(title), justify="right" if figures else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _facts(rows: tuple[tuple[str, str], ...]) -> RichTable:
    made = RichTable(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text(name), Text(value))
    return made


class _Bars:
    """Stacked bars of block characters, and what their shades mean."""

    def __init__(self, chart: StackedBars) -> None:
        self._chart = chart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        chart = self._chart
        named = max((len(row) for row in chart.rows), default=0)
        totals = [chart.total(row) for row in range(len(chart.rows))]
        room = max(options.max_width - named - 14, 10)
        scale = room / (max(totals, default=0.0) or 1.0)
        yield Text(f"{chart.title}, {chart.unit}", style="bold")
        for number, row in enumerate(chart.rows):
            text = Text(f"{row:{named}} ")
            begun = 0.0
            for index, segment in enumerate(chart.segments):
                ended = begun + segment.values[number]
                cells = round(ended * scale) - round(begun * scale)
                text.append(_BARS[index % len(_BARS)] * cells, style=_SHADES[index % len(_SHADES)])
                begun = ended
            yield text.append(f" {totals[number]:.{chart.decimals}f} {chart.unit}")
        meaning = Text()
        for index, segment in enumerate(chart.segments):
            meaning.append(_BARS[index % len(_BARS)], style=_SHADES[index % len(_SHADES)])
            meaning.append(f" {segment.label}  ")
        yield meaning
