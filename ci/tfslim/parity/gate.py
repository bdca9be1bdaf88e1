"""The parity gate: two targets, the same models and inputs, one verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from docker import DockerClient

from tfslim import __version__
from tfslim.errors import EngineError, InputError, ModelError
from tfslim.gpu import container_access, find_gpus
from tfslim.models import FROZEN_FILE, Model
from tfslim.parity.compare import (
    compare_environments,
    compare_model,
    default_rule,
    not_asked,
    same_way,
    same_words,
)
from tfslim.parity.containers import ImageTarget
from tfslim.parity.job import Job, ModelFile, find_model, frozen_among, staged
from tfslim.parity.locate import find_target
from tfslim.parity.probing import Backend, Probed, Settings, probe_target
from tfslim.parity.results import Environment
from tfslim.parity.target import Target
from tfslim.parity.verdict import Mode, ModelVerdict, Outcome, Rule, Side, Verdict, merged, worst
from tfslim.parity.zoos import zoo_models
from tfslim.ui import Ui

__all__ = ["GpuUse", "Request", "verify", "why_no_gpu"]

GpuUse = Literal["auto", "off", "required"]
_ZOO = Path("zoo")
_MODELS = Path("models")


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        stock: The target that is right: a tree, a root file system or an image.
        slim: The target to be judged.
        models: SavedModel folders, .keras files, or names like `demo:basic-pitch`; or frozen
            models alone; without any, the zoo.
        inputs: .npz files with real inputs, given to every signature with inputs of these names.
        settings: Batch sizes, seeds, limits.
        rtol: Relative tolerance in place of the dtype's own.
        atol: Absolute tolerance, likewise.
        gpu: Whether to run on the machine's GPUs.
        backend: What asks the slim target (`Settings`); the stock one is asked through Python, but
            about frozen models: for them both are asked through the C API.
        state: Folder that keeps the zoo and demonstration models.
    """

    stock: str
    slim: str
    models: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    settings: Settings = field(default_factory=Settings)
    rtol: float | None = None
    atol: float | None = None
    gpu: GpuUse = "auto"
    backend: Backend = "auto"
    state: Path = Path(".tfslim")


def verify(request: Request, client: Callable[[], DockerClient], ui: Ui) -> Verdict:
    """Compare what two targets answer.

    Args:
        request: What to compare.
        client: Gives the engine; called only for images.
        ui: Shows progress.

    Raises:
        InputError: A target is none, or the stock one has no working TensorFlow.
        ModelError: A model cannot be used.
        EngineError: A GPU is required and cannot be had, or the engine refused.
    """
    targets = {
        "stock": find_target(request.stock, client),
        "slim": find_target(request.slim, client),
    }
    unseen = why_no_gpu(request.gpu, targets.values())
    sources = request.models or tuple(zoo_models(targets["stock"], request.state / _ZOO, ui))
    models = [find_model(source, request.state / _MODELS, ui) for source in sources]
    settings = replace(request.settings, gpu=not unseen)
    if _all_frozen(models, request.backend):
        request = replace(request, backend="capi")
        settings = replace(settings, backend="capi")
    with staged(models, request.inputs) as job:
        return _Gate(request, settings, targets, job, ui).verdict(unseen)


def _all_frozen(models: Sequence[Model | ModelFile], backend: Backend) -> bool:
    """Return whether the models are frozen ones, which the C API alone loads.

    Raises:
        ModelError: Some are and some are not, or Python's TensorFlow is to be asked about them.
    """
    frozen = frozen_among(models)
    if frozen and len(frozen) < len(models):
        raise ModelError(
            f"frozen models are compared by themselves: {', '.join(frozen)}",
            why="Both targets are asked about them through TensorFlow's C API; of other models the "
            "stock one is asked through Python.",
            way_out="Run `tfslim verify` once with the frozen models, and once with the others.",
        )
    if frozen and backend == "tensorflow":
        raise ModelError(
            f"Python's TensorFlow does not load a frozen model: {', '.join(frozen)}",
            way_out="Leave out --backend tensorflow, or compare the SavedModel that was frozen.",
        )
    return bool(frozen)


def why_no_gpu(wanted: GpuUse, targets: Iterable[Target]) -> str:
    """Return why nothing will run on a GPU; empty where it will.

    Raises:
        EngineError: One is required, and there is none to run on.
    """
    if wanted == "off":
        return "switched off (--gpu off)"
    found = find_gpus()
    why = found.why_none
    for target in targets:
        if found.gpus and isinstance(target, ImageTarget):
            client = target.client()
            if not container_access(client.info()):
                why = "the engine has no NVIDIA container toolkit or CDI"
            client.close()
    if why and wanted == "required":
        raise EngineError(
            "a GPU is required, and there is none to run on",
            why=why,
            way_out="`tfslim doctor` says what is missing; --gpu auto goes on with the CPU.",
        )
    return why


