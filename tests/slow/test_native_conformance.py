"""Both backends over real models: the same signatures, the same bits, the same errors. Minutes.

Both are compared with Python's TensorFlow that loads each model as it is (TFSLIM_LEAN=off).

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/test_native_conformance.py
"""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfslim.models import mobilenet_command, resolve_model
from tfslim.ui import Ui

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
APP = ROOT / "dockerfiles" / "app"
STOCK = os.environ.get("TFSLIM_STOCK_TREE", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STOCK, reason="TFSLIM_STOCK_TREE (a venv with TensorFlow) is not set"),
]

ZOO = (
    *("arrays", "attention", "cnn", "compiled", "control-flow", "convolutions", "fft", "image"),
    *("linalg", "random", "rnn", "sparse", "text"),
)
CORNERS = ("types", "shapes", "text-form", "old", "two-graphs", "sparse-input", "quantised", "mute")
DEMOS = ("basic-pitch", "mobilenet")


def stock(*argv: str | Path, **env: str) -> str:
    """Run the stock interpreter; return what it printed."""
    done = subprocess.run(
        [f"{STOCK}/bin/python", "-B", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(APP), "TF_CPP_MIN_LOG_LEVEL": "3", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("models")
    quiet = Ui(quiet=True)
    stock(APP / "make_mobilenet.py", mobilenet_command(str(out))[-1])
    stock(ROOT / "ci/tfslim/parity/zoo.py", out, *ZOO)
    stock(HERE / "native_models.py", out)
    demos = {name: resolve_model(f"demo:{name}", out, quiet).path for name in DEMOS}
    return {**{name: out / name for name in (*ZOO, *CORNERS)}, **demos}


@pytest.fixture(scope="session")
def answers(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each backend answered: {backend: {model: …}}."""
    out = tmp_path_factory.mktemp("answers")
    found: dict[str, Any] = {}
    sides = {
        "tensorflow": ("tensorflow", "off"),
        "lean": ("tensorflow", "on"),
        "capi": ("capi", "on"),
    }
    for side, (backend, lean) in sides.items():
        file = out / f"{side}.pickle"
        stock(HERE / "native_driver.py", backend, file, *models.values(), TFSLIM_LEAN=lean)
        by_path = pickle.loads(file.read_bytes())
        found[side] = {name: by_path[str(path)] for name, path in models.items()}
    return found


def assert_same(ours: object, theirs: object) -> None:
    """The same tensors to the bit, or the same error."""
    if isinstance(theirs, tuple) or isinstance(ours, tuple):
        assert ours == theirs
        return
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        if array.dtype == object:
            assert ours[name].tolist() == array.tolist(), name
        else:
            assert ours[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(
    "name", [*ZOO, *DEMOS, *(name for name in CORNERS if name not in ("two-graphs", "mute"))]
)
@pytest.mark.parametrize("side", ["capi", "lean"])
def test_the_backends_agree(answers: dict[str, Any], side: str, name: str) -> None:
    ours, theirs = answers[side][name], answers["tensorflow"][name]
    assert "failed" not in ours, ours
    assert ours["signatures"] == theirs["signatures"]
    assert ours["answers"].keys() == theirs["answers"].keys()
    for key, answer in theirs["answers"].items():
        assert_same(ours["answers"][key], answer)


def test_every_type_and_every_refusal_was_met(answers: dict[str, Any]) -> None:
    outputs = answers["capi"]["types"]["answers"]
    kinds = {array.dtype.name for answer in outputs.values() for array in answer.values()}
    assert len(kinds) == 15  # bfloat16 travels as float32, strings as objects
    shapes = answers["capi"]["shapes"]["answers"]
    texts = [answer[1] for answer in shapes.values() if isinstance(answer, tuple)]
    assert any("requested shape has 6" in text for text in texts)
    assert any("all below five" in text for text in texts)
    counts = [shapes[f"counting/{number}"]["count"].item() for number in range(4)]
    assert counts == [4, 7, 13, 13], "variables keep what a call wrote"


def test_of_several_graphs_the_one_tagged_serve_is_taken(answers: dict[str, Any]) -> None:
    assert "tags" in answers["tensorflow"]["two-graphs"]["failed"]
    ours, single = answers["capi"]["two-graphs"], answers["capi"]["old"]
    assert ours["signatures"] == single["signatures"]
    for key, answer in ours["answers"].items():
        np.testing.assert_array_equal(answer["number"], single["answers"][key]["number"])


def test_a_model_without_signatures_is_refused_alike(answers: dict[str, Any]) -> None:
    assert answers["capi"]["mute"] == answers["tensorflow"]["mute"]


COUNT = """
import sys
from pathlib import Path
from tensorflow.core.protobuf import saved_model_pb2
from tfserve_app.capi.lean import lean_graph
from tfserve_app.capi.metagraph import read_meta_graphs
from tfserve_app.lean_model import drop_unserved
file = Path(sys.argv[1], "saved_model.pb")
graph = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]
functions = graph.graph_def.library.function
native = type(graph.graph_def)()
data = lean_graph(read_meta_graphs(file)[0].graph)
native.ParseFromString(bytes(data or b""))
print(len(functions), drop_unserved(graph), len(functions), len(native.library.function))
"""


def test_of_a_model_of_keras_2_only_the_functions_of_its_signatures_are_loaded(
    models: dict[str, Path],
) -> None:
    assert stock("-c", COUNT, models["basic-pitch"]).split() == ["104", "True", "4", "4"]
