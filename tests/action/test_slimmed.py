"""`slim: true`, on an image with small real GPU libraries: made smaller, proved, both measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from act_runner import World, step

pytestmark = pytest.mark.action

LIBRARIES = Path(__file__).resolve().parents[1] / "fixtures" / "slim"


def test_an_image_is_slimmed_and_both_are_measured(world: World) -> None:
    world.repository.write(
        {
            "Dockerfile": "FROM scratch\nCOPY lib/ /usr/lib/\n",
            **{f"lib/{path.name}": path.read_bytes() for path in LIBRARIES.glob("*.so")},
        }
    )
    world.use(
        step(dockerfile="Dockerfile", slim=True, cuda_archs="90"),
        {
            "run": 'docker image inspect --format "{{json .Config.Labels}}" "$IMAGE"',
            "env": {"IMAGE": "${{ steps.tfslim.outputs.image }}"},
        },
    )
    run = world.push().expect(measure="success")
    record = json.loads((run.artifact("tfslim-report-tfslim") / "report.json").read_text())
    stock, slim = (record["sizes"][name] for name in ("stock", "slim"))
    # Most of these libraries is code for other GPUs.
    assert slim["disk_bytes"] < 0.8 * stock["disk_bytes"]
    assert slim["pull_bytes"] < 0.6 * stock["pull_bytes"]
    assert set(stock["gpu"]["by_arch_bytes"]) >= {"sm_75", "sm_80", "sm_90", "sm_100"}
    assert '"io.tfslim.cuda-archs":"90"' in run.log
    assert run.outputs("tfslim")["image"].endswith("-slim")
    assert "| slim |" in run.summary
