"""Budgets: limits that a person set, and what a run makes of them.

A limit on sizes is exact. A limit on a time or rate is broken, or kept, only where the interval of
the median says so; between the two it is inconclusive. What was not measured is said.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tfslim.bench.stats import MIN_LAUNCHES
from tfslim.config import Budget
from tfslim.report.contents import grouped, libraries_of
from tfslim.report.measures import YARDSTICK, Measured, Unit, measures
from tfslim.report.record import RunRecord

__all__ = ["BudgetResult", "BudgetState", "check_budgets"]

BudgetState = Literal["kept", "broken", "inconclusive", "not measured"]

_DEFAULT: Final = "default"
_RESAMPLES: Final = 2000
_SEED: Final = 13
_LISTED_BYTES: Final = 256 << 10  # libraries from this size on are listed in a record
# A start is what a user waits for: with files not in memory yet where that was measured.
_COLD_STARTS: Final = ("cold-start cold-cache", "cold-start warm-cache", "first-answer")
_RATES: Final = ("rate ", "http-rate ")


class BudgetResult(BaseModel):
    """One limit and what was measured against it.

    Attributes:
        subject: A variant's name.
        budget: The key in the configuration: "max-pull", "max-disk", "max-cold-start",
            "min-throughput", "max-growth (pull)", "max-growth (disk)", "library NAME".
        measure: What was measured: a name as in `measures.Measured`; empty where nothing was.
        unit: Of actual and limit.
        actual: Median; bytes of growth for a growth budget (0 for less than before); None where it
            was not measured.
        limit: The limit, in the same unit; for a growth in percent, that share of the baseline
            (0 where there is none).
        state: kept, broken, inconclusive or not measured.
        why: The reason where it is inconclusive or not measured.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    budget: str
    measure: str = ""
    unit: Unit
    actual: float | None
    limit: float
    state: BudgetState
    why: str = ""


@dataclass(frozen=True)
class _Limit:
    """A limit as it was set."""

    subject: str
    budget: str
    unit: Unit
    limit: float

    def result(self, state: BudgetState, **more: object) -> BudgetResult:
        return BudgetResult.model_validate(
            {
                "subject": self.subject,
                "budget": self.budget,
                "unit": self.unit,
                "limit": self.limit,
                "state": state,
                "actual": None,
                **more,
            }
        )

    def not_measured(self, why: str) -> BudgetResult:
        return self.result("not measured", why=why)


def check_budgets(record: RunRecord, baseline: RunRecord | None = None) -> list[BudgetResult]:
    """Hold a run against its budgets, in the order of its subjects.

    Args:
        record: The run; its budgets are those it was made with.
        baseline: What growth is measured from.
    """
    found = grouped(measures(record), lambda item: item.subject)
    before = None if baseline is None else grouped(measures(baseline), lambda item: item.subject)
    results: list[BudgetResult] = []
    for subject in dict.fromkeys([*record.subjects, *record.budgets]):
        budget = _budget_of(subject, record.budgets)
        if budget is not None:
            here = found.get(subject, [])
            then = None if before is None else before.get(subject, [])
            results += _absolute(subject, budget, here)
            results += _growth(subject, budget, here, then)
            results += _libraries(subject, budget, record)
    return results


def _budget_of(subject: str, budgets: dict[str, Budget]) -> Budget | None:
    """Return a subject's own limits, and the default's for what it does not set."""
    own = budgets.get(subject) if subject != _DEFAULT else None
    default = budgets.get(_DEFAULT) if subject not in (_DEFAULT, YARDSTICK) else None
    if own is None or default is None:
        return own or default
    given = {name: getattr(own, name) for name in Budget.model_fields}
    libraries = {**default.libraries, **own.libraries}
    update = {name: value for name, value in given.items() if value is not None}
    return default.model_copy(update={**update, "libraries": libraries})


def _absolute(subject: str, budget: Budget, here: Sequence[Measured]) -> Iterator[BudgetResult]:
    """Yield what comes of the limits on pull, disk, cold start and throughput."""
    for key, limit in (("max-pull", budget.max_pull), ("max-disk", budget.max_disk)):
        if limit is not None:
            size = _named(here, (key.removeprefix("max-"),))
            yield _at_most(_Limit(subject, key, "bytes", limit), size)
    if budget.max_cold_start is not None:
        start = _Limit(subject, "max-cold-start", "seconds", budget.max_cold_start)
        yield _at_most(start, _named(here, _COLD_STARTS))
    if budget.min_throughput is not None:
        rate = _Limit(subject, "min-throughput", "samples/s", budget.min_throughput)
        rates = [item for item in here if item.measure.startswith(_RATES)]
        yield _at_least(rate, max(rates, key=lambda item: item.median, default=None))


