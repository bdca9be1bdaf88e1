"""The record of one run: everything measured, as one versioned JSON document.

Units stand in the names. Raw samples are kept, so that any figure can be computed again; many of
them go into a file beside the record (`samples`). What it means, field by field: docs/record.md;
its JSON schema: docs/record.schema.json (`tfslim report --schema`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tfslim.bench.results import ColdStarts, HttpRun, InProcessRun, LoadgenRun
from tfslim.bench.run import Measurement
from tfslim.build.bake import BuiltImage
from tfslim.config import Budget
from tfslim.files import write_whole
from tfslim.images.described import GateResult, RuleRemoval
from tfslim.images.inspection import Inspection
from tfslim.pins.lockfile import parse_lock
from tfslim.report import reading, samples
from tfslim.report.machine import Environment, environment

__all__ = [
    "SCHEMA_VERSION",
    "BrokenBudget",
    "Environment",
    "ModelRecord",
    "Pins",
    "RunRecord",
    "broken_budgets",
    "environment",
    "merge",
    "now",
    "pins_of",
    "record_schema",
]

SCHEMA_VERSION: Literal[2] = 2


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelRecord(_Record):
    """The model that was served."""

    name: str
    source: str
    mode: Literal["bake", "mount"]
    disk_bytes: int
    dropped: dict[str, int]


class Pins(_Record):
    """The lock that an image's packages come from.

    Attributes:
        lock: Its name.
        sha256: Of its content.
        packages: Version by package. What an image really holds is in its `packages`.
    """

    lock: str
    sha256: str
    packages: dict[str, str]


class RunRecord(_Record):
    """One run of the whole line.

    A field that is added does not raise the version, and a reader passes over what it does not
    know; a field that changes its meaning does.

    Attributes:
        started: UTC, ISO 8601.
        model: What was served; None where nothing was.
        images: What was built, in the order of the plan.
        rebuilds: The same builds at once again, which shows what the cache is worth.
        sizes: What each image is made of, by subject: a variant's name or an image reference.
        measurements: Every launch of every image of `tfslim bench`.
        budgets: As configured, by variant or "default".
        cold_starts: What `tfslim bench --cold-start` measured.
        in_process: Calls in one process, without HTTP.
        http: Load over HTTP.
        loadgen: Scenarios driven by MLPerf's load generator.
        removals: What rules took out, by subject.
        parity: What the parity gate found, by subject.
        pins: The locks that packages come from, by subject.
        notes: What a reader has to know, one sentence each.
        others: Parts of the same run made elsewhere (`merge`): never compared with one another.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    started: datetime
    environment: Environment
    model: ModelRecord | None = None
    images: list[BuiltImage] = []
    rebuilds: list[BuiltImage] = []
    sizes: dict[str, Inspection] = {}
    measurements: list[Measurement] = []
    budgets: dict[str, Budget] = {}
    cold_starts: ColdStarts | None = None
    in_process: list[InProcessRun] = []
    http: list[HttpRun] = []
    loadgen: list[LoadgenRun] = []
    removals: dict[str, list[RuleRemoval]] = {}
    parity: dict[str, list[GateResult]] = {}
    pins: dict[str, Pins] = {}
    notes: list[str] = []
    others: list[RunRecord] = []

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a record and, where there is one, its file of samples.

        Raises:
            InputError: It is missing, of a newer version, or not a record.
        """
        return cls.parse(
            reading.read_file(path), name=str(path), beside=samples.beside_file(path.parent)
        )

    @classmethod
    def parse(
        cls, content: bytes, *, name: str, beside: samples.Beside = samples.nothing_beside
    ) -> RunRecord:
        """Read a record's bytes, as if anybody had written them.

        Args:
            content: The document.
            name: What messages call it.
            beside: Gives the files that lie beside it, for its samples.

        Raises:
            InputError: It is of a newer version, or not a record.
        """
        data = reading.parse(content, name)
        data = reading.migrated(data, name, SCHEMA_VERSION)
        data = samples.put_back(data, beside, name)
        return reading.validated(cls, data, name)

    def save(self, path: Path) -> list[Path]:
        """Write the record, and a file of samples beside it where there are many.

        Returns:
            What was written.
        """
        data, stored = samples.taken_out(self.model_dump(mode="json"), path.stem)
        written = [] if stored is None else [write_whole(path.with_name(stored.name), stored.data)]
        text = samples.dumps(data, indent=1) + "\n"
        return [write_whole(path, text), *written]

    @property
    def subjects(self) -> list[str]:
        """Everything that was measured, built first, each once, `others` included."""
        found: list[str] = [image.build.variant for image in self.images]
        found = [*found, *self.sizes, *(item.variant for item in self.measurements)]
        found += [item.subject for item in (self.cold_starts.launches if self.cold_starts else ())]
        found += [item.subject for item in self.in_process]
        found += [item.subject for item in self.http]
        found += [subject for other in self.others for subject in other.subjects]
        return list(dict.fromkeys(found))

    @property
    def parts(self) -> list[RunRecord]:
        """This record and the `others`: each was made on one machine."""
        return [self, *(part for other in self.others for part in other.parts)]

    def described(self) -> RunRecord:
        """Return the record with what the images say of themselves, taken out of their sizes."""
        sizes = {
            name: size.model_copy(update={"removals": [], "gates": []})
            for name, size in self.sizes.items()
        }
        removals = {name: size.removals for name, size in self.sizes.items() if size.removals}
        parity = {name: size.gates for name, size in self.sizes.items() if size.gates}
        return self.model_copy(
            update={
                "sizes": sizes,
                "removals": {**self.removals, **removals},
                "parity": {**self.parity, **parity},
            }
        )


def merge(records: Sequence[RunRecord]) -> RunRecord:
    """Join the records of one run that was spread over jobs or machines.

    Nothing is mixed: the first is the head, the rest are its `others`, each with its own machine.
    Budgets are those of all of them; where two differ, the first says.

    Raises:
        ValueError: There is none.
    """
    if not records:
        raise ValueError("there is no record to merge")
    parts = [part.model_copy(update={"others": []}) for record in records for part in record.parts]
    budgets: dict[str, Budget] = {}
    for part in reversed(parts):
        budgets |= part.budgets
    return parts[0].model_copy(update={"others": parts[1:], "budgets": budgets})


def pins_of(lock: Path) -> Pins:
    """Describe a lock.

    Raises:
        InputError: It is not a lock.
    """
    content = lock.read_bytes()
    locked = parse_lock(content.decode("utf-8", "replace"))
    return Pins(
        lock=lock.name,
        sha256=hashlib.sha256(content).hexdigest(),
        packages={name: item.version for name, item in sorted(locked.items())},
    )


def record_schema() -> dict[str, Any]:
    """Return the JSON schema of a record as it is written."""
    schema = RunRecord.model_json_schema(by_alias=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A run record of tfslim, version {SCHEMA_VERSION}",
        **samples.with_references(schema),
    }


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class BrokenBudget(_Record):
    """A measure over its limit, in bytes."""

    variant: str
    measure: Literal["pull", "disk"]
    actual_bytes: int
    limit_bytes: int


def broken_budgets(record: RunRecord) -> list[BrokenBudget]:
    """Return the size budgets that a run breaks (see `budgets.check` for all of them)."""
    broken = []
    for variant, budget in record.budgets.items():
        size = record.sizes.get(variant)
        if size is None:
            continue
        found: list[tuple[Literal["pull", "disk"], int | None, int | None]] = [
            ("pull", size.pull_bytes, budget.max_pull),
            ("disk", size.disk_bytes, budget.max_disk),
        ]
        broken += [
            BrokenBudget(variant=variant, measure=name, actual_bytes=actual, limit_bytes=limit)
            for name, actual, limit in found
            if actual is not None and limit is not None and actual > limit
        ]
    return broken
