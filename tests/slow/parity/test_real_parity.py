"""The parity gate on a real TensorFlow: equal trees pass, and each broken one fails. Minutes.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/parity
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tfslim.errors import InputError
from tfslim.parity.gate import Request, verify
from tfslim.parity.job import find_model, staged
from tfslim.parity.locate import find_target
from tfslim.parity.probing import Probed, Settings, probe_target
from tfslim.parity.verdict import Verdict
from tfslim.parity.zoos import zoo_models
from tfslim.ui import Ui

pytestmark = pytest.mark.slow

KINDS = {"rnn", "attention", "fft", "linalg", "text", "control-flow", "sparse", "random", "cnn"}
QUIET = Ui(quiet=True)


def no_engine() -> None:
    raise AssertionError("no engine is needed")


@pytest.fixture(scope="session")
def stock() -> Path:
    """A virtual environment with TensorFlow, never changed by the tests."""
    place = os.environ.get("TFSLIM_STOCK_TREE")
    if not place:
        pytest.skip("TFSLIM_STOCK_TREE names no venv with tensorflow")
    return Path(place)


@pytest.fixture(scope="session")
def zoo(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    target = find_target(str(stock), no_engine)  # type: ignore[arg-type]
    paths = zoo_models(target, tmp_path_factory.mktemp("zoo"), QUIET)
    return {Path(path).name: path for path in paths}


@pytest.fixture
def copy(stock: Path, tmp_path: Path) -> Iterator[Path]:
    """The stock tree again, made of hard links: a file that changes has to be a new one.

    Headers, and the libraries that only a GPU needs, stay away to save time.
    """
    tree = tmp_path / "tree"
    left_out = shutil.ignore_patterns("include", "nvidia")
    shutil.copytree(stock, tree, symlinks=True, copy_function=os.link, ignore=left_out)
    yield tree
    shutil.rmtree(tree)


def packages(tree: Path) -> Path:
    (found,) = tree.glob("lib/python3*/site-packages")
    return found


def append(path: Path, text: str) -> None:
    """Add lines to a file of a copy; the stock's stays."""
    content = path.read_text()
    path.unlink()
    path.write_text(f"{content}\n{text}\n")


def compare(stock: Path, slim: Path, *models: str, **options: object) -> Verdict:
    request = Request(str(stock), str(slim), models, gpu="off", **options)  # type: ignore[arg-type]
    return verify(request, no_engine, QUIET)  # type: ignore[arg-type]


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {model.name: model.outcome for model in verdict.models}


def reasons(verdict: Verdict) -> str:
    calls = [call for model in verdict.models for call in model.calls]
    said = [str(error) for call in calls for error in (call.error_slim,) if error]
    return "\n".join([*(m.reason for m in verdict.models), *(c.reason for c in calls), *said])


def test_the_zoo_answers_the_same_on_a_copy(stock: Path, copy: Path, zoo: dict[str, str]) -> None:
    assert zoo.keys() > KINDS
    assert any(name.endswith(".keras") for name in zoo)
    verdict = compare(stock, copy, *zoo.values())
    assert verdict.outcome == "passed", reasons(verdict)
    for model in verdict.models:
        compared = sum(output.elements for call in model.calls for output in call.outputs)
        assert compared > 50, model.name
        assert model.notes == (), model.name  # each answer depends on the input
        refused = [call for call in model.calls if call.kind == "misuse" and call.error_stock]
        assert len(refused) >= 2, model.name


KERAS_LAYER = "keras/src/layers/preprocessing/rescaling.py"

OTHER_VALUE = """
_call = Rescaling.call
Rescaling.call = lambda self, inputs: _call(self, inputs) * 1.0000002
"""

DIES = """
def _die(self, inputs):
    import os
    os.abort()
Rescaling.call = _die
"""

OTHER_BIT = """
_numpy = _EagerTensorBase.numpy
def _nudged(self):
    value = _numpy(self)
    if self.dtype.name != "complex64":
        return value
    value = value.copy()
    value.view("uint8").ravel()[0] ^= 1
    return value
_EagerTensorBase.numpy = _nudged
"""

OTHER_INPUTS = """
_frombuffer = frombuffer
def frombuffer(*args, **options):
    made = _frombuffer(*args, **options).copy()
    if made.dtype.itemsize == 4 and made.size:
        made[-1] += 7
    return made
"""

