"""What the gate concludes; environments are played by a fake Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tfslim.errors import ConfigError, VerifyError
from tfslim.gpu import Gpu, Gpus
from tfslim.pins import environments, gate, speed
from tfslim.pins.gate import Check, Gate, refuse
from tfslim.pins.lockfile import Resolution
from tfslim.pins.settings import IndexSettings
from tfslim.proc import Completed
from tfslim.ui import Ui

WANTED = Resolution("2.21.0", "3.13", {"nvidia-x-cu12": "1"})
NEWEST = {"nvidia-x-cu12": "2"}


class Played:
    """What the environments would say; tests change it."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.answers: dict[str, Completed] = {}
        self.verdict: Any = None

    def run(self, tree: Path, arguments: Sequence[str], **_: object) -> Completed:
        name = Path(arguments[0]).name if arguments[0] != "-c" else "list"
        return self.answers.get(name, Completed((), 0, "1", ""))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    fake = Played()
    monkeypatch.setattr(gate, "resolve", lambda *_: "")
    monkeypatch.setattr(environments, "find_python", lambda _: ("python", "3.13"))
    monkeypatch.setattr(
        environments, "install", lambda _, lock, tree, *__: fake.installed.append(tree.name)
    )
    monkeypatch.setattr(environments, "run_python", fake.run)
    monkeypatch.setattr(gate, "find_gpus", lambda: Gpus(()))
    monkeypatch.setattr(
        Gate, "_numerics", lambda *a: Check(name=f"answers, {a[-1]}", state="passed")
    )
    return fake


def checked(tmp_path: Path, newest: dict[str, str] = NEWEST) -> dict[str, str]:
    found = Gate(IndexSettings(), tmp_path / "gate", Ui(quiet=True)).check(WANTED, newest)
    assert list((tmp_path / "gate").iterdir()) == []
    return {check.name: check.state for check in found}


def test_without_a_gpu_the_stand_in_is_listed_and_the_rest_is_not_run(
    played: Played, tmp_path: Path
) -> None:
    assert checked(tmp_path) == {
        "installs with its hashes on Python 3.13": "passed",
        "TensorFlow opens every CUDA library": "passed",
        "TensorFlow lists a GPU with a stand-in for the driver": "passed",
        "answers, off": "passed",
        "numerics and speed on a GPU": "not run",
    }
    assert played.installed == ["chosen", "newest"]


def test_a_library_that_does_not_open_ends_it(played: Played, tmp_path: Path) -> None:
    played.answers["check_cuda.py"] = Completed((), 1, "", "missing: libcusolver.so.11")
    found = Gate(IndexSettings(), tmp_path, Ui(quiet=True)).check(WANTED, NEWEST)
    error = refuse(found)
    assert isinstance(error, VerifyError)
    assert "TensorFlow opens every CUDA library" in error.what
    assert "libcusolver" in error.why
    assert played.installed == ["chosen"]


def test_no_listed_gpu_is_a_failure(played: Played, tmp_path: Path) -> None:
    played.answers["list"] = Completed((), 0, "0\n", "Cannot dlopen some GPU libraries")
    assert checked(tmp_path)["TensorFlow lists a GPU with a stand-in for the driver"] == "failed"


def test_without_a_compiler_the_stand_in_is_not_run(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert checked(tmp_path)["TensorFlow lists a GPU with a stand-in for the driver"] == "not run"


def test_the_newest_versions_are_not_compared_with_themselves(
    played: Played, tmp_path: Path
) -> None:
    assert checked(tmp_path, dict(WANTED.pins))["answers as with the newest versions"] == "not run"
    assert played.installed == ["chosen"]


@pytest.mark.parametrize(("factor", "state"), [(1.0, "passed"), (1.3, "failed")])
def test_on_a_gpu_slower_is_refused(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, state: str
) -> None:
    monkeypatch.setattr(gate, "find_gpus", lambda: Gpus((Gpu("GPU", "9.0", 1, "1"),)))

    def probe(tree: Path) -> str:
        return f'{{"matmul": {1e-3 * (factor if tree.name == "chosen" else 1.0)}}}'

    monkeypatch.setattr(gate, "_launch_on_gpu", probe)
    found = checked(tmp_path)
    assert found["answers, required"] == "passed"
    assert found["speed on the GPU, times the newest versions' time"] == state


def test_a_reference_of_another_python_is_refused(played: Played, tmp_path: Path) -> None:
    played.answers["-V"] = Completed((), 0, "Python 3.11.7\n", "")
    gates = Gate(IndexSettings(), tmp_path, Ui(quiet=True), reference=tmp_path)
    with pytest.raises(ConfigError, match=r"is no environment of Python 3\.13"):
        gates.check(WANTED, NEWEST)
    played.answers["-V"] = Completed((), 0, "Python 3.13.0\n", "")
    gates.check(WANTED, NEWEST)
    assert played.installed == ["chosen"]


def test_the_same_set_is_tried_once(played: Played, tmp_path: Path) -> None:
    gates = Gate(IndexSettings(), tmp_path, Ui(quiet=True))
    assert gates.check(WANTED, NEWEST) == gates.check(WANTED, NEWEST)
    assert played.installed == ["chosen", "newest"]


def test_what_a_killed_process_left_is_cleared(played: Played, tmp_path: Path) -> None:
    dead, alive = (
        tmp_path / "gate" / "gate-999999999-x",
        tmp_path / "gate" / f"gate-{os.getppid()}-x",
    )
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    Gate(IndexSettings(), tmp_path / "gate", Ui(quiet=True)).check(WANTED, NEWEST)
    assert not dead.exists()
    assert alive.exists()


def launches(*values: float) -> Callable[[Path], str]:
    rest = list(values)
    return lambda _: f'{{"conv": {rest.pop(0)}}}'


def test_launches_take_turns() -> None:
    ours, other = speed.measure(launches(1, 2, 3, 4), [Path("a"), Path("b")], 2)
    assert (ours, other) == ({"conv": [1, 3]}, {"conv": [2, 4]})


def test_only_what_is_certainly_slower_counts() -> None:
    steady = {"conv": [1.0] * 7}
    assert speed.compare({"conv": [1.04] * 7}, steady)[0] == []
    assert speed.compare({"conv": [0.9, 1.0, 1.0, 1.0, 1.2, 1.3, 1.4]}, steady)[0] == []
    assert speed.compare({"conv": [1.2] * 7}, steady)[0] == ["conv 1.20 (1.20 to 1.20)"]
