"""What each event leads to: a push, a pull request, one from a fork, and what follows it."""

from __future__ import annotations

import json

import pytest

from act_runner import TOKEN, World, step

pytestmark = pytest.mark.action


def test_a_push_is_measured_and_told_in_the_summary(world: World) -> None:
    world.use(step(dockerfile="Dockerfile"))
    run = world.push()
    assert run.jobs == {"measure": "success"}, run
    outputs = run.outputs("tfslim")
    assert outputs["verdict"] == "good"
    assert int(outputs["disk-bytes"]) == 300_000
    record = json.loads((run.artifact("tfslim-report-tfslim") / "report.json").read_text())
    assert record["sizes"]
    assert "tfslim-report:tfslim" in run.summary
    assert not world.fake.asked("POST")
    assert TOKEN not in run.everything
