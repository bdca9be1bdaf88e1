"""The record of one run: everything measured, as one versioned JSON document.

Units stand in the names. Raw samples are kept, so that any figure can be computed again.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim import __version__
from tfslim.bench.run import Measurement
from tfslim.build.bake import BuiltImage
from tfslim.config import Budget, VariantName
from tfslim.engine.engine import Engine
from tfslim.errors import InputError
from tfslim.images.inspection import Inspection

__all__ = [
    "BrokenBudget",
    "Environment",
    "ModelRecord",
    "RunRecord",
    "broken_budgets",
    "environment",
    "now",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Environment(_Record):
    """Where a run was made."""

    tfslim: str
    machine: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    engine: dict[str, str]
    builder: str
    gpu: str


class ModelRecord(_Record):
    """The model that was served."""

    name: str
    source: str
    mode: Literal["bake", "mount"]
    disk_bytes: int
    dropped: dict[str, int]


class RunRecord(_Record):
    """One run of the whole line.

    Attributes:
        schema_version: Raised when a field changes its meaning.
        started: UTC, ISO 8601.
        images: What was built, in the order of the plan.
        rebuilds: The same builds at once again, which shows what the cache is worth.
        sizes: What each image is made of, by variant.
        measurements: Every launch of every image.
    """

    schema_version: Literal[1] = 1
    started: datetime
    environment: Environment
    model: ModelRecord
    images: list[BuiltImage]
    rebuilds: list[BuiltImage]
    sizes: dict[VariantName, Inspection]
    measurements: list[Measurement]
    budgets: dict[VariantName, Budget]

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a record.

        Raises:
            InputError: It is missing, or not a record that this version reads.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}", way_out="Make one with `tfslim bench`."
            ) from error
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
            ]
            raise InputError(
                f"{path} is not a run record of this version", why="\n".join(problems)
            ) from error


class BrokenBudget(_Record):
    """A measure over its limit, in bytes."""

    variant: VariantName
    measure: Literal["pull", "disk"]
    actual_bytes: int
    limit_bytes: int


def broken_budgets(record: RunRecord) -> list[BrokenBudget]:
    """Return the budgets that a run breaks. A measure that is not known breaks none."""
    broken = []
    for variant, budget in record.budgets.items():
        size = record.sizes.get(variant)
        if size is None:
            continue
        for measure, actual, limit in (
            ("pull", size.pull_bytes, budget.max_pull),
            ("disk", size.disk_bytes, budget.max_disk),
        ):
            if actual is not None and limit is not None and actual > limit:
                broken.append(
                    BrokenBudget(
                        variant=variant,
                        measure="pull" if measure == "pull" else "disk",
                        actual_bytes=actual,
                        limit_bytes=limit,
                    )
                )
    return broken


def environment(engine: Engine, gpu: str) -> Environment:
    """Describe this machine and its engine.

    Args:
        engine: The engine in use.
        gpu: The GPUs that were used, or why there is none.
    """
    return Environment(
        tfslim=__version__,
        machine=platform.machine(),
        kernel=platform.release(),
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        engine=engine.version_info(),
        builder=f"{engine.driver}: {engine.driver_reason}",
        gpu=gpu,
    )


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def _cpu_model() -> str:
    """Return the processor's name (proc(5))."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
