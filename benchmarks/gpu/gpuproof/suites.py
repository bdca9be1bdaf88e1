"""Steps that are one script in one tree: suites of cases, the listing of GPUs, the guard."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gpuproof.document import CPU, STAND_IN, CaseResult, StepResult
from gpuproof.plan import Step
from gpuproof.trees import Opened
from tfslim.parity.target import Ended, Script

__all__ = ["Device", "run_guard", "run_listing", "run_suite"]

INSIDE = Path(__file__).parents[1] / "inside"
_GUARD_STATUS = 78
_GUARD_WORDS = "cannot run it: slim with --cuda-arch"
_TIMED_OUT = (124, 137)
_TAIL_LINES = 25
_NO_GPU = "not measured: no GPU"
_NO_TENSORFLOW = "not measured: Python's TensorFlow was taken out of this tree (rule native)"
# Whoever has no such code: compute capability 6.1 of 2016.
_OLD_GPUS = ("6.1", "7.5")


@dataclass(frozen=True)
class Device:
    """What scripts run on.

    Attributes:
        gpu: They are given the machine's GPUs.
        stand_in: Folder with stand-ins for the driver's libraries; None without.
    """

    gpu: bool
    stand_in: Path | None = None


def run_suite(step: Step, tree: Opened, device: Device, jobs: Path) -> StepResult:
    """Run a suite of cases in a process of its own."""
    if tree.facts.backend == "capi":
        return step.result(status="not measured", why=_NO_TENSORFLOW)
    # On a CPU a mode in which only CUDA would do something else says nothing new.
    if not device.gpu and step.mode in ("warm-jit", "eager"):
        return step.result(status="not measured", why=_NO_GPU)
    job = _staged(tree, jobs)
    out = job / "out" / f"{step.part.id}-{step.mode}.jsonl"
    out.unlink(missing_ok=True)
    cache = "jit" if step.mode.endswith("-jit") else "cache"
    if step.mode == "cold-jit":
        shutil.rmtree(job / cache, ignore_errors=True)
    argv = ["inside/harness.py", step.part.id, "--out", f"out/{out.name}", "--cache", cache]
    argv += ["--device", "gpu" if device.gpu else "cpu"]
    argv += ["--quick"] * (step.mode in step.part.quick)
    argv += ["--deterministic"] * (step.mode == "deterministic")
    started = time.monotonic()
    ended = tree.target.run(
        job, Script(argv, step.part.seconds, _variables(step, device), device.gpu), _quiet
    )
    seconds = time.monotonic() - started
    try:
        found = _read(out)
    except (ValueError, ValidationError) as error:
        why = f"its results cannot be read: {error}"
        return step.result(status="failed", why=why, tail=_tail(ended))
    result = _judged(step, found, ended, device, seconds)
    return result.model_copy(update={"jit_cache": _cache_of(job / cache) if device.gpu else {}})


def run_listing(step: Step, tree: Opened, device: Device, jobs: Path) -> StepResult:
    """Have TensorFlow list GPUs, the machine's or the stand-in's."""
    if tree.facts.backend == "capi":
        return step.result(status="not measured", why=_NO_TENSORFLOW)
    if not device.gpu and device.stand_in is None:
        return step.result(status="not measured", why=_NO_GPU)
    job = _staged(tree, jobs)
    out = job / "out" / "listing.json"
    out.unlink(missing_ok=True)
    started = time.monotonic()
    env = {} if device.gpu else {"FAKE_GPUS": _capability(tree)}
    with _driver_on_path(device):
        script = Script(
            ["inside/listing.py", "--out", "out/listing.json"], step.part.seconds, env, gpu=True
        )
        ended = tree.target.run(job, script, _quiet)
    seconds = time.monotonic() - started
    status, why = _how(ended, seconds, step)
    if status != "passed" or not out.is_file():
        return step.result(status=status, why=why or "it listed nothing", tail=_tail(ended))
    said = json.loads(out.read_bytes())
    name = ", ".join(said["gpus"]) if device.gpu else STAND_IN
    good = bool(said["gpus"])
    return step.result(
        status="passed" if good else "failed",
        why="" if good else "TensorFlow lists no GPU",
        device=name or "no GPU listed",
        seconds=seconds,
        versions=said["versions"],
        figures={"import_s": said["import_s"]},
        tail="" if good else _tail(ended),
    )


def run_guard(step: Step, tree: Opened, device: Device, jobs: Path) -> StepResult:
    """Import TensorFlow where its GPU code is for others: the guard has to end the process."""
    if not device.gpu and device.stand_in is None:
        return step.result(status="not measured", why=_NO_GPU)
    job = _staged(tree, jobs)
    env = {}
    if not device.gpu:
        majors = {served // 10 for served in tree.facts.served}
        env["FAKE_GPUS"] = next(gpu for gpu in _OLD_GPUS if int(gpu[0]) not in majors)
    started = time.monotonic()
    with _driver_on_path(device):
        script = Script(["inside/computes.py"], step.part.seconds, env, gpu=True)
        ended = tree.target.run(job, script, _quiet)
    said = next((line for line in ended.tail.splitlines() if _GUARD_WORDS in line), "")
    good = ended.status == _GUARD_STATUS and bool(said)
    return step.result(
        status="passed" if good else "failed",
        why="" if good else f"{ended.how}, and not {_GUARD_STATUS} with the guard's line",
        device="the GPU that it does not serve" if device.gpu else STAND_IN,
        seconds=time.monotonic() - started,
        notes=(said,) if said else (),
        tail="" if good else _tail(ended),
    )


def _variables(step: Step, device: Device) -> dict[str, str]:
    env = {"CUDA_MODULE_LOADING": "EAGER" if step.mode == "eager" else "LAZY"}
    if step.mode == "deterministic":
        env["TF_DETERMINISTIC_OPS"] = "1"
    if not device.gpu:
        env |= {"CUDA_VISIBLE_DEVICES": "-1", "NVIDIA_VISIBLE_DEVICES": "void"}
    return env


def _staged(tree: Opened, jobs: Path) -> Path:
    """Return a tree's folder for scripts and what they write; CUDA's cache stays in it."""
    job = jobs / tree.facts.name
    shutil.rmtree(job / "inside", ignore_errors=True)
    shutil.copytree(INSIDE, job / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    (job / "out").mkdir(exist_ok=True)
    return job


@dataclass(frozen=True)
class _Found:
    start: Mapping[str, Any]
    cases: tuple[CaseResult, ...]
    under_way: str
    memory: dict[str, int]
    complete: bool


def _read(out: Path) -> _Found:
    """Read what a suite wrote, as far as it came."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    start: dict[str, Any] = {}
    cases: list[CaseResult] = []
    under_way, memory, complete = "", {}, False
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            break  # the process was ended while it wrote
        match data.pop("kind"):
            case "start":
                start = data
            case "begin":
                under_way = data["name"]
            case "case":
                cases.append(CaseResult.model_validate(data))
                under_way = ""
            case "end":
                memory, complete = data["memory_bytes"], True
    return _Found(start, tuple(cases), under_way, memory, complete)


