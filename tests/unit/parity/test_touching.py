"""Which code models run: each kind of model is asked as it can be, and a death is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from answers import ENVIRONMENT, Answers

from tfslim.errors import ServiceError
from tfslim.parity import probe, touching
from tfslim.parity.target import Ended, Script
from tfslim.ui import Ui


@dataclass
class FakeTree:
    """Runs models, and writes down a page for each as the runtime does."""

    dies: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    name: str = "fake"
    kind: str = "tree"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        pairs = list(zip(script.argv, script.argv[1:], strict=False))
        backend = next(value for option, value in pairs if option == "--backend")
        names = [Path(value).name for option, value in pairs if option == "--model"]
        self.asked += [(name, backend) for name in names]
        if self.dies:
            return Ended(-11, "Segmentation fault")
        out = job / next(value for option, value in pairs if option == "--out")
        out.mkdir(parents=True)
        (out / probe.ENVIRONMENT).write_text(json.dumps(ENVIRONMENT))
        with (job / script.env["TFSLIM_COLD_LOG"]).open("a", encoding="ascii") as log:
            for name in names:
                answers = Answers(name)
                answers.run(y=[1.0])
                answers.write(out)
                log.write(f"{len(self.asked):x}000\n")
        return Ended(0, "")


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    for name, file in (("warm", "saved_model.pb"), ("icy", "frozen_graph.pb")):
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / file).touch()
    (tmp_path / "icy" / "freeze.json").write_text('{"format": 1}')
    return [str(tmp_path / "icy"), str(tmp_path / "warm")]


def touched(tree: FakeTree, models: list[str], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    monkeypatch.setattr(touching, "tree_target", lambda _path: tree)
    return touching.touched_pages(Path("tree"), models, Path("state"), Ui(quiet=True), zoo=False)


def test_frozen_models_run_through_the_c_api_and_others_as_ever(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = FakeTree()
    assert touched(tree, models, monkeypatch) == {0x1000, 0x2000}
    assert tree.asked == [("warm", "auto"), ("icy", "capi")]


def test_a_tree_that_does_not_run_any_more(
    models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServiceError, match="does not run models with its code put aside"):
        touched(FakeTree(dies=True), models, monkeypatch)


def test_without_models_everything_starts_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert touched(FakeTree(), [], monkeypatch) == set()
