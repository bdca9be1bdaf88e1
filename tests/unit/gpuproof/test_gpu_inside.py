"""The harness inside a tree: what is refused by a rule, what is not measured, what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpuproof.suites import INSIDE

SUITE = """
from harness import Case

class InternalError(Exception): ...

def cases(tf, np, settings):
    def refuse():
        raise InternalError("CUFFT_NOT_SUPPORTED")
    def lacks():
        raise InternalError("Could not find device for node: X")
    def tf32():
        return tf.constant([float(tf.config.experimental.tf32)])
    yield Case("TF32 off", "float32", tf32, lambda: np.zeros(1))
    yield Case("TF32 on", "tf32", tf32, lambda: np.ones(1), tf32=True)
    yield Case("TF32 off again", "float32", tf32, lambda: np.zeros(1))
    yield Case("refused", "float32", refuse, ops=("FFT2D",))
    yield Case("an error of its own", "float32", refuse, ops=("MatMul",))
    yield Case("lacks", "float32", lacks)
    yield Case("no error", "float32", lambda: tf.constant(1.0), error="InternalError")
    yield Case("on the CPU", "float32", lambda: tf.constant(1.0))
    yield Case("NaN", "float32", lambda: tf.constant([np.nan]), lambda: np.array([1.0]), 1.0)
    yield Case("shape", "float32", lambda: tf.constant([1.0]), lambda: np.ones((2,)), 1.0)
    yield Case("exact", "int32", lambda: tf.constant([1]), lambda: np.array([2]))
"""


def ran(tree: Path, *options: str, **env: str) -> dict[str, dict[str, Any]]:
    (site,) = tree.glob("lib/python3*/site-packages")
    (site / "mysuite.py").write_text(SUITE)
    out = tree / "out.jsonl"
    command = [tree / "bin" / "python", "-I", "-B", INSIDE / "harness.py", "mysuite"]
    done = subprocess.run(
        [*command, "--out", out, *options],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found[-1]["kind"] == "end"
    return {line["name"]: line for line in found if line["kind"] == "case"}


@pytest.fixture
def without_fft(tree: Path) -> Path:
    (site,) = tree.glob("lib/python3*/site-packages")
    (site / "_tfslim.json").write_text(json.dumps({"ops": {"fft": ["*FFT*"]}}))
    return tree


def test_on_a_gpu_what_a_rule_took_out_refuses_and_nothing_else_may(without_fft: Path) -> None:
    found = ran(without_fft, "--device", "gpu", FAKE_TF_GPUS="1")
    assert found["refused"]["status"] == "refused"
    assert found["refused"]["why"] == "as rule fft says"
    assert found["an error of its own"]["status"] == "failed"
    assert "CUFFT_NOT_SUPPORTED" in found["an error of its own"]["why"]
    assert found["on the CPU"]["status"] == "not measured"


def test_on_a_cpu_no_rule_excuses_an_error(without_fft: Path) -> None:
    assert ran(without_fft)["refused"]["status"] == "failed"


def test_what_is_wrong_is_failed(tree: Path) -> None:
    found = ran(tree)
    assert {name: line["status"] for name, line in found.items()} == {
        "refused": "failed",
        "an error of its own": "failed",
        "lacks": "not measured",
        "no error": "failed",
        "on the CPU": "passed",
        "NaN": "failed",
        "shape": "failed",
        "exact": "failed",
        "TF32 off": "passed",
        "TF32 on": "not measured",
        "TF32 off again": "passed",
    }


def test_tf32_is_used_by_the_cases_that_are_about_it_alone(tree: Path) -> None:
    found = ran(tree, "--device", "gpu", FAKE_TF_GPUS="1")
    used = {name: line["sample"] for name, line in found.items() if name.startswith("TF32")}
    assert used == {"TF32 off": [0.0], "TF32 on": [1.0], "TF32 off again": [0.0]}
    assert ran(tree)["TF32 on"]["why"] == "not measured: no GPU (TF32 is a GPU's way)"


def test_cudas_cache_of_compiled_ptx_is_made_where_it_was_asked_for(tree: Path) -> None:
    ran(tree, "--cache", str(tree / "jit"))
    assert (tree / "jit").is_dir()
