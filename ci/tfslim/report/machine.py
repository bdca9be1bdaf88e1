"""Where a run was made: machine, engine, commit and CI job, as far as each is known."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from tfslim import __version__, proc
from tfslim.engine.engine import Engine
from tfslim.gpu import find_gpus

__all__ = ["CiRun", "Environment", "GpuDevice", "Source", "environment"]

_GIB = 2**30
_SECONDS = 10.0  # for git to answer
# A stable name that a person gives to a kind of machine ("github-ubuntu-latest").
_KEY_VARIABLE = "TFSLIM_MACHINE"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class GpuDevice(_Record):
    """One GPU, as its driver names it."""

    name: str
    compute_capability: str = ""
    memory_bytes: int = 0
    driver: str = ""


class Source(_Record):
    """The state of the repository that was measured.

    Attributes:
        commit: Full hash; empty outside of a repository.
        ref: Branch or tag, as far as known.
        changed: Whether files under version control differed from the commit.
    """

    commit: str = ""
    ref: str = ""
    changed: bool = False


class CiRun(_Record):
    """The job of a CI service, where there is one."""

    provider: str
    repository: str
    url: str


class Environment(_Record):
    """Where a run was made.

    Attributes:
        tfslim: Version that made the record.
        machine: Processor architecture ("x86_64").
        kernel: Release of the running kernel.
        cpu: Name of the processor.
        cpus: Processors that this process could use.
        memory_bytes: Of the machine.
        engine: Versions of the engine's parts.
        builder: Buildx driver, and why that one.
        gpu: The GPUs that were used, or why none was.
        gpus: The GPUs that the machine has.
        machine_key: Equal for machines whose times may be compared: processor, number of
            processors, memory in GiB, GPUs; or what TFSLIM_MACHINE says.
        load_average: Of the last minute when the record was begun; None where it is not known.
        source: What was measured, if it lies in a git repository.
        ci: The CI job; None outside of one.
    """

    tfslim: str
    machine: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    engine: dict[str, str]
    builder: str
    gpu: str
    gpus: tuple[GpuDevice, ...] = ()
    machine_key: str = ""
    load_average: float | None = None
    source: Source = Source()
    ci: CiRun | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_key(cls, data: Any) -> Any:
        """Give a record of version 1, or one made by hand, the key that its machine has."""
        if isinstance(data, Mapping) and not data.get("machine_key"):
            return {**data, "machine_key": _key_of(data)}
        return data


class _Facts(BaseModel):
    """The part of an environment that its key is made of."""

    machine: str
    cpu: str
    cpus: int
    memory_bytes: int
    gpu: str = ""
    gpus: tuple[GpuDevice, ...] = ()


def _key_of(data: Mapping[str, Any]) -> str:
    facts = _Facts.model_validate(dict(data))
    names = sorted(gpu.name for gpu in facts.gpus)
    if not names and facts.gpu and not facts.gpu.startswith("not measured"):
        names = [facts.gpu]  # version 1: "NVIDIA H200 (driver 550.54); a CDI specification: …"
    memory = f"{round(facts.memory_bytes / _GIB)} GiB"
    return ", ".join([facts.machine, f"{facts.cpus} × {facts.cpu}", memory, *names])


def environment(engine: Engine | None, gpu: str) -> Environment:
    """Describe this machine, its engine and what is measured on it.

    Args:
        engine: The engine in use; None where unpacked images were run without one.
        gpu: The GPUs that were used, or why there is none.
    """
    return Environment(
        tfslim=__version__,
        machine=platform.machine(),
        kernel=platform.release(),
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        engine=engine.version_info() if engine else {},
        builder=f"{engine.driver}: {engine.driver_reason}" if engine else "none",
        gpu=gpu,
        gpus=tuple(
            GpuDevice(
                name=found.name,
                compute_capability=found.compute_capability,
                memory_bytes=found.memory_bytes,
                driver=found.driver,
            )
            for found in find_gpus().gpus
        ),
        machine_key=os.environ.get(_KEY_VARIABLE, "").strip(),
        load_average=_load_average(),
        source=find_source(Path()),
        ci=find_ci(os.environ),
    )


def find_source(folder: Path) -> Source:
    """Ask git for the commit that a folder is at; nothing known where there is none."""

    def git(*arguments: str) -> str:
        done = proc.run(["git", "-C", str(folder), *arguments], timeout=_SECONDS)
        return done.stdout.strip() if done.ok else ""

    commit = git("rev-parse", "--verify", "HEAD")
    if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
        return Source()
    branch = git("rev-parse", "--abbrev-ref", "HEAD")
    ref = os.environ.get("GITHUB_REF_NAME", "") if branch in ("", "HEAD") else branch
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return Source(commit=commit, ref=ref, changed=changed)


def find_ci(variables: Mapping[str, str]) -> CiRun | None:
    """Read what GitHub Actions tells a job (docs.github.com, "Variables reference")."""
    if variables.get("GITHUB_ACTIONS") != "true":
        return None
    server = variables.get("GITHUB_SERVER_URL", "https://github.com")
    repository = variables.get("GITHUB_REPOSITORY", "")
    run = variables.get("GITHUB_RUN_ID", "")
    url = f"{server}/{repository}/actions/runs/{run}" if repository and run else ""
    return CiRun(provider="GitHub Actions", repository=repository, url=url)


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _cpu_model() -> str:
    """Return the processor's name (proc(5))."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
