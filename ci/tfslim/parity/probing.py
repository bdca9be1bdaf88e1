"""Run the probe in a target over all models, whatever becomes of its process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tfslim.parity.compare import Answers
from tfslim.parity.job import Job
from tfslim.parity.results import Environment, Unreadable, read_environment, read_model
from tfslim.parity.target import Ended, Script, Target

__all__ = ["Backend", "Probed", "Settings", "probe_target"]

Backend = Literal["auto", "tensorflow", "capi"]

_SAYS = "probe: "
_RECORD = "record.json"
_START_SECONDS = 300.0  # interpreter, imports, and a container's creation
_MAX_THREADS = 4
_TAIL_LINES = 12
# How the interpreter begins to tell of a crash or of the time limit; innermost frames follow.
_STACKS = ("Fatal Python error", "Timeout (")


@dataclass(frozen=True)
class Settings:
    """How models are probed.

    Attributes:
        batches: Sizes of unknown first dimensions.
        seeds: How many sets of made-up inputs for each batch size.
        unknown_size: Size of other unknown dimensions.
        seconds: Limit for one model; its process is ended then.
        gpu: Give the target the machine's GPUs.
        deterministic: Use deterministic ops only.
        record: Also record what is opened and reached, with recorder.py.
        backend: What asks the models: Python's TensorFlow, TensorFlow's C API as the service's
            native backend does (capi), or the second where slimming left nothing else (auto).
        env: More variables for the target, as (name, value).
    """

    batches: tuple[int, ...] = (1, 3)
    seeds: int = 2
    unknown_size: int = 32
    seconds: float = 600.0
    gpu: bool = False
    deterministic: bool = False
    record: bool = False
    backend: Backend = "tensorflow"
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Probed:
    """What a target answered.

    Attributes:
        environment: What it computed with; None where it did not come that far.
        answers: For each model its answers, or why there are none.
        records: What recorder.py recorded, one for each process; empty without `record`.
        tail: The last lines of the last process.
    """

    environment: Environment | None
    answers: Mapping[str, Answers]
    records: tuple[dict[str, Any], ...]
    tail: str


@dataclass
class _Progress:
    """What the probe said last, and the beginning of the last stack it showed."""

    tell: Callable[[str], None]
    last: str = "nothing yet"
    stack: list[str] = field(default_factory=list)

    def line(self, line: str) -> None:
        if line.startswith(_SAYS):
            self.last = line.removeprefix(_SAYS)
            self.tell(self.last)
        elif line.startswith(_STACKS):
            self.stack = [line]
        elif self.stack and len(self.stack) < _TAIL_LINES:
            self.stack.append(line)

    def death(self, ended: Ended) -> str:
        """Say how a process ended, where, and with what words."""
        lines = [line for line in ended.tail.splitlines() if not line.startswith(_SAYS)]
        words = self.stack or lines[-_TAIL_LINES:]
        return "\n".join([f"{ended.how} at: {self.last}", *words])


@dataclass
class _Found:
    environment: Environment | None = None
    answers: dict[str, Answers] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


def probe_target(
    target: Target, job: Job, settings: Settings, tell: Callable[[str], None], *, label: str
) -> Probed:
    """Run a job's models in a target.

    A process that dies (or hangs) ends the model it was at; the others go on in a new one.

    Args:
        target: Where to run.
        job: What to run.
        settings: How.
        tell: Gets what is being done now.
        label: Name for this probe's results, unique in the job.

    Raises:
        TfslimError: Nothing can be started in the target.
    """
    found = _Found()
    left = {Path(model).name: model for model in job.models}
    ended, number = Ended(0, ""), 0
    while left:
        out, number, progress = f"out/{label}-{number}", number + 1, _Progress(tell)
        script = _script(job, list(left.values()), settings, out)
        ended = target.run(job.folder, script, progress.line)
        _collect(job.folder / out, list(left), found)
        left = {name: path for name, path in left.items() if name not in found.answers}
        if left:
            why = progress.death(ended)
            # Without an environment it died before any model: it would do so again.
            victims = list(left) if found.environment is None else [next(iter(left))]
            found.answers.update((victim, why) for victim in victims)
            left = {name: path for name, path in left.items() if name not in victims}
    return Probed(found.environment, found.answers, tuple(found.records), ended.tail)


def _script(job: Job, models: list[str], settings: Settings, out: str) -> Script:
    argv = ["probe.py", "--out", out, "--timeout", str(settings.seconds)]
    argv += [part for model in models for part in ("--model", model)]
    argv += [part for path in job.inputs for part in ("--input", path)]
    argv += ["--batches", ",".join(map(str, settings.batches)), "--seeds", str(settings.seeds)]
    argv += ["--unknown-size", str(settings.unknown_size)]
    argv += ["--backend", settings.backend]
    if settings.deterministic:
        argv += ["--deterministic"]
    if settings.record:
        argv += ["--record", f"{out}/{_RECORD}"]
    # The number of threads decides in which pieces a sum is made.
    threads = str(min(_MAX_THREADS, len(os.sched_getaffinity(0))))
    env = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    env |= dict(settings.env)
    if settings.deterministic:
        env["TF_DETERMINISTIC_OPS"] = "1"
    if not settings.gpu:
        env["CUDA_VISIBLE_DEVICES"] = "-1"
    limit = _START_SECONDS + settings.seconds * len(models)
    return Script(argv, limit, env, settings.gpu)


def _collect(out: Path, names: list[str], found: _Found) -> None:
    """Read what one process wrote."""
    if found.environment is None:
        try:
            found.environment = read_environment(out)
        except Unreadable:
            return
    for name in names:
        if (out / name).is_dir():
            found.answers[name] = _answers(out / name)
    if (out / _RECORD).is_file():
        found.records.append(json.loads((out / _RECORD).read_bytes()))


def _answers(folder: Path) -> Answers:
    try:
        return read_model(folder)
    except Unreadable as error:
        return f"its results cannot be used: {error}"
