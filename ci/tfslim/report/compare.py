"""A run beside an earlier one: what changed, by how much, and whether the samples support it.

Sizes may be compared across machines, times may not: those of another machine are shown and not
judged. A time is judged against `stock` of the same run where both runs have it, so that a machine
that is busier today raises no alarm; see docs/record.md.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tfslim.bench.stats import Ratio
from tfslim.report.measures import Unit

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
]

Verdict = Literal["better", "worse", "same", "inconclusive", "not compared"]
State = Literal["added", "removed", "changed", "same"]


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
        machine: Key of the machine of the new value.
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
    basis: Literal["size", "plain", "stock", "none"] = "none"
    adjusted: Ratio | None = None
    threshold: float = 0.0
    verdict: Verdict
    why: str = ""


class LayerChange(_Model):
    """One layer, matched by digest, else by the command that made it.

    Attributes:
        state: "changed": made by the same command, with other content.
        created_by: The command, or its beginning.
        digest: Now; empty where it was removed.
        baseline_digest: Then; empty where it was added.
        pull_bytes: Compressed, now; None where not known or removed.
        baseline_pull_bytes: Likewise, then.
        unpacked_bytes: Now; 0 where it was removed.
        baseline_unpacked_bytes: Then; 0 where it was added.
    """

    state: State
    created_by: str
    digest: str = ""
    baseline_digest: str = ""
    pull_bytes: int | None = None
    baseline_pull_bytes: int | None = None
    unpacked_bytes: int = 0
    baseline_unpacked_bytes: int = 0


class PackageChange(_Model):
    """One package that came, went, or changed its version or size; equal ones are left out.

    Attributes:
        kind: "python", "debian" or "group".
        version: Now; None where it is gone.
        baseline_version: Then; None where it is new.
        disk_bytes: Now.
        baseline_disk_bytes: Then.
    """

    state: State
    kind: str
    name: str
    version: str | None
    baseline_version: str | None
    disk_bytes: int
    baseline_disk_bytes: int


class LibraryChange(_Model):
    """One shared library that came, went, or changed its size; equal ones are left out."""

    state: State
    name: str
    path: str
    disk_bytes: int
    baseline_disk_bytes: int


class RuleChange(_Model):
    """What one rule took out, where it is not the same as before."""

    state: State
    rule: str
    removed_bytes: int
    baseline_removed_bytes: int


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
