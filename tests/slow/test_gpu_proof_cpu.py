"""The proof's suites on a CPU with the real TensorFlow: every case that can run there passes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import prove
from gpuproof.document import load
from gpuproof.plan import DATA, load_plan

SUITES = [part.id for part in load_plan(DATA).parts if part.kind == "suite"]

pytestmark = pytest.mark.slow


@pytest.fixture
def stock() -> Path:
    """The tree in TFSLIM_STOCK_TREE."""
    named = os.environ.get("TFSLIM_STOCK_TREE")
    if not named:
        pytest.skip("TFSLIM_STOCK_TREE names no environment with TensorFlow")
    return Path(named)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_agrees_with_its_references(suite: str, stock: Path, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--parts", suite, "--state", str(tmp_path / "state"), "-q"]
    status = prove.main([f"tree={stock}", *options, "-o", str(tmp_path / "out")])
    document = load(tmp_path / "out" / "proof.json")
    cases = [case for step in document.steps for case in step.cases]
    wrong = {case.name: case.why for case in cases if case.status not in ("passed", "not measured")}
    assert status == 0, wrong or [step.why for step in document.steps]
    assert sum(case.status == "passed" for case in cases) >= 10
    distances = [case.distance for case in cases if case.distance is not None]
    assert distances, "something was held against a reference"
