"""A probe goes on with the other models when its process dies, and says where it died."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from answers import ENVIRONMENT, Answers

from tfslim.parity import probe
from tfslim.parity.job import Job
from tfslim.parity.probing import Probed, Settings, probe_target
from tfslim.parity.results import ModelResult
from tfslim.parity.target import Ended, Script


@dataclass
class FakeTarget:
    """Answers all models but those that kill it."""

    deadly: tuple[str, ...] = ()
    starts: bool = True
    name: str = "fake"
    kind: str = "tree"
    scripts: list[Script] = field(default_factory=list)

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        self.scripts.append(script)
        out = job / script.argv[script.argv.index("--out") + 1]
        out.mkdir(parents=True)
        if not self.starts:
            return Ended(127, "error while loading shared libraries")
        (out / probe.ENVIRONMENT).write_text(json.dumps(ENVIRONMENT))
        for name in self.asked(script):
            on_line(f"probe: {name}: load")
            if name in self.deadly:
                return Ended(-11, f"probe: {name}: load\nFatal Python error: Segmentation fault")
            Answers(name).run(x=[1.0]).write(out)
        if "--record" in script.argv:
            (job / script.argv[script.argv.index("--record") + 1]).write_text('{"ops": []}')
        return Ended(0, "")

    def asked(self, script: Script) -> list[str]:
        pairs = zip(script.argv, script.argv[1:], strict=False)
        return [Path(value).name for option, value in pairs if option == "--model"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, ("models/a", "models/b", "models/c"), ("inputs/x.npz",))


def ask(target: FakeTarget, job: Job, **settings: Any) -> Probed:
    return probe_target(target, job, Settings(**settings), lambda text: None, label="stock")


def test_one_process_answers_all_models(job: Job) -> None:
    target = FakeTarget()
    probed = ask(target, job, record=True, batches=(2, 5))
    assert all(isinstance(answers, ModelResult) for answers in probed.answers.values())
    assert list(probed.answers) == ["a", "b", "c"]
    assert probed.environment is not None
    assert probed.records == ({"ops": []},)
    (script,) = target.scripts
    assert "2,5" in script.argv
    assert "inputs/x.npz" in script.argv


def test_a_model_that_kills_the_process_does_not_take_the_others_along(job: Job) -> None:
    target = FakeTarget(deadly=("b",))
    probed = ask(target, job)
    said = probed.answers["b"]
    assert isinstance(said, str)
    assert "SIGSEGV" in said
    assert "b: load" in said
    assert "Segmentation fault" in said
    assert isinstance(probed.answers["c"], ModelResult)
    assert [target.asked(script) for script in target.scripts] == [["a", "b", "c"], ["c"]]


def test_a_target_that_does_not_start_is_tried_once(job: Job) -> None:
    target = FakeTarget(starts=False)
    probed = ask(target, job)
    assert probed.environment is None
    assert len(target.scripts) == 1
    assert all("shared libraries" in str(answers) for answers in probed.answers.values())


def test_gpus_are_hidden_unless_they_are_wanted(job: Job) -> None:
    target = FakeTarget()
    ask(target, job)
    (hidden,) = target.scripts
    assert hidden.env["CUDA_VISIBLE_DEVICES"] == "-1"
    assert not hidden.gpu


def test_deterministic_ops_are_asked_for_twice(tmp_path: Path) -> None:
    target = FakeTarget()
    ask(target, Job(tmp_path, ("models/a",)), gpu=True, deterministic=True)
    (script,) = target.scripts
    assert script.gpu
    assert "--deterministic" in script.argv
    assert script.env["TF_DETERMINISTIC_OPS"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in script.env
