"""A run beside an earlier one: what changed, by how much, and whether the samples support it.

Sizes are compared wherever they were measured. Times of another machine are shown and not judged.
Two runs on one machine did not take turns: one may have had a busier machine. So a time is judged
against `stock` of the same run where both runs have it; see docs/record.md ("Comparing").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from tfslim.bench.stats import MIN_LAUNCHES, Ratio, ratio_of_medians
from tfslim.config import Threshold
from tfslim.images.inspection import Inspection
from tfslim.report.contents import (
    LayerChange,
    LibraryChange,
    PackageChange,
    RuleChange,
    State,
    grouped,
    layer_changes,
    library_changes,
    package_changes,
    rule_changes,
)
from tfslim.report.measures import YARDSTICK, Measured, Unit, measures
from tfslim.report.record import RunRecord
from tfslim.report.thresholds import threshold_for

__all__ = [
    "BaselineInfo",
    "Comparison",
    "LayerChange",
    "LibraryChange",
    "MeasureChange",
    "PackageChange",
    "RuleChange",
    "SubjectChange",
    "Verdict",
    "compare",
    "looks_worse",
    "parity_of",
]

_Value = TypeVar("_Value")
Basis = Literal["size", "plain", "stock", "none"]
Verdict = Literal["better", "worse", "same", "inconclusive", "not compared"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class BaselineInfo(_Model):
    """The run that is compared with.

    Attributes:
        source: As it was named: a path, `git:REF:PATH`.
        found: False where there is none; then nothing is compared, and `note` says why.
        note: What a reader has to know of it.
        started: When that run was made.
        commit: The commit it measured; empty where it is not known.
        machine: Key of its machine.
        tfslim: Version that made it.
    """

    source: str
    found: bool
    note: str = ""
    started: datetime | None = None
    commit: str = ""
    machine: str = ""
    tfslim: str = ""


class MeasureChange(_Model):
    """One measure of one subject, now and in the baseline.

    Attributes:
        subject: A variant's name, or an image reference.
        measure: Name as in `measures.Measured`.
        unit: Of the values and of `delta`.
        better: Which way is good.
        machine: Key of the machine of the new value; empty for sizes.
        device: "CPU" or the GPUs; empty for sizes.
        value: Median now.
        low: Smallest sample now.
        high: Largest sample now.
        n: Samples now.
        baseline: Median then; None where it was not measured.
        baseline_n: Samples then.
        delta: value - baseline, in `unit`.
        ratio: value / baseline with its 95 % interval (low = value = high for a size).
        basis: What the verdict rests on: "size"; "plain" (ratio); "stock" (the ratio to stock of
            the same run, now over then, in `adjusted`); "none" where nothing is judged.
        adjusted: That ratio; None without stock in both runs.
        threshold: Relative change from which on it counts (0.05: 5 %).
        verdict: better, worse, same, inconclusive or not compared.
        why: The reason where the verdict is inconclusive or not compared.
    """

    subject: str
    measure: str
    unit: Unit
    better: Literal["smaller", "larger"]
    machine: str
    device: str
    value: float
    low: float
    high: float
    n: int
    baseline: float | None = None
    baseline_n: int = 0
    delta: float | None = None
    ratio: Ratio | None = None
    basis: Basis = "none"
    adjusted: Ratio | None = None
    threshold: float = 0.0
    verdict: Verdict
    why: str = ""


class SubjectChange(_Model):
    """Everything about one subject.

    Attributes:
        subject: A variant's name, or an image reference.
        state: "added": not in the baseline; "removed": not in this run (then the lists are empty).
        measures: Every measure of this run, judged; sizes first.
        layers: In the order of the image, removed ones last; equal ones too.
        packages: Largest change first.
        libraries: Largest change first.
        removals: Largest change first.
        parity: Worst outcome of the parity gate now ("passed", "failed", "inconclusive", "off",
            "not asked", "not measured").
        baseline_parity: Likewise, then.
    """

    subject: str
    state: State
    measures: list[MeasureChange] = []
    layers: list[LayerChange] = []
    packages: list[PackageChange] = []
    libraries: list[LibraryChange] = []
    removals: list[RuleChange] = []
    parity: str = "not measured"
    baseline_parity: str = "not measured"


class Comparison(_Model):
    """A run beside its baseline.

    Attributes:
        same_machine: Whether times could be judged at all.
        verdict: "worse" if any measure is; else "inconclusive" if one looks worse and the samples
            cannot tell; else "better" if any is; else "same"; "not compared" without a baseline.
        subjects: In the order of the run, removed ones last.
        notes: What a reader has to know, one sentence each.
    """

    schema_version: Literal[1] = 1
    baseline: BaselineInfo
    same_machine: bool
    verdict: Verdict
    subjects: list[SubjectChange]
    notes: list[str] = []


_RESAMPLES = 4000
_SEED = 11
_NOT_SAME_LOAD = 1.5  # difference of load average per processor that a reader should know of
_OUTCOMES = ("not measured", "passed", "not asked", "off", "inconclusive", "failed")


def compare(
    record: RunRecord,
    baseline: RunRecord | None,
    info: BaselineInfo,
    thresholds: Sequence[Threshold] = (),
) -> Comparison:
    """Put a run beside its baseline.

    Args:
        record: The run.
        baseline: The run to compare with; None where there is none.
        info: What is known of the baseline.
        thresholds: From which change on a measure counts; the last that fits is taken.
    """
    if baseline is None:
        return Comparison(
            baseline=info,
            same_machine=False,
            verdict="not compared",
            subjects=[],
            notes=[info.note],
        )
    then = grouped(measures(baseline), lambda old: old.key[:2])
    judged = [
        _judged(item, then.get(item.key[:2], []), thresholds)
        for item in measures(record)
        if not item.detail
    ]
    changes = grouped(judged, lambda change: change.subject)
    names = dict.fromkeys(record.subjects)
    subjects = [_subject(name, record, baseline, changes.get(name, [])) for name in names]
    gone = [name for name in baseline.subjects if name not in names]
    subjects += [SubjectChange(subject=name, state="removed") for name in gone]
    machines = [
        {part.environment.machine_key for part in side.parts} for side in (record, baseline)
    ]
    return Comparison(
        baseline=info,
        same_machine=bool(machines[0] & machines[1]),
        verdict=_overall([item for subject in subjects for item in subject.measures]),
        subjects=subjects,
        notes=[info.note] * bool(info.note) + _notes(record, baseline, machines[0] & machines[1]),
    )


@dataclass(frozen=True)
class _Pair:
    """One measure, now and then.

    Attributes:
        now: Of this run.
        then: Of the baseline: of this machine and device if it has that, else of another; None
            where it has neither.
        threshold: From which change on it counts.
    """

    now: Measured
    then: Measured | None
    threshold: Threshold

    @cached_property
    def ratio(self) -> Ratio | None:
        """Now over then."""
        return ratio_of_medians(self.now.values, self.then.values) if self.then else None

    @cached_property
    def adjusted(self) -> Ratio | None:
        """The ratio to stock, now over then."""
        return _against_stock(self.now, self.then) if self.then else None

    @property
    def not_compared(self) -> str:
        """Why nothing is judged; empty where something is."""
        if self.then is None:
            return "not in the baseline"
        if self.now.machine != self.then.machine:
            return "the baseline is of another machine"
        if self.now.device != self.then.device:
            return "the baseline is of another device"
        if self.now.unit != "bytes" and self.now.subject == YARDSTICK:
            return "the others are held against it"
        return "" if self.ratio or self.now.exact else "the baseline is not a positive number"


def _judged(
    item: Measured, same: Sequence[Measured], thresholds: Sequence[Threshold]
) -> MeasureChange:
    """Judge one measure against the same of the baseline, on whatever machines it was made."""
    then = next((old for old in same if old.key == item.key), next(iter(same), None))
    pair = _Pair(item, then, threshold_for(item, thresholds))
    basis, verdict, why = _verdict(pair)
    return MeasureChange(
        subject=item.subject,
        measure=item.measure,
        unit=item.unit,
        better=item.better,
        machine=item.machine,
        device=item.device,
        value=item.median,
        low=min(item.values),
        high=max(item.values),
        n=len(item.values),
        baseline=then.median if then else None,
        baseline_n=len(then.values) if then else 0,
        delta=item.median - then.median if then else None,
        ratio=pair.ratio,
        basis=basis,
        adjusted=pair.adjusted,
        threshold=pair.threshold.change,
        verdict=verdict,
        why=why,
    )


def _verdict(pair: _Pair) -> tuple[Basis, Verdict, str]:
    """Return what the verdict rests on, the verdict, and the reason where there is none."""
    now, then = pair.now, pair.then
    if pair.not_compared or then is None:
        return "none", "not compared", pair.not_compared
    if now.exact:
        return "size", _size_verdict(now, then, pair.threshold), ""
    basis: Basis = "stock" if pair.adjusted else "plain"
    judged = pair.adjusted or pair.ratio
    fewest = min(len(now.values), len(then.values))
    if judged is None or fewest < MIN_LAUNCHES:
        return basis, "inconclusive", f"{fewest} launches; {MIN_LAUNCHES} are needed"
    verdict, why = _interval_verdict(judged, now.better, pair.threshold.change)
    return basis, verdict, why


def _size_verdict(item: Measured, old: Measured, threshold: Threshold) -> Verdict:
    delta = item.median - old.median
    if abs(delta) <= max(threshold.change * old.median, threshold.least_bytes):
        return "same"
    return "worse" if delta > 0 else "better"


def _interval_verdict(
    ratio: Ratio, better: Literal["smaller", "larger"], change: float
) -> tuple[Verdict, str]:
    """Judge a ratio by its whole interval, so that one unlucky run raises no alarm."""
    least, most = 1 / (1 + change), 1 + change
    if least <= ratio.low and ratio.high <= most:
        return "same", ""
    if ratio.low > most:
        return ("worse" if better == "smaller" else "better"), ""
    if ratio.high < least:
        return ("better" if better == "smaller" else "worse"), ""
    return "inconclusive", f"the interval {ratio.low:.2f}–{ratio.high:.2f} is too wide to tell"


def _against_stock(item: Measured, old: Measured) -> Ratio | None:
    """Return the ratio to stock, now over then; None unless both took turns with enough of it.

    All four sides are resampled (percentile bootstrap, fixed seed), so the interval holds what
    stock adds to the uncertainty.
    """
    if item.key != old.key or min(len(item.yardstick), len(old.yardstick)) < MIN_LAUNCHES:
        return None
    sides = (item.values, item.yardstick, old.values, old.yardstick)
    if min(map(np.median, sides)) <= 0:
        return None
    random = np.random.default_rng(_SEED)
    drawn = [
        np.median(random.choice(np.asarray(side), (_RESAMPLES, len(side))), axis=1)
        for side in sides
    ]
    ratios = _double_ratio(*drawn)
    low, high = np.quantile(ratios, [0.025, 0.975])
    value = _double_ratio(*(np.median(side) for side in sides))
    return Ratio(value=float(value), low=float(low), high=float(high))


def _double_ratio(now: Any, now_stock: Any, then: Any, then_stock: Any) -> Any:
    return (now / now_stock) / (then / then_stock)


def _overall(changes: Sequence[MeasureChange]) -> Verdict:
    """Return the verdict on a whole run; see `Comparison`."""
    judged = [item for item in changes if item.verdict != "not compared"]
    found = {item.verdict for item in judged}
    if "worse" in found:
        return "worse"
    if any(item.verdict == "inconclusive" and looks_worse(item) for item in judged):
        return "inconclusive"
    return "better" if "better" in found else "same" if judged else "not compared"


def looks_worse(change: MeasureChange) -> bool:
    """True where the middle of the interval is beyond the threshold, on the bad side."""
    ratio = change.adjusted or change.ratio
    if ratio is None:
        return False
    if change.better == "smaller":
        return ratio.value > 1 + change.threshold
    return ratio.value < 1 / (1 + change.threshold)


def _subject(
    name: str, record: RunRecord, baseline: RunRecord, changes: list[MeasureChange]
) -> SubjectChange:
    """Return everything about one subject of a run."""
    sizes = [_first(name, [part.sizes for part in side.parts]) for side in (record, baseline)]
    gone, gone_then = (
        _first(name, [part.removals for part in side.parts]) for side in (record, baseline)
    )
    new, old = sizes
    contents: dict[str, Any] = {}
    if new is not None and old is not None:
        contents = {
            "layers": layer_changes(new, old),
            "packages": package_changes(new, old),
            "libraries": library_changes(new, old),
        }
    if gone is not None and gone_then is not None:
        contents["removals"] = rule_changes(gone, gone_then)
    there = name in baseline.subjects
    equal = new is not None and old is not None and _digests(new) == _digests(old)
    return SubjectChange(
        subject=name,
        state="same" if equal else "changed" if there else "added",
        measures=changes,
        parity=parity_of(record, name),
        baseline_parity=parity_of(baseline, name),
        **contents,
    )


def parity_of(record: RunRecord, subject: str) -> str:
    """Return the worst of what the parity gate said of a subject."""
    found = _first(subject, [part.parity for part in record.parts]) or []
    outcomes = [gate.outcome if gate.outcome in _OUTCOMES else "inconclusive" for gate in found]
    # "passed" beats "not asked": the zoo is not asked in an image for one model.
    asked = [item for item in outcomes if item != "not asked"] or outcomes
    return max(asked, key=_OUTCOMES.index, default=_OUTCOMES[0])


def _digests(size: Inspection) -> list[str]:
    return [layer.digest for layer in size.layers] or [str(size.disk_bytes), str(size.files)]


def _first(name: str, mappings: Sequence[Mapping[str, _Value]]) -> _Value | None:
    return next((mapping[name] for mapping in mappings if name in mapping), None)


def _notes(record: RunRecord, baseline: RunRecord, shared: set[str]) -> list[str]:
    """Return what a reader of a comparison has to know."""
    notes = []
    if not shared:
        notes.append("Another machine made the baseline: sizes are compared, times are not judged.")
    loads = [_load(side) for side in (record, baseline)]
    if shared and None not in loads and abs(loads[0] - loads[1]) > _NOT_SAME_LOAD:  # type: ignore[operator]
        notes.append(
            f"The machine was not as busy: {loads[0]:.1f} processes for each processor now, "
            f"{loads[1]:.1f} in the baseline."
        )
    if any(size.pull_bytes_source == "estimated" for size in baseline.sizes.values()):
        notes.append("Pull sizes of the baseline are estimates.")
    return notes


def _load(record: RunRecord) -> float | None:
    load, cpus = record.environment.load_average, record.environment.cpus
    return None if load is None or not cpus else load / cpus
