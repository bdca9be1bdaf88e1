"""From what the recorder wrote to a trace: complete and honest, or none at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import ENVIRONMENT, Answers

from tfslim.errors import InputError, ModelError, ServiceError, TfslimError
from tfslim.parity import probe, tracing
from tfslim.parity.target import Ended, Script
from tfslim.slim.trace import Trace
from tfslim.ui import Ui

RECORD: dict[str, Any] = {
    "python": "3.11",
    "machine": "x86_64",
    "packages": {"tensorflow": "2.21.0"},
    "gpus": [],
    "ops": ["Conv2D"],
    "kernels": ["CPU Conv2D T=float32"],
    "libraries": ["libc.so.6"],
    "dlopened": ["libtensorflow_cc.so.2"],
    "opened": ["site-packages/a/__pycache__/b.cpython-311.pyc", "site-packages/a/b.py"],
    "problems": [],
}


@dataclass
class FakeTarget:
    """Answers every model as it is told."""

    answers: Callable[[Answers], object]
    record: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=lambda: ENVIRONMENT)
    name: str = "fake"
    kind: str = "tree"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        pairs = list(zip(script.argv, script.argv[1:], strict=False))
        out = job / next(value for option, value in pairs if option == "--out")
        out.mkdir(parents=True)
        (out / probe.ENVIRONMENT).write_text(json.dumps(self.environment))
        for name in (Path(value).name for option, value in pairs if option == "--model"):
            answers = Answers(name)
            self.answers(answers)
            answers.write(out)
        place = next(value for option, value in pairs if option == "--record")
        (job / place).write_text(json.dumps(self.record))
        return Ended(0, "")


Tracer = Callable[..., Trace]


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    """Trace a small model in a fake target."""
    model = tmp_path / "cnn"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    np.savez(tmp_path / "real.npz", x=np.zeros(3))

    def trace(
        answers: Callable[[Answers], object] = lambda answers: answers.run(y=[1.0]),
        environment: dict[str, Any] | None = None,
        **record: Any,
    ) -> Trace:
        target = FakeTarget(answers, {**RECORD, **record}, {**ENVIRONMENT, **(environment or {})})
        monkeypatch.setattr(tracing, "find_target", lambda *_: target)
        request = tracing.Request("fake", (str(model),), (tmp_path / "real.npz",), gpu="off")
        return tracing.trace_models(request, lambda: None, Ui(quiet=True))  # type: ignore[arg-type,return-value]

    return trace


def test_what_was_recorded_becomes_a_trace(traced: Tracer) -> None:
    trace = traced()
    assert trace.tensorflow == "2.21.0"
    assert trace.ops == {"Conv2D"}
    assert trace.opened == {"site-packages/a/b.py"}
    assert trace.libraries == {"libc.so.6", "libtensorflow_cc.so.2"}
    (model,) = trace.models
    assert model.name == "cnn"
    assert model.calls == {"serve": {"batch 1, seed 0"}}


def test_real_inputs_are_named_with_their_digest(traced: Tracer, tmp_path: Path) -> None:
    trace = traced(lambda answers: answers.run(y=[1.0]).run(case="real.npz", y=[2.0]))
    digest = hashlib.sha256((tmp_path / "real.npz").read_bytes()).hexdigest()
    assert f"real.npz, sha256 {digest[:16]}…" in trace.models[0].calls["serve"]


def test_another_model_of_the_same_name_has_another_digest(traced: Tracer, tmp_path: Path) -> None:
    first = traced().models[0].sha256
    (tmp_path / "cnn" / "saved_model.pb").write_bytes(b"another graph")
    assert traced().models[0].sha256 != first


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"problems": ["/x cannot be watched: No space left"]}, InputError, "No space left"),
        ({"ops": "Conv2D"}, InputError, "cannot be read"),
        ({"extra": 1}, InputError, "cannot be read"),
        ({"opened": ["a\nb"]}, InputError, "not a name"),
        (
            {"environment": {"import_error": {"type": "ImportError", "message": "no numpy"}}},
            InputError,
            "no numpy",
        ),
    ],
)
def test_a_recording_with_holes_is_no_trace(
    options: dict[str, Any], kind: type[TfslimError], says: str, traced: Tracer
) -> None:
    with pytest.raises(kind) as caught:
        traced(**options)
    assert says in str(caught.value)


def test_a_signature_that_never_ran_asks_for_real_inputs(traced: Tracer) -> None:
    with pytest.raises(ModelError, match="'serve'") as caught:
        traced(lambda answers: answers.error("InvalidArgumentError", "not such sizes"))
    assert "not such sizes" in caught.value.why
    assert "--trace-input" in caught.value.way_out
    ran = traced(
        lambda answers: answers.error("ValueError", "no", case="batch 3").run(case="real.npz")
    )
    assert len(ran.models[0].calls["serve"]) == 1


def test_a_model_that_does_not_load_is_told(traced: Tracer) -> None:
    def broken(answers: Answers) -> None:
        answers.calls[0].update(status="error", error={"type": "OSError", "message": "no file"})

    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        traced(broken)
    assert "no file" in caught.value.why


def test_a_frozen_model_is_not_traced(traced: Tracer, tmp_path: Path) -> None:
    (tmp_path / "cnn" / "freeze.json").write_text('{"format": 1}')
    (tmp_path / "cnn" / "frozen_graph.pb").touch()
    with pytest.raises(ModelError, match="a frozen model cannot be traced: cnn") as caught:
        traced()
    assert "Trace the SavedModel that was frozen" in caught.value.way_out


def test_a_target_that_dies_is_told(traced: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: FakeTarget, job: Path, script: Script, on_line: object) -> Ended:
        out = job / script.argv[script.argv.index("--out") + 1]
        out.mkdir(parents=True)
        (out / probe.ENVIRONMENT).write_text(json.dumps(ENVIRONMENT))
        return Ended(-11, "Segmentation fault")

    monkeypatch.setattr(FakeTarget, "run", dies)
    with pytest.raises(ServiceError, match="died while it ran cnn") as caught:
        traced()
    assert "SIGSEGV" in caught.value.why