RENAMED = """
_call = ConcreteFunction.__call__
def _renamed(self, *args, **kwargs):
    found = _call(self, *args, **kwargs)
    if not isinstance(found, dict):
        return found
    return {("renamed" if name == "fft2d" else name): value for name, value in found.items()}
ConcreteFunction.__call__ = _renamed
"""

CONCRETE = "tensorflow/python/eager/polymorphic_function/concrete_function.py"


def remove(name: str) -> Callable[[Path], None]:
    def change(site: Path) -> None:
        place = site / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return change


def extend(name: str, text: str) -> Callable[[Path], None]:
    return lambda site: append(site / name, text)


BROKEN = {
    "a layer computes another value": (
        extend(KERAS_LAYER, OTHER_VALUE),
        {"fft": "passed", "two-ways.keras": "failed"},
        "values differ",
    ),
    "one bit of an answer": (
        extend("tensorflow/python/framework/ops.py", OTHER_BIT),
        {"fft": "failed", "two-ways.keras": "passed"},
        "values differ",
    ),
    "numpy makes other inputs": (
        extend("numpy/__init__.py", OTHER_INPUTS),
        {"fft": "failed", "two-ways.keras": "failed"},
        "inputs that were made differ",
    ),
    "a library is gone": (
        remove("tensorflow/libtensorflow_framework.so.2"),
        {"fft": "failed", "two-ways.keras": "failed"},
        "libtensorflow_framework",
    ),
    "a module is gone": (
        remove("h5py"),
        {"fft": "passed", "two-ways.keras": "failed"},
        "an error on one side only: slim",
    ),
    "an output has another name": (
        extend(CONCRETE, RENAMED),
        {"fft": "failed", "two-ways.keras": "passed"},
        "outputs are called otherwise",
    ),
    "the process dies in one model": (
        extend(KERAS_LAYER, DIES),
        {"fft": "passed", "two-ways.keras": "failed"},
        "ended by SIGABRT",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tree_fails(stock: Path, copy: Path, zoo: dict[str, str], name: str) -> None:
    change, expected, word = BROKEN[name]
    change(packages(copy))
    verdict = compare(stock, copy, zoo["two-ways.keras"], zoo["fft"])
    assert verdict.outcome == "failed"
    assert outcomes(verdict) == expected, reasons(verdict)
    assert word in reasons(verdict)


def test_a_broken_stock_is_no_measure(copy: Path, stock: Path, zoo: dict[str, str]) -> None:
    remove("tensorflow/libtensorflow_framework.so.2")(packages(copy))
    with pytest.raises(InputError, match="no working TensorFlow"):
        compare(copy, stock, zoo["fft"])


def test_real_inputs_take_the_place_of_made_up_ones(
    stock: Path, zoo: dict[str, str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "text.npz", text=np.array(["the lazy dog", "été"]))
    np.savez(tmp_path / "signal.npz", signal=np.ones((2, 256)))  # float64, as numpy makes it
    inputs = (tmp_path / "text.npz", tmp_path / "signal.npz")
    verdict = compare(stock, stock, zoo["text"], zoo["fft"], inputs=inputs)
    assert verdict.outcome == "passed"
    real = [call for model in verdict.models for call in model.calls if call.case.endswith(".npz")]
    assert {call.signature for call in real} == {"serving_default", "strings"}
    assert all(call.outputs for call in real)
    with pytest.raises(InputError, match="holds the inputs of no signature"):
        compare(stock, stock, zoo["rnn"], inputs=inputs[:1])


def probe(stock: Path, source: str, **settings: object) -> Probed:
    target = find_target(str(stock), no_engine)  # type: ignore[arg-type]
    with staged([find_model(source, Path("unused"), QUIET)]) as job:
        chosen = Settings(**settings)  # type: ignore[arg-type]
        return probe_target(target, job, chosen, lambda text: None, label="test")


def test_an_op_that_hangs_is_ended_with_its_stack(copy: Path, zoo: dict[str, str]) -> None:
    hangs = "def _wait(self, inputs):\n    import time\n    time.sleep(600)\nRescaling.call = _wait"
    append(packages(copy) / KERAS_LAYER, hangs)
    (said,) = probe(copy, zoo["two-ways.keras"], seconds=10).answers.values()
    assert "Timeout" in str(said)
    assert "rescaling.py" in str(said)
