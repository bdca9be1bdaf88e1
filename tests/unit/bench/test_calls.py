"""Calls in a process: when they are stable, and the script in a process of its own."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfslim import proc
from tfslim.bench import calls
from tfslim.bench.inprocess import Calls, call_in_process, staged_calls
from tfslim.bench.telemetry import Telemetry
from tfslim.errors import ServiceError
from tfslim.parity.target import Ended, Script

BACKEND = """
import time
from pathlib import Path

from tfserve_app.backend import BackendInfo, Signature, TensorSpec


class TensorFlowBackend:
    info = BackendInfo("tensorflow", "2.21.0", ())
    signatures = {"serving_default": Signature({"x": TensorSpec("float32", (-1, 3))}, {})}

    def __init__(self, path, log):
        log(f"loading {Path(path).name}")

    def predict(self, signature, inputs):
        assert signature == "serving_default"
        time.sleep(0.001 * len(inputs["x"]))
        return {}
"""


class FakeClock:
    """A clock that only calls move on; each takes what `takes` says of its number."""

    def __init__(self, takes: Callable[[int], float]) -> None:
        self.now, self.number, self.takes = 0.0, itertools.count(), takes

    def call(self) -> float:
        seconds = self.takes(next(self.number))
        self.now += seconds
        return seconds


def stable(monkeypatch: pytest.MonkeyPatch, takes: Callable[[int], float]) -> dict[str, Any]:
    clock = FakeClock(takes)
    monkeypatch.setattr(calls.time, "perf_counter", lambda: clock.now)
    found = calls.until_stable(clock.call, window=1.0, limit=30.0)
    monkeypatch.undo()
    return found


def test_a_steady_model_takes_three_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stable(monkeypatch, lambda _: 0.1)
    assert (found["windows"], found["stable"]) == (3, True)
    assert len(found["latencies_s"]) == pytest.approx(30, abs=3)
    assert found["calls_before"] == pytest.approx(6, abs=1)  # the first, and half a window


def test_a_model_that_warms_up_is_measured_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stable(monkeypatch, lambda number: 0.1 + 0.4 / (1 + number / 4))
    assert found["stable"]
    assert found["windows"] > 3
    assert max(found["latencies_s"]) <= 1.3 * min(found["latencies_s"])


def test_a_model_that_never_settles_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stable(monkeypatch, lambda number: 0.1 * 1.1**number)
    assert not found["stable"]
    assert len(found["latencies_s"]) + found["calls_before"] < 50  # the limit is 30 s


def test_a_slow_model_has_three_calls_in_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stable(monkeypatch, lambda _: 7.0)
    assert len(found["latencies_s"]) == 9


@dataclass(frozen=True)
class Spec:
    dtype: str
    shape: tuple[int, ...] | None


def test_inputs_have_the_batch_first_and_are_the_same_every_time() -> None:
    specs = {
        "image": Spec("float32", (-1, -1, 3)),
        "word": Spec("string", (-1,)),
        "half": Spec("bfloat16", (2, -1)),
        "flag": Spec("bool", (-1,)),
    }
    made = calls.make_inputs(specs, 5)
    assert {name: array.shape for name, array in made.items()} == {
        "image": (5, 1, 3),
        "word": (5,),
        "half": (2, 1),
        "flag": (5,),
    }
    assert made["half"].dtype == np.float32  # as the service's backends take bfloat16
    again = calls.make_inputs(specs, 5)
    assert all((made[name] == again[name]).all() for name in made)


def test_an_input_of_unknown_rank_ends_the_script() -> None:
    with pytest.raises(SystemExit, match="no known rank"):
        calls.make_inputs({"x": Spec("float32", None)}, 1)


@dataclass(frozen=True)
class ProcessTarget:
    """A target that is this Python, with a stand-in for the backend."""

    backend: str = BACKEND
    name: str = "fake"
    kind: str = "fake"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        (job / "service/tfserve_app/tensorflow_backend.py").write_text(self.backend)
        done = proc.stream([sys.executable, "-I", "-B", *script.argv], on_line, cwd=job)
        return Ended(done.returncode, done.tail)


def call(target: ProcessTarget, tmp_path: Path) -> tuple[list[Any], list[str]]:
    model = tmp_path / "net"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"")
    lines: list[str] = []
    plan = Calls((1, 4), 0.2, model, gpu=False)
    with staged_calls(plan) as job:
        found = call_in_process(
            target,
            job,
            plan,
            subject="mine",
            group=3,
            turn=2,
            telemetry=Telemetry(),
            on_line=lines.append,
        )
    return found, lines


def test_each_batch_size_is_a_run_in_the_same_process(tmp_path: Path) -> None:
    start = time.monotonic()
    found, lines = call(ProcessTarget(), tmp_path)
    assert [run.batch_size for run in found] == [1, 4]
    assert {(run.subject, run.group, run.round, run.device) for run in found} == {
        ("mine", 3, 2, "CPU")
    }
    one, four = found
    assert one.backend == "tensorflow"
    assert one.samples_per_second < 1000  # a sample takes a millisecond at least
    assert min(four.latencies_s) >= 0.004
    assert four.seconds <= time.monotonic() - start
    assert any("loading model" in line for line in lines)


def test_a_model_that_cannot_be_called_is_told_with_what_was_said(tmp_path: Path) -> None:
    broken = BACKEND.replace("assert signature", "raise ValueError('no such op'); assert signature")
    with pytest.raises(ServiceError, match="could not be called") as caught:
        call(ProcessTarget(broken), tmp_path)
    assert "no such op" in caught.value.why
