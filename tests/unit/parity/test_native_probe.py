"""The probe through the C API, with a backend that stands in for the service's: no TensorFlow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tfslim.parity
from tfslim.parity.job import staged
from tfslim.parity.results import ModelResult, read_environment, read_model

PARITY = Path(tfslim.parity.__file__).parent
BACKEND = """
from pathlib import Path
import numpy as np
from tfserve_app.capi.library import StatusError
from tfserve_app.backend import Signature, TensorSpec


class Refused(Exception):
    pass


class CapiBackend:
    def __init__(self, path, log):
        if not Path(path).is_dir():
            raise FileNotFoundError(str(path))
        log("loaded by a stand-in")
        self.signatures = {
            "serve": Signature(
                {"x": TensorSpec("float32", (-1, 2)), "half": TensorSpec("bfloat16", (1,))},
                {"sum": TensorSpec("float32", (-1,)), "twice": TensorSpec("bfloat16", (1,)),
                 "words": TensorSpec("string", (1,))},
            )
        }

    def predict(self, name, inputs):
        if len(inputs["x"]) == 3:
            try:
                raise type("ResourceExhaustedError", (StatusError,), {})("all of it\\nis taken")
            except StatusError as error:
                raise Refused("all of it") from error
        return {
            "sum": inputs["x"].sum(axis=1), "twice": 2 * inputs["half"],
            "words": np.array([b"\\xff"], dtype=object),
        }
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The gate's scripts beside a service whose C API is made up."""
    with staged() as real:
        shutil.copytree(real.folder, tmp_path / "job")
    capi = tmp_path / "job" / "tfserve_app" / "capi"
    (capi / "library.py").write_text(
        "class StatusError(Exception): pass\n"
        "class Library: version = '2.21.0'\n"
        "def open_library(): return Library()\n"
    )
    (capi / "gpus.py").write_text("def gpu_names(library, options): return ('card',)\n")
    (capi / "backend.py").write_text(BACKEND)
    (tmp_path / "job" / "models" / "one").mkdir()
    return tmp_path / "job"


def probe(job: Path, *models: str, backend: str = "capi", **environment: str) -> Path:
    asked = [part for model in models for part in ("--model", model)]
    command = [sys.executable, "-B", "probe.py", "--out", "out", "--backend", backend, *asked]
    done = subprocess.run(
        command, cwd=job, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return job / "out"


def answers(job: Path, **environment: str) -> ModelResult:
    return read_model(probe(job, "models/one", **environment) / "one")


def test_answers_are_values_with_their_own_dtypes(job: Path) -> None:
    found = answers(job)
    call = found.calls["run", "serve", "batch 1, seed 0"]
    assert {output.name: output.dtype for output in call.outputs} == {
        "sum": "float32",
        "twice": "bfloat16",
        "words": "string",
    }
    assert call.inputs["half"].dtype == "bfloat16"
    arrays = {output.name: found.arrays[str(output.array)] for output in call.outputs}
    assert arrays["twice"].dtype.kind == "u"
    assert arrays["words"].tolist() == [b"\xff"]
    assert found.notes == ("loaded by a stand-in",)
    assert found.has_signatures


def test_inputs_are_those_that_python_s_tensorflow_is_given(job: Path) -> None:
    call = answers(job).calls["run", "serve", "batch 1, seed 0"]
    # Of the same spec, probed with TensorFlow 2.21.0.
    assert call.inputs["x"].shape == (1, 2)
    assert call.inputs["half"].shape == (1,)


def test_an_error_of_tensorflow_keeps_its_own_name_and_words(job: Path) -> None:
    call = answers(job).calls["run", "serve", "batch 3, seed 0"]
    assert call.error is not None
    assert call.error.type == "ResourceExhaustedError"
    assert call.error.message == "all of it\nis taken"


def test_what_the_service_would_refuse_never_reaches_the_model(job: Path) -> None:
    calls = answers(job).calls
    errors = {case: calls["misuse", "serve", case].error for case in ("wrong rank", "wrong dtype")}
    assert {error.type for error in errors.values() if error} == {"RefusedError"}
    missing = calls["misuse", "serve", "missing input"].error
    assert missing is not None
    assert missing.type == "RefusedError"


def test_the_environment_says_how_it_was_asked(job: Path) -> None:
    found = read_environment(probe(job, "models/one"))
    assert (found.backend, found.tensorflow, found.gpus) == ("capi", "2.21.0", ("card",))


def test_a_model_that_it_cannot_load_is_an_answer(job: Path) -> None:
    result = read_model(probe(job, "models/none.keras") / "none.keras")
    (load,) = result.calls.values()
    assert load.error is not None


@pytest.mark.parametrize(("rules", "backend"), [({"native": {}}, "capi"), ({}, "tensorflow")])
def test_auto_takes_what_slimming_left(job: Path, rules: dict[str, Any], backend: str) -> None:
    (job / "slim").mkdir()
    (job / "slim" / "_tfslim_guard.py").write_text(f"def data(): return {{'rules': {rules!r}}}\n")
    out = probe(job, "models/one", backend="auto", PYTHONPATH=str(job / "slim"))
    assert json.loads((out / "environment.json").read_text())["backend"] == backend
