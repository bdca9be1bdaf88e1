"""On a machine with an NVIDIA GPU: the proof itself, over the tree in TFSLIM_GPU_TREE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import prove
from gpuproof.document import load
from tfslim.bench.device import choose_root_device

pytestmark = pytest.mark.gpu


@pytest.fixture
def tree() -> str:
    """The slimmed tree to be proved, a folder or a pack."""
    device = choose_root_device("auto")
    if not device.gpu:
        pytest.skip(device.text)
    named = os.environ.get("TFSLIM_GPU_TREE", "")
    if not named:
        pytest.skip("TFSLIM_GPU_TREE names no slimmed tree (or pack) to be proved")
    return named


def test_every_part_that_can_run_here_passes(tree: str, tmp_path: Path) -> None:
    arguments = ["--device", "gpu", "--state", str(tmp_path / "state"), "-o", str(tmp_path / "out")]
    stock = os.environ.get("TFSLIM_STOCK_TREE")
    if stock:
        arguments += ["--stock", f"stock={stock}"]
    status = prove.main([f"slim={tree}", *arguments])
    document = load(tmp_path / "out" / "proof.json")
    bad = [step for step in document.steps if step.status in ("failed", "crashed", "timed out")]
    assert status == 0, "\n".join(f"{'.'.join(step.key)}: {step.why}" for step in bad)
    assert any(step.on_gpu for step in document.steps)
    assert not any(parity.differ for parity in document.parity)
