"""Measure a model in one process of a target: `calls.py`, sent into it, and what came back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfslim.bench import calls
from tfslim.bench.results import InProcessRun
from tfslim.bench.telemetry import Telemetry
from tfslim.build.bake import dockerfiles
from tfslim.errors import ServiceError
from tfslim.parity.target import Script, Target

__all__ = ["Calls", "call_in_process", "staged_calls"]

_START_SECONDS = 300.0  # interpreter, imports, loading, first calls
_LIMIT_FACTOR = 4.0
_WINDOWS_A_RUN = 4  # so that `seconds` is a warm-up of half a window, three windows, and a little


@dataclass(frozen=True)
class Calls:
    """How a model is called.

    Attributes:
        batch_sizes: Samples a call, one run after the other in the same process.
        seconds: What a run takes where the first windows agree; up to four times as long else.
        model: SavedModel folder; None for the one that is in the target.
        gpu: Give the target the machine's GPUs.
    """

    batch_sizes: tuple[int, ...]
    seconds: float
    model: Path | None
    gpu: bool


@contextmanager
def staged_calls(plan: Calls) -> Iterator[Path]:
    """Give a folder with all that a target needs; it vanishes at the end."""
    with tempfile.TemporaryDirectory(prefix="tfslim-calls-") as name:
        job = Path(name)
        job.chmod(0o755)
        (job / "out").mkdir()
        shutil.copyfile(calls.__file__, job / "calls.py")
        service = dockerfiles() / "app" / "tfserve_app"
        shutil.copytree(
            service, job / "service" / service.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        if plan.model is not None:
            shutil.copytree(plan.model, job / "model")
        yield job


def call_in_process(
    target: Target,
    job: Path,
    plan: Calls,
    *,
    subject: str,
    group: int,
    turn: int,
    telemetry: Telemetry,
    on_line: Callable[[str], None],
) -> list[InProcessRun]:
    """Launch one process in a target and measure each batch size in it.

    Args:
        target: Where it runs.
        job: Folder made by `staged_calls`; used by one process at a time.
        plan: How the model is called.
        subject: What the results call the target.
        group: Set of subjects that take turns.
        turn: Number of the launch.
        telemetry: What the driver says meanwhile.
        on_line: Gets each line that the process says.

    Raises:
        ServiceError: The process failed; with what it said.
    """
    found = job / "out" / calls.RESULT
    found.unlink(missing_ok=True)
    ended = target.run(job, _script(plan), on_line)
    if not ended.ok or not found.is_file():
        raise ServiceError(
            f"{subject}: the model could not be called in a process of its own ({ended.how})",
            why=ended.tail,
            way_out="`tfslim verify` tells whether the model works there at all; "
            "`--only http` leaves this measurement out.",
        )
    said = json.loads(found.read_bytes())
    device = ", ".join(said["gpus"]) or "CPU"
    return [
        InProcessRun(
            subject=subject,
            group=group,
            round=turn,
            device=device,
            backend=said["backend"],
            gpu=telemetry.between(batch["from_monotonic"], batch["to_monotonic"]),
            **_measured(batch),
        )
        for batch in said["batches"]
    ]


def _measured(batch: dict[str, Any]) -> dict[str, Any]:
    names = ("batch_size", "first_call_s", "latencies_s", "stable", "seconds", "calls_before")
    return {name: batch[name] for name in names}


def _script(plan: Calls) -> Script:
    limit = plan.seconds * _LIMIT_FACTOR
    argv = ["calls.py", "--out", "out", "--app", "service"]
    argv += ["--batches", ",".join(map(str, plan.batch_sizes))]
    argv += ["--window", f"{plan.seconds / _WINDOWS_A_RUN:g}", "--limit", f"{limit:g}"]
    if plan.model is not None:
        argv += ["--model", "model"]
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    env |= {
        name: os.environ[name] for name in ("TFSLIM_PREFETCH", "TFSLIM_GC") if name in os.environ
    }
    if not plan.gpu:
        env |= {"CUDA_VISIBLE_DEVICES": "-1", "NVIDIA_VISIBLE_DEVICES": "void"}
    return Script(argv, _START_SECONDS + 3 * limit * len(plan.batch_sizes), env, plan.gpu)
