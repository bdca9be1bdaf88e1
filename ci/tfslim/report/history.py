"""Many runs in a row: each measure as a series, with the points where it changed for good."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tfslim.errors import InputError
from tfslim.report.baseline import Records
from tfslim.report.measures import Measured, Unit, measures
from tfslim.report.reading import is_record
from tfslim.report.record import RunRecord
from tfslim.report.thresholds import threshold_for

__all__ = [
    "ALPHA",
    "ChangePoint",
    "History",
    "HistoryPoint",
    "HistorySeries",
    "change_points",
    "make_history",
    "sparkline",
]

ALPHA: Final = 0.01
"""Share of series without any change in which `change_points` finds one all the same."""

_PERMUTATIONS: Final = 1999
_SEED: Final = 17
_LEAST_POINTS: Final = 3  # on either side of a change
_LEAST_CHANGE: Final = 0.02  # relative; less is nobody's concern, however sure
_MAX_RECORDS: Final = 10_000
_FLAT: Final = 0.01
_BARS: Final = "▁▂▃▄▅▆▇█"


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
    """One measure of one subject on one machine, oldest first.

    Attributes:
        detail: Part of another measure, such as a phase of a start.
    """

    subject: str
    measure: str
    unit: Unit
    better: Literal["smaller", "larger"]
    machine: str
    device: str
    detail: bool = False
    points: list[HistoryPoint]
    changes: list[ChangePoint] = []


class History(_Model):
    """All series of a folder of records.

    Attributes:
        records: How many were read.
        skipped: File and reason of each that could not be; JSON that is no record is passed over.
    """

    schema_version: Literal[1] = 1
    records: int
    skipped: list[str] = []
    series: list[HistorySeries]


def make_history(records: Records, place: str) -> History:
    """Read all records of a place and return every measure as a series.

    Args:
        records: The files.
        place: What messages call the place.
    """
    skipped: list[str] = []
    runs: list[tuple[str, RunRecord]] = []
    for name in records.names[:_MAX_RECORDS]:
        if not is_record(records.read(name) or b""):
            continue
        try:
            runs.append((name, records.record(name, posixpath.join(place, name))))
        except InputError as error:
            reason = (error.why or error.what).splitlines()[0]
            skipped.append(f"{name}: {reason}")
    runs.sort(key=lambda run: (run[1].started, run[0]))
    found: dict[tuple[str, str, str, str], list[tuple[HistoryPoint, Measured]]] = {}
    for name, run in runs:
        for item in measures(run):
            found.setdefault(item.key, []).append((_point(name, run, item), item))
    series = [_series(entries) for entries in found.values()]
    return History(records=len(runs), skipped=skipped, series=series)


def change_points(values: Sequence[float]) -> list[tuple[int, float]]:
    """Find where a series of noisy values changed its level.

    The split is taken at which the mean ranks of both sides differ most; it counts if that
    difference is among the largest 1 % of those of shuffled series (a permutation test over the
    largest of all splits, so that trying many costs nothing). Then both sides are split likewise.
    It is the scheme of E-divisive means (Matteson and James, 2014, which MongoDB's and others'
    benchmarks use) with ranks in place of distances, so that one outlier moves nothing. In a
    series without a change one is found with probability `ALPHA`, as long as its values do not
    depend on each other. About a dozen points are needed to find any.

    Returns:
        First index of each new level with the p-value, in order.
    """
    return sorted(_split(np.asarray(values, dtype=float), 0))


def sparkline(values: Sequence[float]) -> str:
    """Return a line of bars, the smallest value lowest; what differs by less than 1 % is flat."""
    low, high = min(values), max(values)
    if high - low <= _FLAT * high:
        return _BARS[0] * len(values)
    return "".join(
        _BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in values
    )


def _split(values: NDArray[np.float64], offset: int) -> list[tuple[int, float]]:
    if len(values) < 2 * _LEAST_POINTS:
        return []
    ranks = _ranks(values)
    at, found = _largest(ranks[np.newaxis, :])
    random = np.random.default_rng(_SEED)
    shuffled = random.permuted(np.tile(ranks, (_PERMUTATIONS, 1)), axis=1)
    _, by_chance = _largest(shuffled)
    p_value = (1 + int(np.sum(by_chance >= found[0] - 1e-9))) / (1 + _PERMUTATIONS)
    if p_value > ALPHA:
        return []
    cut = int(at[0])
    return [
        (offset + cut, p_value),
        *_split(values[:cut], offset),
        *_split(values[cut:], offset + cut),
    ]


def _largest(ranks: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return, for each row, where both sides differ most, and by how much.

    The measure is the difference of mean ranks over its standard deviation at that split.
    """
    n = ranks.shape[1]
    cuts = np.arange(_LEAST_POINTS, n - _LEAST_POINTS + 1)
    left = np.cumsum(ranks, axis=1)[:, cuts - 1]
    expected = cuts * ranks.mean(axis=1, keepdims=True)
    score = np.abs(left - expected) / np.sqrt(cuts * (n - cuts) / n)
    best = np.argmax(score, axis=1)
    return cuts[best], score[np.arange(len(score)), best]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[inverse]


def _point(name: str, run: RunRecord, item: Measured) -> HistoryPoint:
    return HistoryPoint(
        source=name,
        started=run.started,
        commit=run.environment.source.commit,
        value=item.median,
        low=min(item.values),
        high=max(item.values),
        n=len(item.values),
    )


def _series(entries: Sequence[tuple[HistoryPoint, Measured]]) -> HistorySeries:
    item = entries[-1][1]
    points = [point for point, _ in entries]
    values = [point.value for point in points]
    cuts = _steps(values, item) if item.exact else change_points(values)
    return HistorySeries(
        subject=item.subject,
        measure=item.measure,
        unit=item.unit,
        better=item.better,
        machine=item.machine,
        device=item.device,
        detail=item.detail,
        points=points,
        changes=_changes(values, cuts, item),
    )


def _steps(values: Sequence[float], item: Measured) -> list[tuple[int, None]]:
    """Return where a size left its level: exact, so one run is enough; creeping adds up."""
    rule = threshold_for(item)
    steps: list[tuple[int, None]] = []
    level = values[0]
    for index, value in enumerate(values):
        if abs(value - level) > max(rule.change * level, rule.least_bytes):
            steps.append((index, None))
            level = value
    return steps


def _changes(
    values: Sequence[float], cuts: Sequence[tuple[int, float | None]], item: Measured
) -> list[ChangePoint]:
    """Describe changes by the levels between them, without those too small to care about."""
    ends = [0, *(index for index, _ in cuts), len(values)]
    levels = [float(np.median(values[start:end])) for start, end in pairwise(ends)]
    changes = []
    for number, (index, p_value) in enumerate(cuts):
        before, after = levels[number], levels[number + 1]
        if before > 0 and (item.exact or abs(after / before - 1) >= _LEAST_CHANGE):
            good = (after < before) == (item.better == "smaller")
            changes.append(
                ChangePoint(
                    index=index,
                    before=before,
                    after=after,
                    ratio=after / before,
                    kind="better" if good else "worse",
                    p_value=p_value,
                )
            )
    return changes
