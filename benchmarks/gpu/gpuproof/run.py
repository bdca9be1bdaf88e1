"""Carry out the steps of a plan: each is kept as soon as it is done, so that a run can go on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from gpuproof import plan as plans
from gpuproof.document import StepResult, save
from gpuproof.models import Models, Speed
from gpuproof.plan import Plan, Step
from gpuproof.suites import INSIDE, Device, run_guard, run_listing, run_suite
from gpuproof.trees import Opened
from tfslim import proc
from tfslim.errors import TfslimError
from tfslim.ui import Ui

__all__ = ["Runner", "chosen_steps", "gpu_state"]

_OUT_OF_TIME = "not measured: the time was over; the same command goes on here"
_STATE_QUERY = (
    "name",
    "driver_version",
    "vbios_version",
    "compute_cap",
    "memory.total",
    "memory.used",
    "clocks.current.sm",
    "clocks.current.memory",
    "clocks.max.sm",
    "clocks.max.memory",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "persistence_mode",
    "ecc.mode.current",
    "mig.mode.current",
)
_SMI_SECONDS = 30.0


@dataclass
class Runner:
    """Runs steps, or finds them done.

    Attributes:
        trees: By name.
        state: Folder for results and all that scripts write.
        machine: What else decides a result: GPUs and driver.
        deadline: When no further step begins, on CLOCK_MONOTONIC; None for no end.
        reused: Steps that were done already.
    """

    trees: dict[str, Opened]
    device: Device
    models: Models
    speed: Speed
    state: Path
    machine: str
    ui: Ui
    deadline: float | None = None
    reused: list[str] = field(default_factory=list)

    def run(self, steps: Sequence[Step], again: Sequence[str] = ()) -> list[StepResult]:
        """Do all steps; a step that dies is a result, and the others go on.

        Args:
            steps: In their order.
            again: Parts whose results are not taken from an earlier run.
        """
        found: list[StepResult] = []
        with self.ui.step("proof", total=len(steps)) as shown:
            for step in steps:
                shown.update(step.name)
                result = self._one(step, fresh=step.part.id in again)
                found.append(result)
                self.ui.print(f"  {_SIGNS[result.status]} {step.name}: {_short(result)}")
                shown.advance(1)
        return found

    def _one(self, step: Step, *, fresh: bool) -> StepResult:
        path = self.state / "steps" / f"{step.name}.json"
        identity = self._identity(step)
        known = None if fresh else _known(path)
        if known is not None and known.identity == identity:
            self.reused.append(step.name)
            return known
        if self.deadline is not None and time.monotonic() > self.deadline:
            return step.result(status="not measured", why=_OUT_OF_TIME)
        result = self._done(step).model_copy(update={"identity": identity})
        save(result, path)
        return result

    def _done(self, step: Step) -> StepResult:
        try:
            return self._work(step)
        except TfslimError as error:
            return step.result(status="failed", why=error.what, tail=error.why[-4000:])

    def _work(self, step: Step) -> StepResult:
        match step.part.kind:
            case "throughput":
                return self.speed.throughput(step)
            case "cold-start":
                return self.speed.cold_start(step)
            case "models":
                return self.models.run(step, self.trees[step.tree])
        scripts = {"suite": run_suite, "listing": run_listing, "guard": run_guard}
        run = scripts[step.part.kind]
        return run(step, self.trees[step.tree], self.device, self.state / "jobs")

    def _identity(self, step: Step) -> str:
        """Return a digest over all that decides what comes of a step."""
        trees = [self.trees[step.tree]] if step.tree in self.trees else list(self.trees.values())
        digest = hashlib.sha256()
        for text in (
            self.machine,
            step.model_dump_json(),
            str(self.device),
            *(f"{tree.facts.model_dump_json()} {_stamp(tree.path)}" for tree in trees),
            *(str(source) for source in self.models.sources),
            str(self.models.stock.path if self.models.stock else ""),
            f"{self.speed.model} {self.speed.launches} {self.speed.seconds}",
            *_scripts(step),
        ):
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()


def _scripts(step: Step) -> Iterator[str]:
    """Yield the text of the scripts that a step runs in a tree."""
    names = {"suite": ("harness", step.part.id), "listing": ("listing",), "guard": ("computes",)}
    for name in names.get(step.part.kind, ()):
        path = INSIDE / f"{name}.py"
        if path.is_file():
            yield path.read_text(encoding="utf-8")


_SIGNS = {
    "passed": "✓",
    "failed": "✗",
    "crashed": "✗",
    "timed out": "✗",
    "not measured": "–",
}


def _short(result: StepResult) -> str:
    counts = dict.fromkeys(("passed", "failed", "refused", "not measured"), 0)
    for case in result.cases:
        counts[case.status] += 1
    cases = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    text = result.status if result.why == "" else f"{result.status} ({result.why[:160]})"
    return f"{text}{f'; cases: {cases}' if cases else ''}; {result.seconds:.1f} s"


def _known(path: Path) -> StepResult | None:
    with suppress(OSError, ValidationError):
        return StepResult.model_validate_json(path.read_bytes())
    return None


def _stamp(tree: Path) -> str:
    """Return what tells a tree from one that was made anew at the same place."""
    status = tree.stat()
    return f"{status.st_ino} {status.st_ctime_ns}"


def gpu_state() -> dict[str, str]:
    """Ask the driver for clocks, power and modes of the first GPU; nothing without one."""
    done = proc.run(
        ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(_STATE_QUERY)}", "--format=csv,noheader"],
        timeout=_SMI_SECONDS,
    )
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if not done.ok or len(values) != len(_STATE_QUERY):
        return {}
    return dict(zip(_STATE_QUERY, values, strict=True))


def chosen_steps(
    plan: Plan, names: Sequence[str], trees: Sequence[Opened], *, stand_in: bool
) -> tuple[Step, ...]:
    """Return the steps of the parts that were named.

    Raises:
        ConfigError: There is no such part.
    """
    parts = plans.chosen(plan, names)
    return tuple(plans.steps(parts, [tree.facts for tree in trees], stand_in=stand_in))