@dataclass
class _Gate:
    """One comparison under way; sides are called "stock" and "slim"."""

    request: Request
    settings: Settings
    targets: Mapping[str, Target]
    job: Job
    ui: Ui
    environments: dict[str, dict[Mode, Environment | None]] = field(
        default_factory=lambda: {"stock": {}, "slim": {}}
    )
    rules: dict[Mode, Rule] = field(default_factory=dict)

    def verdict(self, unseen: str) -> Verdict:
        """Do all of it. `unseen` says why nothing runs on a GPU, empty where it does."""
        started, start = datetime.now(UTC), time.monotonic()
        stock = self._probe("stock", self.settings, "first")
        self._check_stock(stock)
        found = stock.environment.gpus if stock.environment else ()
        unseen = "" if found else unseen or "TensorFlow in the stock target lists none"
        rounds = [self._round("gpu" if found else "cpu", self.settings, stock)]
        if found:
            exact = replace(self.settings, deterministic=True)
            rounds.append(
                self._round("gpu-deterministic", exact, self._probe("stock", exact, "exact"))
            )
        models = tuple(merged(each) for each in zip(*rounds, strict=True))
        differences = tuple(
            compare_environments(self.environments["stock"], self.environments["slim"])
        )
        outcome, reason = _total(models, differences)
        return Verdict(
            outcome=outcome,
            reason=reason,
            tfslim=__version__,
            started=started,
            seconds=time.monotonic() - start,
            stock=self._side("stock"),
            slim=self._side("slim"),
            rules=self.rules,
            unseen=tuple(_unseen(unseen, models, native=self.settings.backend == "capi")),
            differences=differences,
            models=models,
        )

    def _check_stock(self, stock: Probed) -> None:
        """Refuse a stock target that cannot be the measure of anything."""
        found = stock.environment
        if found is None or found.import_error is not None:
            error = found.import_error if found else None
            raise InputError(
                f"{self.request.stock} has no working TensorFlow",
                why=f"{error.type}: {error.message}" if error else stock.tail,
                way_out="Name as STOCK the install that is known to be right.",
            )
        if self.request.gpu == "required" and not found.gpus:
            raise EngineError(
                "a GPU is required, and TensorFlow in the stock target lists none",
                why=stock.tail,
            )

        self._check_inputs(stock)

    def _check_inputs(self, stock: Probed) -> None:
        """Refuse a file of real inputs that no signature took."""
        results = [answers for answers in stock.answers.values() if not isinstance(answers, str)]
        calls = [call for answers in results for call in answers.calls.values()]
        taken = {call.case for call in calls}
        for path, staged_as in zip(self.request.inputs, self.job.inputs, strict=True):
            if Path(staged_as).name not in taken:
                runs = [call for call in calls if call.kind == "run"]
                wanted = {f"{call.signature}: {', '.join(call.inputs)}" for call in runs}
                raise InputError(
                    f"{path} holds the inputs of no signature",
                    why="There are, with their inputs:\n" + "\n".join(sorted(wanted)),
                    way_out="Give it one array for each input of a signature, by its name.",
                )

    def _round(self, mode: Mode, settings: Settings, stock: Probed) -> list[ModelVerdict]:
        """Compare all models in one mode."""
        slim = self._probe("slim", replace(settings, backend=self.request.backend), mode)
        sides = stock.environment, slim.environment
        rule = default_rule(mode, self.request.rtol, self.request.atol).model_copy(
            update={"words": same_words(*sides), "kinds": not same_way(*sides)}
        )
        self.rules[mode] = rule
        self.environments["stock"][mode] = stock.environment
        self.environments["slim"][mode] = slim.environment

        def compare(name: str, again: Probed | None = None) -> ModelVerdict:
            control = again.answers[name] if again else None
            return not_asked(name, stock.answers[name], slim.environment) or compare_model(
                name, stock.answers[name], slim.answers[name], control, mode=mode, rule=rule
            )

        verdicts = {name: compare(name) for name in stock.answers}
        failed = [name for name, verdict in verdicts.items() if verdict.outcome == "failed"]
        if failed and slim.environment is not None and slim.environment.import_error is None:
            self.ui.note(f"asking the stock target again about {', '.join(failed)}")
            paths = tuple(path for path in self.job.models if Path(path).name in failed)
            again = self._probe("stock", settings, f"{mode}-again", replace(self.job, models=paths))
            verdicts.update((name, compare(name, again)) for name in failed)
        return [verdicts[Path(path).name] for path in self.job.models]

    def _probe(self, side: str, settings: Settings, label: str, job: Job | None = None) -> Probed:
        target, job = self.targets[side], job or self.job
        title = f"{side}: {target.name} ({target.kind}) answers"
        with self.ui.step(title, total=len(job.models)) as step:
            seen: set[str] = set()

            def tell(text: str) -> None:
                model = text.partition(":")[0]
                if text.endswith(": load") and model not in seen:
                    seen.add(model)
                    step.advance(1)
                step.update(text)

            return probe_target(target, job, settings, tell, label=f"{side}-{label}")

    def _side(self, side: str) -> Side:
        target = self.targets[side]
        return Side(name=target.name, kind=target.kind, environments=self.environments[side])


def _unseen(no_gpu: str, models: Iterable[ModelVerdict], *, native: bool) -> Iterator[str]:
    """Yield what a comparison cannot show; `native` is one of frozen models."""
    if no_gpu:
        yield f"GPU: {no_gpu}; no GPU code was run"
    if native:
        yield (
            "frozen models: both sides were asked through TensorFlow's C API; how far the answers "
            f"are from those before freezing was measured then, and stands in {FROZEN_FILE}"
        )
    left_out = [model.name for model in models if model.outcome == "not asked"]
    if left_out:
        yield (
            f"{len(left_out)} of the models have no signatures and were not asked of "
            f"TensorFlow's C API: {', '.join(left_out)}"
        )


def _total(models: tuple[ModelVerdict, ...], differences: tuple[str, ...]) -> tuple[Outcome, str]:
    """Return the outcome of all, and what decided it."""
    other_gpus = [text for text in differences if text.startswith("gpus ")]
    if other_gpus:
        return "failed", other_gpus[0]
    if not any(model.calls for model in models):
        reasons = {model.reason for model in models}
        return "failed", "nothing was compared: " + ("; ".join(sorted(reasons)) or "no models")
    outcome = worst(model.outcome for model in models)
    counts: Mapping[str, int] = {
        kind: sum(model.outcome == kind for model in models)
        for kind in ("passed", "not asked", "inconclusive", "failed")
    }
    return outcome, ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
