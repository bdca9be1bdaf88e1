"""Profile workload on a real TensorFlow: what was traced works, anything else works or says why.

    TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_workload.py

Minutes, gigabytes, no GPU. Nobody else may use the tree meanwhile: it would be traced, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfslim.parity import gate, tracing
from tfslim.parity.locate import find_target
from tfslim.parity.probing import Settings
from tfslim.parity.verdict import ModelVerdict
from tfslim.parity.zoos import zoo_models
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import Margin, make_policy
from tfslim.slim.trace import Trace, load, merge
from tfslim.ui import Ui

pytestmark = pytest.mark.slow

UI = Ui(quiet=True)
APP = Path(__file__).parents[3] / "dockerfiles" / "app"
ONCE = Settings(batches=(1,), seeds=1)


def no_engine() -> None:
    raise AssertionError("a tree needs no engine")


@pytest.fixture(scope="module")
def zoo(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small models of many kinds, by name."""
    target = find_target(str(stock), no_engine)  # type: ignore[arg-type]
    made = zoo_models(target, tmp_path_factory.mktemp("zoo"), UI)
    return {Path(path).name: path for path in made}


def traced(stock: Path, *models: str) -> Trace:
    request = tracing.Request(str(stock), models, settings=ONCE)
    return tracing.trace_models(request, no_engine, UI)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trace(stock: Path, zoo: dict[str, str]) -> Trace:
    return traced(stock, zoo["cnn"])


def slim(tree: Path, trace: Trace, margin: Margin) -> None:
    """Slim a tree in place; what it shares with others by hard links is not written to."""
    policy = make_policy("workload", parse_targets("90"), trace=trace, margin=margin)
    outcome = apply_plan(make_plan(tree, policy), tree)
    assert not outcome.restored


@pytest.fixture(scope="module")
def slimmed(stock: Path, trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stock tree as the CNN alone needs it, with the default margin."""
    tree = tmp_path_factory.mktemp("workload") / "tree"
    subprocess.run(["cp", "-al", str(stock), str(tree)], check=True)
    slim(tree, trace, "package")
    yield tree
    shutil.rmtree(tree)


def judged(stock: Path, tree: Path, *models: str) -> dict[str, ModelVerdict]:
    request = gate.Request(str(stock), str(tree), models, settings=ONCE)
    verdict = gate.verify(request, no_engine, UI)  # type: ignore[arg-type]
    return {model.name: model for model in verdict.models}


def python(tree: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(tree / "bin" / "python"), "-I", "-B", "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_a_trace_names_what_a_model_reached(trace: Trace) -> None:
    assert {"Conv2D", "BiasAdd"} <= trace.ops
    assert any(kernel.startswith("CPU ") and "Conv2D" in kernel for kernel in trace.kernels)
    assert "site-packages/tensorflow/__init__.py" in trace.opened
    assert "libtensorflow_cc.so.2" in trace.libraries
    assert "site-packages/tensorflow/python/tools/freeze_graph.py" not in trace.opened
    assert trace.packages["tensorflow"] == trace.tensorflow
    assert [model.name for model in trace.models] == ["cnn"]


def test_what_xla_compiles_is_seen(stock: Path, zoo: dict[str, str]) -> None:
    assert "@xla" in traced(stock, zoo["compiled"]).ops


def test_the_traced_model_answers_as_before(
    stock: Path, slimmed: Path, zoo: dict[str, str]
) -> None:
    assert judged(stock, slimmed, zoo["cnn"])["cnn"].outcome == "passed"


def test_every_other_model_answers_as_before_or_is_refused_clearly(
    stock: Path, slimmed: Path, zoo: dict[str, str]
) -> None:
    verdicts = judged(stock, slimmed, *zoo.values())
    refused = {name: verdict for name, verdict in verdicts.items() if verdict.outcome != "passed"}
    assert {"fft", "linalg"} <= refused.keys()
    assert {"cnn", "control-flow", "text"}.isdisjoint(refused)
    for name, verdict in refused.items():
        (load,) = [call for call in verdict.calls if call.kind == "load"]
        assert load.error_slim is not None, name
        assert load.error_slim.type == "RemovedOpError", name
        assert "slim with --keep" in load.error_slim.message
        assert not any(call.outputs for call in verdict.calls), name


def test_the_service_ends_with_one_line(slimmed: Path, zoo: dict[str, str]) -> None:
    code = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from tfserve_app.errors import ModelLoadError
from tfserve_app.tensorflow_backend import TensorFlowBackend
try:
    TensorFlowBackend(pathlib.Path(sys.argv[2]), print)
except ModelLoadError as error:
    print("REFUSED", error)
"""
    said = python(slimmed, code, str(APP), zoo["fft"]).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("REFUSED")]
    assert "FFT" in line
    assert "rule fft" in line
    assert "--keep cufft" in line
    assert "REFUSED" not in python(slimmed, code, str(APP), zoo["cnn"]).stdout


def test_a_removed_module_says_so(slimmed: Path) -> None:
    (place,) = slimmed.glob("lib/python3*/site-packages/_tfslim.json")
    modules = json.loads(place.read_text())["modules"]
    gone = next(name for name, rule in modules.items() if rule == "unreached-modules")
    done = python(slimmed, f"import {gone}")
    assert "ModuleNotFoundError" in done.stderr
    assert "rule unreached-modules" in done.stderr
    assert "--keep unreached" in done.stderr


def test_margin_file_keeps_less_and_the_model_answers_as_before(
    stock: Path, slimmed: Path, trace: Trace, zoo: dict[str, str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-al", str(slimmed), str(tree)], check=True)
    slim(tree, trace, "file")
    sources = [len(list(each.rglob("keras/**/*.py"))) for each in (tree, slimmed)]
    assert sources[0] < sources[1]
    assert judged(stock, tree, zoo["cnn"])["cnn"].outcome == "passed"


def test_a_trace_is_the_same_each_time_and_in_any_place(
    stock: Path, trace: Trace, zoo: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    subprocess.run(["cp", "-al", str(stock), str(other)], check=True)
    again = traced(other, zoo["cnn"])
    again.save(tmp_path / "again.json")
    assert load(tmp_path / "again.json") == again
    assert again.ops == trace.ops
    assert {name for name in again.opened if name.startswith("site-packages/")} == {
        name for name in trace.opened if name.startswith("site-packages/")
    }
    assert merge([trace, again]).ops == trace.ops
