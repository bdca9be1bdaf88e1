"""Many runs in a row: each measure as a series, with the points where it changed for good."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tfslim.report.measures import Unit

__all__ = ["ChangePoint", "History", "HistoryPoint", "HistorySeries"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class HistoryPoint(_Model):
    """One run's value.

    Attributes:
        source: File that the run was read from.
        started: When the run was made, UTC.
        commit: What it measured; empty where it is not known.
        value: Median of its samples, in the series' unit.
        low: Smallest sample.
        high: Largest sample.
        n: Samples.
    """

    source: str
    started: datetime
    commit: str
    value: float
    low: float
    high: float
    n: int


class ChangePoint(_Model):
    """Where a series changed its level.

    Attributes:
        index: First point of the new level.
        before: Median of the points since the change before this one (or the beginning).
        after: Median of the points up to the next change (or the end).
        ratio: after / before.
        kind: "better" or "worse".
        p_value: Of the permutation test; None for sizes, which are exact.
    """

    index: int
    before: float
    after: float
    ratio: float
    kind: Literal["better", "worse"]
    p_value: float | None


class HistorySeries(_Model):
    """One measure of one subject on one machine, oldest first."""

    subject: str
    measure: str
    unit: Unit
    better: Literal["smaller", "larger"]
    machine: str
    device: str
    points: list[HistoryPoint]
    changes: list[ChangePoint] = []


class History(_Model):
    """All series of a folder of records.

    Attributes:
        records: How many were read.
        skipped: File and reason of each that was not.
    """

    schema_version: Literal[1] = 1
    records: int
    skipped: list[str] = []
    series: list[HistorySeries]
