"""`tfslim slim IMAGE`: an image that answers differently is none; why there was no comparison."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tfslim import cli_slim
from tfslim.cli_slim import Request, perform, why_no_gate
from tfslim.errors import VerifyError
from tfslim.parity.verdict import ModelVerdict, Side, Verdict
from tfslim.slim.plan import Plan
from tfslim.ui import Ui

REQUEST = Request("my/model:1", "90", "arch", tag="my/model:slim")


class Engine:
    """Remembers which names were taken back."""

    def __init__(self) -> None:
        self.images = self
        self.removed: list[str] = []

    def remove(self, name: str, *, noprune: bool) -> None:
        assert noprune
        self.removed.append(name)

    def close(self) -> None: ...


def plan(*paths: str) -> Any:
    files = tuple(type("File", (), {"path": path})() for path in paths)
    return Plan.model_construct(files=files, unexplained_bytes=0)


TENSORFLOW = plan("site-packages/tensorflow/libtensorflow_cc.so.2")


def verdict(outcome: Any) -> Verdict:
    side = Side.model_construct(name="my/model:slim")
    return Verdict.model_construct(
        outcome=outcome,
        reason="because",
        stock=Side.model_construct(name="my/model:1"),
        slim=side,
        models=(ModelVerdict(name="rnn", outcome=outcome, reason="because"),),
        differences=(),
        unseen=(),
        rules={},
        seconds=1.0,
        started=datetime.now(UTC),
    )


@pytest.fixture
def slimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an image that is slimmed already: slimming has its own tests."""
    fields = {"plan": TENSORFLOW, "outcome": None, "rewritten": None, "host_code": ()}
    done = type("Done", (), fields)()
    monkeypatch.setattr(cli_slim, "slim_image", lambda *_, **__: done)
    monkeypatch.setattr(cli_slim, "Result", lambda **fields: fields)


@pytest.mark.usefixtures("slimmed")
def test_an_image_that_answers_differently_loses_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    engine = Engine()

    def verify(request: Any, *_: Any) -> Verdict:
        asked.append(request)
        return verdict("failed")

    monkeypatch.setattr(cli_slim.gate, "verify", verify)
    with pytest.raises(VerifyError, match="does not answer as"):
        perform(REQUEST, lambda: engine, Ui(quiet=True))  # type: ignore[arg-type,return-value]
    assert (asked[0].stock, asked[0].slim) == ("my/model:1", "my/model:slim")
    assert engine.removed == ["my/model:slim"]


@pytest.mark.usefixtures("slimmed")
def test_one_that_answers_equally_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(cli_slim.gate, "verify", lambda *_: verdict("passed"))
    result: Any = perform(REQUEST, lambda: engine, Ui(quiet=True))  # type: ignore[arg-type,return-value]
    assert result["gate"].outcome == "passed"
    assert engine.removed == []


@pytest.mark.parametrize(
    ("change", "made", "why"),
    [
        ({}, TENSORFLOW, ""),
        ({"gate": False}, TENSORFLOW, "--no-gate"),
        ({"output": Path("x.tar")}, TENSORFLOW, "an archive does not run"),
        ({}, plan("lib/libcublas.so.12"), "changes no TensorFlow"),
        ({"profile": "workload"}, TENSORFLOW, "name their models"),
        ({"profile": "workload", "models": ("m",)}, TENSORFLOW, ""),
    ],
)
def test_why_there_is_no_comparison(change: dict[str, Any], made: Any, why: str) -> None:
    fields = {"source": "my/model:1", "cuda_arch": "90", "profile": "arch", "tag": "x"} | change
    found = why_no_gate(Request(**fields), made)
    assert found == why if not why else why in found
