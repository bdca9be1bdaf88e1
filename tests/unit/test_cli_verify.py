"""`tfslim verify` as a person uses it, on trees whose Python answers what the test says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from engine_fakes import program
from tfslim.cli import cli
from tfslim.errors import ModelError, TfslimError

HERE = Path(__file__).resolve().parent
STAND_IN = HERE / "parity" / "stand_in.py"
CI = HERE.parents[1] / "ci"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, **answers: Any) -> Path:
        folder = tmp_path / name
        path = f"PYTHONPATH={CI}:{STAND_IN.parent}"
        program(folder / "bin", "python", f'{path} exec {sys.executable} {STAND_IN} {folder} "$@"')
        (folder / "answers.json").write_text(json.dumps(answers))
        return folder

    return make


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    for name in ("first", "second"):
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "saved_model.pb").touch()
    return ["--model", str(tmp_path / "first"), "--model", str(tmp_path / "second")]


@dataclass(frozen=True)
class Done:
    """What a person is left with."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        done = CliRunner().invoke(cli, ["verify", *map(str, arguments)])
        error = done.exception
        if isinstance(error, TfslimError):
            return Done(error.exit_code, done.stdout, f"{done.stderr}\n{error}")
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


def test_equal_answers_pass(tree: Any, models: list[str], verify: Any) -> None:
    done = verify(tree("stock"), tree("slim"), *models)
    assert done.returncode == 0, done.stderr
    assert "passed (2 passed)" in done.stdout
    assert "no GPU code was run" in done.stdout


def test_another_answer_fails_and_the_evidence_is_kept(
    tree: Any, models: list[str], verify: Any, tmp_path: Path
) -> None:
    slim = tree("slim", second=[1.0, 2.5])
    done = verify(
        tree("stock", second=[1.0, 2.0]), slim, *models, "-o", tmp_path / "v/verdict.json"
    )
    assert done.returncode == 11
    assert "first at [1]: 2.0 became 2.5" in done.stdout
    assert "does not answer as" in done.stderr
    verdict = json.loads((tmp_path / "v/verdict.json").read_text())
    assert verdict["outcome"] == "failed"
    assert {model["name"]: model["outcome"] for model in verdict["models"]} == {
        "first": "passed",
        "second": "failed",
    }
    (output,) = verdict["models"][1]["calls"][1]["outputs"]
    assert (output["max_abs"], output["differing"], output["elements"]) == (0.5, 1, 2)
    assert verdict["rules"]["cpu"]["kind"] == "bits"


def test_a_tolerance_has_to_be_asked_for(tree: Any, models: list[str], verify: Any) -> None:
    both = tree("stock", second=[2.0]), tree("slim", second=[2.0000001])
    assert verify(*both, *models).returncode == 11
    done = verify(*both, *models, "--rtol", "1e-6")
    assert done.returncode == 0
    assert "within rtol 1e-06" in done.stdout


def test_errors_alone_are_inconclusive(tree: Any, models: list[str], verify: Any) -> None:
    done = verify(tree("stock", first="error"), tree("slim", first="error"), *models)
    assert done.returncode == 21
    assert "never ran with comparable results: serve" in done.stdout


def test_other_versions_may_word_an_error_otherwise(
    tree: Any, models: list[str], verify: Any
) -> None:
    stock, newer = tree("stock"), {"environment": {"python": "3.13.5"}}
    assert verify(stock, tree("same", refusal="in other words"), *models).returncode == 11
    done = verify(stock, tree("newer", refusal="in other words", **newer), *models)
    assert done.returncode == 0
    assert "errors by type" in done.stdout


NATIVE = {"backend": "capi", "keras": ""}


def test_a_native_tree_is_asked_for_what_it_serves_and_the_rest_is_counted(
    tree: Any, models: list[str], verify: Any, tmp_path: Path
) -> None:
    stock = tree("stock", loaders={"second": "keras"})
    slim = tree("slim", environment=NATIVE, second="error")
    done = verify(stock, slim, *models, "-o", tmp_path / "verdict.json")
    assert done.returncode == 0, done.stderr
    assert "passed (1 passed, 1 not asked)" in done.stdout
    assert "1 of the models have no signatures and were not asked" in done.stdout
    assert "errors by kind" in done.stdout
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["models"][1]["outcome"] == "not asked"


def test_a_native_tree_asked_for_nothing_has_shown_nothing(
    tree: Any, models: list[str], verify: Any
) -> None:
    stock = tree("stock", loaders={"first": "keras", "second": "keras"})
    done = verify(stock, tree("slim", environment=NATIVE), *models)
    assert done.returncode == 11
    assert "nothing was compared: it has no signatures" in done.stdout


def test_a_native_tree_that_cannot_open_its_library_fails(
    tree: Any, models: list[str], verify: Any
) -> None:
    error = {"type": "ModelLoadError", "message": "TensorFlow cannot be opened: libc"}
    environment = {**NATIVE, "import_error": error}
    broken = tree("slim", environment=environment, first="error", second="error")
    done = verify(tree("stock", loaders={"second": "keras"}), broken, *models)
    assert done.returncode == 11
    assert "0 calls" not in done.stdout.splitlines()[0]


def freeze(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "freeze.json").write_text('{"format": 1}')
    (folder / "frozen_graph.pb").touch()
    return ["--model", str(folder)]