def _named(here: Sequence[Measured], names: Sequence[str]) -> Measured | None:
    """Return the first measure there is of several names; of several JIT caches the slowest."""
    for name in names:
        found = [item for item in here if f"{item.measure} ".startswith(f"{name} ")]
        if found:
            return max(found, key=lambda item: item.median)
    return None


def _at_most(limit: _Limit, item: Measured | None) -> BudgetResult:
    if item is None:
        return limit.not_measured("not measured in this run")
    low, high = _interval(item)
    state: BudgetState = "kept" if high <= limit.limit else "broken"
    if low <= limit.limit < high:
        state = "inconclusive"
    return _with_value(limit, state, item)


def _at_least(limit: _Limit, item: Measured | None) -> BudgetResult:
    if item is None:
        return limit.not_measured("not measured in this run")
    low, high = _interval(item)
    state: BudgetState = "kept" if low >= limit.limit else "broken"
    if low < limit.limit <= high:
        state = "inconclusive"
    return _with_value(limit, state, item)


def _with_value(limit: _Limit, state: BudgetState, item: Measured) -> BudgetResult:
    low, high = _interval(item)
    why = ""
    if state == "inconclusive":
        why = f"the median lies between {low:.4g} and {high:.4g} {item.unit}"
    return limit.result(state, measure=item.measure, actual=item.median, why=why)


def _interval(item: Measured) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median; the whole range of fewer than five."""
    if item.exact or len(item.values) < MIN_LAUNCHES:
        return min(item.values), max(item.values)
    random = np.random.default_rng(_SEED)
    drawn = random.choice(np.asarray(item.values), (_RESAMPLES, len(item.values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _growth(
    subject: str, budget: Budget, here: Sequence[Measured], before: Sequence[Measured] | None
) -> Iterator[BudgetResult]:
    """Yield what comes of the limit on growth, for pull and for disk."""
    if budget.max_growth is None:
        return
    for measure in ("pull", "disk"):
        item = _named(here, (measure,))
        then = _named(before or (), (measure,))
        allowed = _allowed(budget.max_growth, then)
        limit = _Limit(subject, f"max-growth ({measure})", "bytes", allowed)
        if item is None:
            yield limit.not_measured("not measured in this run")
        elif then is None:
            why = "no baseline was given" if before is None else "it is not in the baseline"
            yield limit.not_measured(why)
        else:
            grown = max(0.0, item.median - then.median)
            state: BudgetState = "broken" if grown > allowed else "kept"
            yield limit.result(state, measure=measure, actual=grown)


def _allowed(growth: int | str, then: Measured | None) -> float:
    """Return the bytes that an image may grow by: "2 %" is of the baseline."""
    if isinstance(growth, int):
        return growth
    share = float(growth.removesuffix("%")) / 100
    return share * then.median if then else 0.0


def _libraries(subject: str, budget: Budget, record: RunRecord) -> Iterator[BudgetResult]:
    """Yield what comes of the limits on single libraries; the largest of one name counts."""
    size = next((part.sizes[subject] for part in record.parts if subject in part.sizes), None)
    for name, allowed in budget.libraries.items():
        limit = _Limit(subject, f"library {name}", "bytes", allowed)
        if size is None:
            yield limit.not_measured("the image was not measured in this run")
            continue
        found = [
            item.disk_bytes for item in libraries_of(size) if posixpath.basename(item.path) == name
        ]
        if not found:
            yield _not_found(limit, listed=bool(size.libraries))
            continue
        state: BudgetState = "broken" if max(found) > allowed else "kept"
        yield limit.result(state, measure=f"library {name}", actual=max(found))


def _not_found(limit: _Limit, *, listed: bool) -> BudgetResult:
    """Return what comes of a limit on a library that is in no list of the image's libraries."""
    if listed and limit.limit >= _LISTED_BYTES:
        return limit.result("kept", actual=0, why="not in the image, or smaller than 256 KiB")
    known = "256 KiB" if listed else "the largest 25 files"
    return limit.not_measured(f"not in the image, or smaller than {known}")