def _judged(step: Step, found: _Found, ended: Ended, device: Device, seconds: float) -> StepResult:
    status, why = _how(ended, seconds, step)
    gpus = ", ".join(found.start.get("gpus", ()))
    failed = [case.name for case in found.cases if case.status == "failed"]
    if status == "passed" and device.gpu and not gpus:
        status, why = "failed", "TensorFlow lists no GPU"
    elif status == "passed" and not found.complete:
        status, why = "crashed", "it ended before its last case"
    elif status == "passed" and failed:
        status, why = (
            "failed",
            f"{len(failed)} of {len(found.cases)} cases: {'; '.join(failed[:5])}",
        )
    elif status == "passed" and all(case.status == "not measured" for case in found.cases):
        status, why = "not measured", "not measured: none of its cases can run here"
    firsts = [case.first_s for case in found.cases if case.first_s is not None]
    figures = {name: found.start[name] for name in ("import_s", "device_s") if name in found.start}
    return step.result(
        status=status,
        why=why,
        device=gpus if device.gpu else CPU,
        seconds=seconds,
        at_case=found.under_way,
        cases=found.cases,
        memory_bytes=found.memory if device.gpu else {},
        versions=found.start.get("versions", {}),
        figures={**figures, "first_calls_s": sum(firsts)} if firsts else figures,
        tail="" if status in ("passed", "not measured") else _tail(ended),
    )


def _how(ended: Ended, seconds: float, step: Step) -> tuple[Any, str]:
    """Return the status that the end of a process alone decides, and why."""
    if ended.ok:
        return "passed", ""
    if ended.status in _TIMED_OUT and seconds >= step.part.seconds - 1:
        return "timed out", f"ended after {step.part.seconds:.0f} s"
    return "crashed", ended.how


def _cache_of(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _capability(tree: Opened) -> str:
    """Return a compute capability that a tree serves."""
    served = tree.facts.served or (90,)
    return f"{served[0] // 10}.{served[0] % 10}"


@contextmanager
def _driver_on_path(device: Device) -> Iterator[None]:
    """Have trees find the stand-in's libraries, which lie on this process' search path."""
    if device.stand_in is None:
        yield
        return
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = str(device.stand_in)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_LIBRARY_PATH"]
        else:
            os.environ["LD_LIBRARY_PATH"] = before


def _tail(ended: Ended) -> str:
    return "\n".join(ended.tail.splitlines()[-_TAIL_LINES:])


def _quiet(line: str) -> None:
    """What a script says is kept in its tail."""