def test_frozen_models_are_asked_of_both_sides_through_the_c_api(
    tree: Any, verify: Any, tmp_path: Path
) -> None:
    stock, slim = tree("stock"), tree("slim")
    done = verify(stock, slim, *freeze(tmp_path / "icy"))
    assert done.returncode == 0
    assert "before freezing was measured then" in " ".join(done.stdout.split())
    assert {(side / "backends").read_text() for side in (stock, slim)} == {"capi\n"}


def test_frozen_models_are_compared_by_themselves(
    tree: Any, models: list[str], verify: Any, tmp_path: Path
) -> None:
    icy = freeze(tmp_path / "icy")
    done = verify(tree("stock"), tree("slim"), *icy, *models)
    assert (done.returncode, "by themselves: icy" in done.stderr) == (ModelError.exit_code, True)
    done = verify(tree("stock"), tree("slim"), *icy, "--backend", "tensorflow")
    assert (done.returncode, "does not load" in done.stderr) == (ModelError.exit_code, True)


def test_a_slim_tree_that_dies_fails_and_the_other_models_are_still_judged(
    tree: Any, models: list[str], verify: Any
) -> None:
    done = verify(tree("stock"), tree("slim", first="dies"), *models)
    assert done.returncode == 11
    assert "ended by SIGABRT" in done.stdout
    assert "1 passed, 1 failed" in done.stdout


def test_nothing_compared_is_a_failure(tree: Any, models: list[str], verify: Any) -> None:
    dead = {"first": "dies", "second": "dies"}
    done = verify(tree("stock", **dead), tree("slim", **dead), *models)
    assert done.returncode == 11
    assert "nothing was compared" in done.stdout


def test_a_slim_tree_that_lost_the_gpu_fails(tree: Any, models: list[str], verify: Any) -> None:
    done = verify(tree("stock", environment={"gpus": ["H200"]}), tree("slim"), *models)
    assert done.returncode == 11
    assert "gpus" in done.stdout


def test_on_a_gpu_both_a_tolerance_and_deterministic_bits_are_asked_for(
    tree: Any, models: list[str], verify: Any
) -> None:
    gpu = {"environment": {"gpus": ["H200"]}}
    stock, same = tree("stock", **gpu, first=[2.0]), tree("same", **gpu, first=[2.0])
    done = verify(stock, same, *models)
    assert done.returncode == 0, done.stderr
    assert "rule: gpu: within" in done.stdout
    assert "rule: gpu-deterministic: bit for bit" in done.stdout
    assert "no GPU code" not in done.stdout
    done = verify(stock, tree("near", **gpu, first=[2.000000000001]), *models)
    assert done.returncode == 11
    assert "[gpu-deterministic]" in done.stdout
    assert "[gpu]" not in done.stdout


def test_a_stock_without_tensorflow_measures_nothing(
    tree: Any, models: list[str], verify: Any
) -> None:
    error = {"type": "ModuleNotFoundError", "message": "No module named 'tensorflow'"}
    done = verify(tree("stock", environment={"import_error": error}), tree("slim"), *models)
    assert done.returncode == 9
    assert "no working TensorFlow" in done.stderr


def test_without_models_the_stock_makes_a_zoo_once(tree: Any, verify: Any, tmp_path: Path) -> None:
    both = tree("stock"), tree("slim")
    first, second = verify(*both), verify(*both)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "bear" in second.stdout
    assert "makes models for tensorflow2.21.0" in first.stderr
    assert "makes models" not in second.stderr
    (zoo,) = (tmp_path / ".tfslim/zoo").iterdir()
    assert zoo.name.startswith("tensorflow2.21.0-")


def test_real_inputs_are_used_or_refused(
    tree: Any, models: list[str], verify: Any, tmp_path: Path
) -> None:
    np.savez(tmp_path / "real.npz", x=np.ones(3))
    taken = {"takes inputs": True}
    given = [*models, "--input", tmp_path / "real.npz"]
    assert verify(tree("stock", **taken), tree("slim", **taken), *given).returncode == 0
    done = verify(tree("stock"), tree("slim"), *given)
    assert done.returncode == 9
    assert "holds the inputs of no signature" in done.stderr
    (tmp_path / "real.npz").write_text("no arrays")
    done = verify(tree("stock"), tree("slim"), *given)
    assert done.returncode == 9
    assert "numpy.savez" in done.stderr


def test_json_is_json_alone(tree: Any, models: list[str], verify: Any) -> None:
    done = verify(tree("stock"), tree("slim"), *models, "--json")
    assert json.loads(done.stdout)["outcome"] == "passed"


def test_a_gpu_that_is_required_has_to_be_seen_by_tensorflow(
    tree: Any, models: list[str], verify: Any
) -> None:
    done = verify(tree("stock"), tree("slim"), *models, "--gpu", "required")
    assert done.returncode == 3
    assert "GPU is required" in done.stderr


def test_mistyped_values_name_the_way_out(tree: Any, models: list[str], verify: Any) -> None:
    done = verify(tree("stock"), tree("slim"), *models, "--batch", "one")
    assert done.returncode == 2
    assert "--batch 1,3" in done.stderr
    done = verify(tree("stock"), tree("slim"), "--model", "nothing")
    assert done.returncode == 6
