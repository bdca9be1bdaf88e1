"""Steps that run models: against the stock tree or the CPU, their speed, and cold starts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gpuproof.document import CPU, CaseResult, StepResult
from gpuproof.plan import Step
from gpuproof.suites import Device
from gpuproof.trees import Opened
from tfslim.bench.results import ColdStarts, InProcessRun
from tfslim.bench.rootfs import RootService, RootTarget, serve_root
from tfslim.bench.rootstarts import RootStart, root_cold_starts
from tfslim.bench.throughput import Subject, doubts, measure_calls
from tfslim.config import BenchConfig
from tfslim.parity.compare import compare_model, default_rule, not_asked, same_way, same_words
from tfslim.parity.job import Job, find_model, staged
from tfslim.parity.probing import Probed, Settings, probe_target
from tfslim.parity.verdict import Mode, ModelVerdict
from tfslim.ui import Ui

__all__ = ["Models", "Speed"]

_NAME = "model"
# What the guard says of a model that needs more than its tree has (slim/guard/site/_tfslim_ops.py);
# the native backend says it within an error of its own.
_REFUSES = "tfslim took out what"
_CALLS: TypeAdapter[list[InProcessRun]] = TypeAdapter(list[InProcessRun])


@dataclass
class Models:
    """Runs models in trees and compares their answers.

    Attributes:
        sources: Folders of SavedModels, .keras files, or names of demonstration models.
        state: Keeps demonstration models.
        stock: The tree that is right; None where none was carried.
        device: What models run on.
        known: Answers of the stock tree, or of a tree on the CPU, which several steps are held to.
    """

    sources: Sequence[str]
    state: Path
    stock: Opened | None
    device: Device
    ui: Ui
    known: dict[tuple[str, bool, bool], Probed] = field(default_factory=dict)

    def run(self, step: Step, tree: Opened) -> StepResult:
        """Compare a tree's answers with the stock tree's, else with its own on the CPU."""
        why_not = self._why_not(tree)
        if why_not:
            return step.result(status="not measured", why=why_not)
        started = time.monotonic()
        exact = step.mode == "deterministic"
        models = [find_model(source, self.state / "models", self.ui) for source in self.sources]
        with staged(models) as job:
            right = self._right(job, step, tree, exact=exact)
            mine = self._probe(tree, job, step, gpu=self.device.gpu, exact=exact)
        verdicts = [self._compare(name, right, mine, exact=exact) for name in right.answers]
        cases = tuple(map(self._case, verdicts))
        failed = [case.name for case in cases if case.status == "failed"]
        gpus = mine.environment.gpus if mine.environment else ()
        status: Any = "failed" if failed else "passed"
        why = f"other answers: {', '.join(failed)}" if failed else ""
        if self.device.gpu and not gpus:
            status, why = "failed", "TensorFlow lists no GPU"
        elif not failed and all(case.status == "not measured" for case in cases):
            status, why = "not measured", "not measured: no model could be compared"
        return step.result(
            status=status,
            why=why,
            device=", ".join(gpus) or CPU,
            seconds=time.monotonic() - started,
            cases=cases,
            notes=(f"compared with {self._reference(tree)}",),
            tail=mine.tail[-4000:] if failed else "",
        )

    def _why_not(self, tree: Opened) -> str:
        if not self.sources:
            return "not measured: no models were carried (--models)"
        if tree.facts.role == "stock" and not self.device.gpu:
            return "not measured: on a CPU the stock tree is what others are held to"
        if self.stock is None and not self.device.gpu:
            return "not measured: without a stock tree and a GPU there is nothing to compare with"
        return ""

    def _reference(self, tree: Opened) -> str:
        if self.stock is None or self.stock is tree:
            return "the same tree on the CPU"
        return f"the stock tree {self.stock.facts.name}"

    def _right(self, job: Job, step: Step, tree: Opened, *, exact: bool) -> Probed:
        """Return the answers that count as right, asked once."""
        if self.stock is None or self.stock is tree:
            subject, gpu = tree, False
        else:
            subject, gpu = self.stock, self.device.gpu
        key = (subject.facts.name, gpu, exact and gpu)
        if key not in self.known:
            self.known[key] = self._probe(subject, job, step, gpu=gpu, exact=exact and gpu)
        return self.known[key]

    def _probe(self, tree: Opened, job: Job, step: Step, *, gpu: bool, exact: bool) -> Probed:
        settings = Settings(
            seconds=step.part.seconds, gpu=gpu, deterministic=exact, seeds=1, backend="auto"
        )
        label = f"{tree.facts.name}-{'gpu' if gpu else 'cpu'}-{step.mode}"
        with self.ui.step(f"{tree.facts.name}: models", total=len(job.models)) as shown:
            return probe_target(tree.target, job, settings, shown.update, label=label)

    def _compare(self, name: str, right: Probed, mine: Probed, *, exact: bool) -> ModelVerdict:
        mode: Mode = "cpu" if not self.device.gpu else "gpu"
        if exact and self.device.gpu and self.stock is not None:
            mode = "gpu-deterministic"
        sides = right.environment, mine.environment
        rule = default_rule(mode, None, None).model_copy(
            update={"words": same_words(*sides), "kinds": not same_way(*sides)}
        )
        answers = mine.answers.get(name, "it was not reached")
        return not_asked(name, right.answers[name], mine.environment) or compare_model(
            name, right.answers[name], answers, mode=mode, rule=rule
        )

    @staticmethod
    def _case(verdict: ModelVerdict) -> CaseResult:
        outputs = [output for call in verdict.calls for output in call.outputs]
        apart = [output.max_rel for output in outputs if output.max_rel is not None]
        first = next((c.reason for c in verdict.calls if c.outcome == "failed"), "")
        states: dict[str, Any] = {"passed": "passed", "failed": "failed"}
        refusal = _refusal(verdict)
        if refusal:
            return CaseResult(name=verdict.name, dtype="", status="refused", why=refusal)
        return CaseResult(
            name=verdict.name,
            dtype=", ".join(sorted({output.dtype for output in outputs})),
            status=states.get(verdict.outcome, "not measured"),
            why="; ".join(part for part in (verdict.reason, first) if part),
            calls=len(verdict.calls),
            distance=max(apart, default=None),
        )


def _refusal(verdict: ModelVerdict) -> str:
    """Return why the guard refused to load a model whose ops were taken out; empty where not."""
    loads = (call.error_slim for call in verdict.calls if call.kind == "load")
    said = next((error.message for error in loads if error and _REFUSES in error.message), "")
    return said.partition("\n")[0]


@dataclass
class Speed:
    """Measures rates, latencies and starts of trees in turn.

    Attributes:
        trees: All but those for other architectures.
        model: SavedModel to call; None for the one in each root file system.
        state: Keeps raw results, for the run record.
        launches: Processes of each tree.
        seconds: Of each measurement.
        text: The device, as results call it.
    """

    trees: Sequence[Opened]
    model: Path | None
    state: Path
    device: Device
    launches: int
    seconds: float
    text: str
    ui: Ui

    def throughput(self, step: Step) -> StepResult:
        """Call the model in processes of each tree, in turn."""
        trees = [tree for tree in self.trees if self._model_of(tree)]
        if not trees:
            why = "not measured: no model was named (--model), and none is in a tree"
            return step.result(status="not measured", why=why)
        settings = BenchConfig(
            launches=self.launches,
            seconds=self.seconds,
            batch_sizes=(1, 32),
            gpu="required" if self.device.gpu else "off",
        )
        subjects = [Subject(tree.facts.name, tree.target, self.model, _NAME) for tree in trees]
        started = time.monotonic()
        runs = measure_calls(subjects, settings, group=0, gpu=self.device.gpu, ui=self.ui)
        self._kept(step).write_bytes(_CALLS.dump_json(runs))
        figures: dict[str, float] = {}
        for subject in subjects:
            for size in settings.batch_sizes:
                own = [r for r in runs if r.subject == subject.name and r.batch_size == size]
                where = f"{subject.name}, batch {size}"
                medians = [statistics.median(run.latencies_s) for run in own]
                figures[f"{where}: median_latency_s"] = statistics.median(medians)
                rates = [run.samples_per_second for run in own]
                figures[f"{where}: samples_per_s"] = statistics.median(rates)
                figures[f"{where}: first_call_s"] = statistics.median(r.first_call_s for r in own)
        devices = ", ".join(dict.fromkeys(run.device for run in runs))
        return self._timed(step, started, devices, figures, doubts(runs, []))

    def cold_start(self, step: Step) -> StepResult:
        """Start the service of each root file system, in turn."""
        roots = [start for tree in self.trees if (start := self._start_of(tree)) is not None]
        if not roots:
            why = "not measured: no root file system with a service and a model was carried"
            return step.result(status="not measured", why=why)
        started = time.monotonic()
        found = root_cold_starts(
            roots, self.launches, gpu=self.device.gpu, device=self.text, ui=self.ui
        )
        self._kept(step).write_text(found.model_dump_json(), encoding="utf-8")
        figures: dict[str, float] = {}
        for root in roots:
            for jit in ("none", "cold", "warm"):
                own = [
                    launch
                    for launch in found.launches
                    if launch.subject == root.name and launch.jit_cache == jit
                ]
                if own:
                    where = root.name if jit == "none" else f"{root.name}, PTX cache {jit}"
                    seconds = statistics.median(launch.first_answer_s for launch in own)
                    figures[f"{where}: first_answer_s"] = seconds
        device = self.text if self.device.gpu else CPU
        return self._timed(step, started, device, figures, found.notes)

    def calls(self) -> list[InProcessRun]:
        """Return the raw results of `throughput`."""
        path = self.state / "throughput.json"
        return _CALLS.validate_json(path.read_bytes()) if path.is_file() else []

    def starts(self) -> ColdStarts | None:
        """Return the raw results of `cold_start`."""
        path = self.state / "cold-start.json"
        return ColdStarts.model_validate_json(path.read_bytes()) if path.is_file() else None

    def _kept(self, step: Step) -> Path:
        return self.state / f"{step.part.id}.json"

    def _model_of(self, tree: Opened) -> bool:
        return self.model is not None or (tree.root is not None and (tree.path / "model").is_dir())

    def _start_of(self, tree: Opened) -> RootStart | None:
        if not isinstance(tree.target, RootTarget) or not tree.target.root.argv:
            return None
        if not self._model_of(tree):
            return None
        target = tree.target

        def serve(jit: Path) -> AbstractContextManager[RootService]:
            return serve_root(
                target,
                model=self.model,
                model_name=_NAME,
                gpu=self.device.gpu,
                ready_timeout=300,
                jit=jit,
            )

        return RootStart(tree.facts.name, _NAME, serve)

    @staticmethod
    def _timed(
        step: Step, started: float, device: str, figures: dict[str, float], notes: Sequence[str]
    ) -> StepResult:
        return step.result(
            status="passed",
            device=device,
            seconds=time.monotonic() - started,
            figures={name: round(value, 6) for name, value in figures.items()},
            notes=tuple(notes),
        )
