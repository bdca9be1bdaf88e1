"""The verdict of a report: one sentence, and what else is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfslim.report import figures
from tfslim.report.blocks import Status
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import looks_worse
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord, broken_budgets
from tfslim.report.summary import Source, delta, measure_changes, own_subjects, parity_of

__all__ = ["verdict"]


def verdict(source: Source) -> tuple[Status, str, tuple[str, ...]]:
    """Return the sign, the verdict in one sentence, and what else is wrong, a sentence each."""
    bad = [*_broken(source), *_gates(source.record, ("failed",)), *_changed(source, "worse")]
    unsure = [
        *(_budget_unsure(b) for b in source.budgets if b.state == "inconclusive"),
        *_gates(source.record, ("inconclusive",)),
        *_changed(source, "inconclusive"),
    ]
    if bad:
        return "bad", bad[0], (*bad[1:], *unsure)
    if unsure:
        return "unsure", unsure[0], tuple(unsure[1:])
    parts = [_budgets_kept(source), _news(source) or "measured"]
    if not (source.budgets or source.record.budgets):
        parts.reverse()
    return "good", "; ".join(parts), ()


def _budgets_kept(source: Source) -> str:
    """Return what to say of budgets that none breaks."""
    if not source.budgets:
        return "within budgets" if source.record.budgets else "no budgets are set"
    missing = sum(item.state == "not measured" for item in source.budgets)
    return f"within budgets, {missing} of which not measured" if missing else "within budgets"


def _broken(source: Source) -> Iterator[str]:
    """Yield one sentence for each broken budget."""
    for item in source.budgets:
        if item.state == "broken":
            grew = "grew by " if item.budget.startswith("max-growth") else ""
            side = "under" if item.budget.startswith("min-") else "over"
            actual = figures.quantity(item.actual, item.unit)
            limit = figures.quantity(item.limit, item.unit)
            yield (
                f"{plain(item.subject, 40)}: {_measure_name(item)} {grew}{actual} is {side} its "
                f"{limit} budget ({plain(item.budget, 40)})"
            )
    if not source.budgets:
        for broken in broken_budgets(source.record):
            yield (
                f"{plain(broken.variant, 40)}: {broken.measure} {figures.size(broken.actual_bytes)}"
                f" is over its {figures.size(broken.limit_bytes)} budget"
            )


def _measure_name(item: BudgetResult) -> str:
    return plain(item.measure, 40) or "the measure"


def _budget_unsure(item: BudgetResult) -> str:
    actual = figures.quantity(item.actual, item.unit)
    return (
        f"{plain(item.subject, 40)}: the samples cannot tell whether {_measure_name(item)} {actual}"
        f" keeps its budget {plain(item.budget, 40)} of {figures.quantity(item.limit, item.unit)}"
    )


def _gates(record: RunRecord, outcomes: Sequence[str]) -> Iterator[str]:
    for part in record.parts:
        for subject in own_subjects(part):
            found = parity_of(part, subject)
            if found.partition(" ")[0] in outcomes:
                yield f"{plain(subject, 40)}: answers beside the packages before slimming: {found}"


def _changed(source: Source, wanted: str) -> Iterator[str]:
    for item in measure_changes(source):
        seems = wanted == "worse" or looks_worse(item)
        if item.verdict == wanted and seems:
            tell = "is worse" if wanted == "worse" else "may be worse, the samples cannot tell"
            now = figures.quantity(item.value, item.unit)
            yield (
                f"{plain(item.subject, 40)}: {plain(item.measure, 40)} {tell}: {now}, "
                f"{delta(item)} against {source.baseline}"
            )


def _news(source: Source) -> str:
    """Return what is best to know where nothing is wrong."""
    if source.compared:
        better = [item for item in measure_changes(source) if item.verdict == "better"]
        # Sizes first: they are exact.
        better.sort(key=lambda item: (item.basis != "size", item.measure not in ("pull", "disk")))
        if not better:
            return f"no worse than {source.baseline}"
        most = better[0]
        more = f", and {len(better) - 1} more better" if len(better) > 1 else ""
        return (
            f"{plain(most.subject, 40)}: {plain(most.measure, 40)} {delta(most)} against "
            f"{source.baseline}{more}"
        )
    return _smallest(source.record)


def _smallest(record: RunRecord) -> str:
    """Return how much the smallest image saves beside stock."""
    pulls = {name: s.pull_bytes for name, s in record.sizes.items() if s.pull_bytes}
    stock = pulls.pop("stock", None)
    if not pulls:
        return ""
    name, pull = min(pulls.items(), key=lambda item: item[1])
    beside = f", {(1 - pull / stock) * 100:.0f} % less than stock" if stock and stock > pull else ""
    return f"{plain(name, 40)} pulls {figures.size(pull)}{beside}"
