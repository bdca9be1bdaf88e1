"""The gate: install a chosen set into a fresh environment and see that TensorFlow works with it.

Every check has a state: passed, failed, or not run with the reason. A set with a failed check is
refused; what was not run stands in the lock's header.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from docker import DockerClient
from pydantic import BaseModel, ConfigDict

from tfslim import proc
from tfslim.errors import ConfigError, VerifyError
from tfslim.gpu import find_gpus
from tfslim.parity import gate as parity
from tfslim.parity.verdict import CallVerdict
from tfslim.pins import environments, speed
from tfslim.pins.lockfile import Resolution, resolve
from tfslim.pins.scratch import own_folder
from tfslim.pins.settings import IndexSettings
from tfslim.ui import Ui

__all__ = ["Check", "Gate", "refuse"]

_ROOT: Final = Path(__file__).resolve().parents[3]
_CHECK_CUDA: Final = _ROOT / "dockerfiles" / "build" / "check_cuda.py"
_FAKE_DRIVER: Final = _ROOT / "tests" / "fixtures" / "fake-driver"
_DRIVER: Final = {"cuda.c": "libcuda.so.1", "nvml.c": "libnvidia-ml.so.1"}
_COUNT_GPUS: Final = "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))"
_SECONDS: Final = 600.0
_LAUNCHES: Final = 7
_SHOWN: Final = 5


class Check(BaseModel):
    """One check of a set.

    Attributes:
        name: What was checked.
        state: How it ended.
        detail: Figures, or why it failed or was not run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: Literal["passed", "failed", "not run"]
    detail: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.state}: {self.name}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Gate:
    """Where and with what sets are tried.

    Attributes:
        settings: Where packages come from.
        folder: For environments; they are deleted when the checks are done.
        ui: Shows progress.
        state: Folder that keeps the models which are compared.
        reference: An environment with the same TensorFlow and the newest versions; made when None
            and needed.
    """

    settings: IndexSettings
    folder: Path
    ui: Ui
    state: Path = Path(".tfslim")
    reference: Path | None = None
    _known: dict[frozenset[tuple[str, str]], list[Check]] = field(default_factory=dict)

    def check(self, wanted: Resolution, newest: Mapping[str, str]) -> list[Check]:
        """Install a set and check it, once; ends with the first check that fails.

        Args:
            wanted: The set.
            newest: The newest versions that TensorFlow allows, to compare with.

        Raises:
            DiskError: An environment does not fit.
            NetworkError: A package cannot be had.
        """
        key = frozenset(wanted.pins.items())
        if key not in self._known:
            self._known[key] = self._check(wanted, newest)
        return self._known[key]

    def _check(self, wanted: Resolution, newest: Mapping[str, str]) -> list[Check]:
        interpreter, python = environments.find_python(wanted.python)
        if self.reference is not None:
            self._check_reference(self.reference, python)
        checks: list[Check] = []
        here = replace(wanted, python=python)
        with own_folder(self.folder, "gate") as scratch:
            tree = self._install(scratch / "chosen", interpreter, here)
            for check in self._checks(tree, scratch, here, newest, interpreter):
                self.ui.note(str(check))
                checks.append(check)
                if check.state == "failed":
                    break
        return checks

    def _check_reference(self, reference: Path, python: str) -> None:
        """Refuse a reference with another Python: its own errors are worded otherwise."""
        done = environments.run_python(reference, ["-V"], timeout=_SECONDS)
        if not done.stdout.startswith(f"Python {python}."):
            raise ConfigError(
                f"--reference {reference} is no environment of Python {python}",
                why=done.stdout.strip() or done.tail,
                way_out="Leave it out: one is made.",
            )

    def _checks(
        self,
        tree: Path,
        scratch: Path,
        wanted: Resolution,
        newest: Mapping[str, str],
        interpreter: str,
    ) -> Iterator[Check]:
        yield Check(name=f"installs with its hashes on Python {wanted.python}", state="passed")
        yield self._libraries(tree)
        gpus = find_gpus().gpus
        yield self._lists_gpu(tree) if gpus else self._lists_stand_in(tree, scratch)
        if wanted.pins == newest:
            why = "these are the newest versions"
            yield Check(name="answers as with the newest versions", state="not run", detail=why)
            return
        other = replace(wanted, pins=newest)
        reference = self.reference or self._install(scratch / "newest", interpreter, other)
        yield self._numerics(tree, reference, "off")
        if gpus:
            yield self._numerics(tree, reference, "required")
            yield self._speed(tree, reference)
        else:
            yield Check(
                name="numerics and speed on a GPU", state="not run", detail="not measured: no GPU"
            )

    def _install(self, tree: Path, interpreter: str, wanted: Resolution) -> Path:
        lock = tree.with_suffix(".txt")
        lock.write_text(resolve(wanted, self.settings), encoding="utf-8")
        environments.install(interpreter, lock, tree, self.settings, self.ui)
        return tree

    def _libraries(self, tree: Path) -> Check:
        """TensorFlow opens each CUDA library through its own stubs, and the loader the rest."""
        done = environments.run_python(tree, [str(_CHECK_CUDA)], timeout=_SECONDS)
        return _judged("TensorFlow opens every CUDA library", done, done.ok)

    def _lists_gpu(self, tree: Path) -> Check:
        done = environments.run_python(tree, ["-c", _COUNT_GPUS], timeout=_SECONDS)
        return _judged("TensorFlow lists the GPU", done, done.ok and done.stdout.strip() != "0")

    def _lists_stand_in(self, tree: Path, scratch: Path) -> Check:
        """Say whether the stand-in's GPU is listed: only if no library is lacking."""
        name = "TensorFlow lists a GPU with a stand-in for the driver"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return Check(name=name, state="not run", detail="no C compiler to make it")
        driver = scratch / "driver"
        driver.mkdir()
        for source, library in _DRIVER.items():
            command = [compiler, "-shared", "-fPIC", "-w", "-o", str(driver / library)]
            made = proc.run([*command, str(_FAKE_DRIVER / source)])
            if not made.ok:
                return Check(name=name, state="not run", detail="the stand-in does not compile")
        done = environments.run_python(tree, ["-c", _COUNT_GPUS], extra=[driver], timeout=_SECONDS)
        return _judged(name, done, done.ok and done.stdout.strip() == "1")

    def _numerics(self, tree: Path, reference: Path, gpu: Literal["off", "required"]) -> Check:
        """Models of many kinds give the answers that they give with the newest versions."""
        request = parity.Request(str(reference), str(tree), gpu=gpu, state=self.state)
        verdict = parity.verify(request, _no_engine, self.ui)
        bad = [(model, call) for model in verdict.models for call in model.calls if _differs(call)]
        place = "a CPU, bit for bit" if gpu == "off" else "a GPU, within its tolerance"
        name = f"answers as with the newest versions on {place}"
        if bad or (verdict.outcome == "failed" and not verdict.models):
            evidence = [f"{model.name}: {call.reason}" for model, call in bad]
            why = "\n".join([verdict.reason, *evidence[:_SHOWN]])
            return Check(name=name, state="failed", detail=why)
        return Check(name=name, state="passed", detail=f"models: {verdict.reason}")

    def _speed(self, tree: Path, reference: Path) -> Check:
        """No kind of work is certainly slower than with the newest versions."""
        name = "speed on the GPU, times the newest versions' time"
        times = speed.measure(_launch_on_gpu, [tree, reference], _LAUNCHES)
        slower, figures = speed.compare(*times)
        if slower:
            return Check(name=name, state="failed", detail=f"slower: {'; '.join(slower)}")
        return Check(name=name, state="passed", detail="; ".join(figures))


def _differs(call: CallVerdict) -> bool:
    """True for a failed call; deterministic ops may give other bits in other versions."""
    both = call.error_stock is None and call.error_slim is None
    return call.outcome == "failed" and not (call.mode == "gpu-deterministic" and both)


def _no_engine() -> DockerClient:
    raise AssertionError("environments are folders")


def _launch_on_gpu(tree: Path) -> str:
    done = environments.run_python(tree, [str(speed.PROBE), "/GPU:0"], timeout=_SECONDS)
    if not done.ok:
        raise VerifyError(f"the speed probe failed in {tree.name}", why=done.tail)
    return done.stdout


def _judged(name: str, done: proc.Completed, good: bool) -> Check:
    detail = "" if good else "\n".join(done.tail.splitlines()[-8:])
    return Check(name=name, state="passed" if good else "failed", detail=detail)


def refuse(checks: Sequence[Check]) -> VerifyError | None:
    """Return the error of a set that failed a check; None for one that passed."""
    bad = next((check for check in checks if check.state == "failed"), None)
    if bad is None:
        return None
    return VerifyError(
        f"the chosen versions were refused: {bad.name}",
        why=bad.detail,
        way_out="No lock was written. --objective or --all may give another set.",
    )
