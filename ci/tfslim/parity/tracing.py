"""Trace models: run them in a stock target with the recorder beside the probe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docker import DockerClient
from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.errors import InputError, ModelError, ServiceError
from tfslim.parity.compare import Answers
from tfslim.parity.gate import GpuUse, why_no_gpu
from tfslim.parity.job import Job, find_model, frozen_among, staged
from tfslim.parity.locate import find_target
from tfslim.parity.probing import Probed, Settings, probe_target
from tfslim.slim.trace import Trace, TracedModel, merge, module_name
from tfslim.slim.tree import sha256
from tfslim.ui import Ui

__all__ = ["Request", "trace_models"]

_MODELS = Path("models")


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        source: The stock target: a tree, a root file system or an image.
        models: SavedModel folders, .keras files, or names like `demo:basic-pitch`.
        inputs: .npz files with real inputs, given to every signature with inputs of these names.
        settings: Batch sizes, seeds, limits.
        gpu: Whether to run on the machine's GPUs.
        state: Folder that keeps demonstration models.
    """

    source: str
    models: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    settings: Settings = field(default_factory=Settings)
    gpu: GpuUse = "auto"
    state: Path = Path(".tfslim")


class _Recording(BaseModel):
    """What recorder.py wrote: read with suspicion, since it ran in the target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str
    machine: str
    packages: dict[str, str]
    gpus: tuple[str, ...]
    ops: tuple[str, ...]
    kernels: tuple[str, ...]
    libraries: tuple[str, ...]
    dlopened: tuple[str, ...]
    opened: tuple[str, ...]
    problems: tuple[str, ...]


def trace_models(request: Request, client: Callable[[], DockerClient], ui: Ui) -> Trace:
    """Run models in a stock target and return what they reached.

    Raises:
        InputError: The target is none, has no working TensorFlow, or cannot be recorded.
        ModelError: A model is frozen or cannot be loaded, or one of its signatures could not be
            run.
        EngineError: A GPU is required and cannot be had, or the engine refused.
        ServiceError: The target died while it ran a model.
    """
    target = find_target(request.source, client)
    models = [find_model(source, request.state / _MODELS, ui) for source in request.models]
    if frozen := frozen_among(models):
        raise ModelError(
            f"a frozen model cannot be traced: {', '.join(frozen)}",
            why="Models are traced with Python's TensorFlow, which does not load a frozen one.",
            way_out="Trace the SavedModel that was frozen, and see afterwards whether the frozen "
            "one has what it needs:\n  tfslim verify STOCK SLIM --model FROZEN",
        )
    settings = replace(request.settings, record=True, gpu=not why_no_gpu(request.gpu, [target]))
    with staged(models, request.inputs) as job:
        with ui.step(f"Tracing in {target.name} ({target.kind})") as step:
            probed = probe_target(target, job, settings, step.update, label="trace")
        _check_runs(probed, request)
        traced = tuple(_models(probed, job))
        tensorflow = probed.environment.tensorflow if probed.environment else ""
        return merge(_trace(record, tensorflow, traced) for record in probed.records)


def _check_runs(probed: Probed, request: Request) -> None:
    """Refuse to speak for models that did not run: what they reach was not seen."""
    found = probed.environment
    if found is None or found.import_error is not None:
        error = found.import_error if found else None
        raise InputError(
            f"{request.source} has no working TensorFlow",
            why=f"{error.type}: {error.message}" if error else probed.tail,
            way_out="Trace in the stock environment, before it is slimmed.",
        )
    for name, answers in probed.answers.items():
        if isinstance(answers, str):
            raise ServiceError(f"{request.source} died while it ran {name}", why=answers)
        load = next(call for call in answers.calls.values() if call.kind == "load")
        if load.error is not None:
            raise ModelError(
                f"{name} cannot be loaded in {request.source}",
                why=f"{load.error.type}: {load.error.message}",
            )
        _check_signatures(name, answers)
    if not probed.records:
        raise ServiceError(f"{request.source} recorded nothing", why=probed.tail)


def _check_signatures(name: str, answers: Answers) -> None:
    """Refuse a signature of which no call was without an error."""
    assert not isinstance(answers, str)  # noqa: S101 (the caller has looked)
    runs = [call for call in answers.calls.values() if call.kind == "run"]
    done = {call.signature for call in runs if call.status == "ok"}
    for call in runs:
        if call.signature not in done:
            why = f"{call.error.type}: {call.error.message}" if call.error else ""
            raise ModelError(
                f"{name}: no call of its signature {call.signature!r} could be traced",
                why=f"{call.case}: {why}",
                way_out="Made-up inputs do not suit it. Give real ones, as arrays by input name:\n"
                f"  --trace-input FILE.npz   ({', '.join(sorted(call.inputs)) or 'see the error'})",
            )


def _models(probed: Probed, job: Job) -> Iterator[TracedModel]:
    digests = {Path(path).name: _digest(job.folder / path)[:16] for path in job.inputs}

    def said(case: str) -> str:
        return f"{case}, sha256 {digests[case]}…" if case in digests else case

    for path in job.models:
        answers = probed.answers[Path(path).name]
        assert not isinstance(answers, str)  # noqa: S101 (`_check_runs` has looked)
        runs = [
            call for call in answers.calls.values() if (call.kind, call.status) == ("run", "ok")
        ]
        yield TracedModel(
            name=Path(path).name,
            sha256=_digest(job.folder / path),
            calls={
                signature: frozenset(
                    said(call.case) for call in runs if call.signature == signature
                )
                for signature in sorted({call.signature for call in runs})
            },
            gpus=frozenset(probed.environment.gpus if probed.environment else ()),
        )


def _trace(record: dict[str, Any], tensorflow: str, models: Sequence[TracedModel]) -> Trace:
    """Return what one process recorded as a trace."""
    try:
        found = _Recording.model_validate(record)
        if found.problems:
            raise InputError(
                "what the models opened could not be recorded completely",
                why="\n".join(found.problems[:10]),
                way_out="Nothing was written: a trace with holes would remove what is needed.",
            )
        return Trace(
            tensorflow=tensorflow,
            python=found.python,
            machine=found.machine,
            packages=found.packages,
            models=tuple(models),
            ops=frozenset(found.ops),
            kernels=frozenset(found.kernels),
            libraries=frozenset((*found.libraries, *found.dlopened)),
            opened=frozenset(map(module_name, found.opened)),
        )
    except ValidationError as error:
        raise InputError("what the target recorded cannot be read", why=str(error)) from None


def _digest(path: Path) -> str:
    """Return the digest of a file, or one of all files of a folder with their names."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = (f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
