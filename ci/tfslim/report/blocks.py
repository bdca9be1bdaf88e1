"""What a report says, before it is Markdown, a page or a terminal's text: plain data.

Every text in here has been through `inert.plain`; the renderers escape for their format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Block",
    "Chart",
    "Curve",
    "Curves",
    "Facts",
    "Pairs",
    "Panel",
    "Paragraph",
    "Report",
    "Section",
    "Segment",
    "StackedBars",
    "Status",
    "Table",
    "Trend",
    "Trends",
    "table",
]

# A figure begins with a digit or a sign; "–" and words stand where there is none.
_FIGURE = re.compile(r"[\d+−±~×–≤]|not a figure|not measured|gone|$")
Status = Literal["good", "bad", "unsure"]


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; `strong` stands before them, as a heading of its own in a section."""

    text: str
    strong: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text below a header.

    Attributes:
        header: Titles of the columns.
        rows: One text for each column.
        left: How many columns, from the left, hold names, whatever they look like.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    @property
    def figures(self) -> tuple[bool, ...]:
        """Which columns hold figures, and are set to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        return tuple(
            number >= self.left and all(_FIGURE.match(cell) for cell in cells)
            for number, cells in enumerate(columns)
        )


@dataclass(frozen=True)
class Facts:
    """Names and what is known of them, one a line."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Segment:
    """One part of every bar: a value for each row, and the colour it has everywhere."""

    label: str
    colour: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class StackedBars:
    """One bar a row, made of segments.

    Attributes:
        name: Name of the picture's file.
        title: What is shown, in a few words.
        unit: Unit of all values, such as "GB".
        rows: Names of the bars, from top to bottom.
        segments: From left to right.
        decimals: How many are shown.
    """

    name: str
    title: str
    unit: str
    rows: tuple[str, ...]
    segments: tuple[Segment, ...]
    decimals: int = 2

    def total(self, row: int) -> float:
        """Return the length of one bar."""
        return sum(segment.values[row] for segment in self.segments)

    @property
    def alt(self) -> str:
        """The picture in words."""
        bars = ", ".join(
            f"{row} {self.total(number):.{self.decimals}f} {self.unit}"
            for number, row in enumerate(self.rows)
        )
        return f"{self.title}: {bars}."


@dataclass(frozen=True)
class Pairs:
    """Two values a row, before and after; None where one is not known, 0 where nothing is left.

    Attributes:
        below: What a value that is not known is less than; None where nothing can be said.
    """

    name: str
    title: str
    unit: str
    labels: tuple[str, str]
    rows: tuple[tuple[str, float | None, float | None], ...]
    below: tuple[float | None, float | None] = (None, None)

    @property
    def alt(self) -> str:
        """The picture in words."""
        before, after = self.labels
        return (
            f"{self.title}: {before} and {after}, {len(self.rows)} libraries; the table has them."
        )


@dataclass(frozen=True)
class Curve:
    """One sample; `label` names the line."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Samples that may be compared."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Curves:
    """Distributions, one panel for each kind of load."""

    name: str
    title: str
    unit: str
    panels: tuple[Panel, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        names = sorted({curve.label for panel in self.panels for curve in panel.curves})
        return f"{self.title}: {', '.join(names)}; the table has the percentiles."


@dataclass(frozen=True)
class Trend:
    """One line over runs.

    Attributes:
        runs: Names of the runs, oldest first.
        values: None where a run did not measure it.
        changes: Positions at which the level changed.
    """

    label: str
    runs: tuple[str, ...]
    values: tuple[float | None, ...]
    changes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trends:
    """One measure over runs; one line for each image."""

    name: str
    title: str
    unit: str
    lines: tuple[Trend, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        changed = sum(len(line.changes) for line in self.lines)
        return f"{self.title}: {len(self.lines)} line(s), {changed} change(s) of level."


Chart = StackedBars | Pairs | Curves | Trends
Block = Paragraph | Table | Facts | StackedBars | Pairs | Curves | Trends


@dataclass(frozen=True)
class Section:
    """A folded part of the report.

    Attributes:
        key: Its name in addresses, such as "sizes".
        title: Its name for people.
        blocks: What it says.
        rank: Sections with the highest rank are dropped first where a comment would be too long.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    rank: int


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        marker: Name of this report among others in one conversation ("tfslim-report:MARKER").
        status: What the verdict's sign is.
        verdict: One sentence.
        alarms: What is behind a verdict that is not good, one sentence each.
        summary: The table.
        notes: What its columns mean, and what to know.
        sections: In the order of reading.
    """

    marker: str
    status: Status
    verdict: str
    alarms: tuple[str, ...]
    summary: Table
    notes: tuple[str, ...]
    sections: tuple[Section, ...]

    def charts(self) -> Iterator[Chart]:
        """Yield every chart, in order."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, StackedBars | Pairs | Curves | Trends):
                    yield block


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[Table]:
    """Yield a table, or nothing where it has no rows."""
    kept = tuple(tuple(row) for row in rows)
    if kept:
        yield Table(tuple(header), kept, left)
