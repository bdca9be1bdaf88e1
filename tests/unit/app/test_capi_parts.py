"""The native backend's parts that need no TensorFlow: types, finding, frozen models, settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserve_app.capi import guard
from tfserve_app.capi.arrays import bfloat16_from_float32, bfloat16_to_float32, numpy_dtype
from tfserve_app.capi.dtypes import NAMES, plain_number
from tfserve_app.capi.frozen import GRAPH, read_frozen
from tfserve_app.capi.library import LIBRARY, find_library
from tfserve_app.capi.metagraph import MetaGraph
from tfserve_app.capi.wire import Message, encode_bytes
from tfserve_app.errors import ModelLoadError, SettingsError
from tfserve_app.savedmodel import locate
from tfserve_app.settings import Settings

APP = Path(__file__).parents[3] / "dockerfiles" / "app"


# --- types ---


def test_every_type_has_a_name_and_most_a_numpy_type() -> None:
    assert list(NAMES) == list(range(1, 34))
    without = {name for number, name in NAMES.items() if numpy_dtype(number) is None}
    assert without == {
        *("string", "resource", "variant", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"),
        *(name for name in NAMES.values() if name.startswith("float8")),
    }
    assert numpy_dtype(19) == np.float16
    assert numpy_dtype(12) == np.uint8
    assert numpy_dtype(99) is None
    assert (plain_number(101), plain_number(1)) == (1, 1)


@given(st.integers(0, 2**16 - 1))
def test_bfloat16_there_and_back(bits: int) -> None:
    values = bfloat16_to_float32(np.array([bits], np.uint16))
    if np.isnan(values[0]):  # a NaN stays one, with its sign
        assert bfloat16_from_float32(values)[0] == (bits & 0x8000) | 0x7FC0
    else:
        assert bfloat16_from_float32(values)[0] == bits


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0x3F808000, 0x3F80),  # a tie goes to the even one
        (0x3F818000, 0x3F82),
        (0x3F808001, 0x3F81),
        (0x7F7FFFFF, 0x7F80),  # the largest float becomes infinity
        (0x00000001, 0x0000),
        (0x80000000, 0x8000),
    ],
)
def test_bfloat16_rounds_to_nearest(value: int, bits: int) -> None:
    array = np.array(value, np.uint32).view(np.float32)
    rounded = bfloat16_from_float32(array)
    assert rounded.shape == ()
    assert int(rounded) == bits


# --- the library ---


@pytest.fixture
def path_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A module search path on which only this test's packages are."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    return tmp_path


@pytest.mark.parametrize("package", [True, False])
def test_the_library_is_found_without_importing_the_package(
    path_of_its_own: Path, package: bool
) -> None:
    folder = path_of_its_own / "tensorflow"
    folder.mkdir()
    (folder / LIBRARY).touch()
    if package:
        (folder / "__init__.py").write_text("raise SystemExit('imported')")
    assert find_library() == folder / LIBRARY
    assert "tensorflow" not in sys.modules


def test_a_library_that_is_not_there_is_named(path_of_its_own: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"{LIBRARY} is not there"):
        find_library()
    (path_of_its_own / "tensorflow").mkdir()
    with pytest.raises(ModelLoadError, match=f"expected in {path_of_its_own}/tensorflow"):
        find_library()


def test_without_the_library_the_service_says_so_and_ends(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"not really")
    done = subprocess.run(
        [sys.executable, "-m", "tfserve_app"],
        cwd=APP,
        env={**os.environ, "BACKEND": "capi", "PORT": "0", "TFSLIM_MODEL_PATH": str(model)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("tfserve: ")]
    assert done.returncode == 3, done.stderr
    assert len(lines) == 1
    assert f"{LIBRARY} is not there" in lines[0]


# --- settings ---


def test_the_backend_is_chosen_by_name() -> None:
    assert Settings.from_env({}).backend == "tensorflow"
    assert Settings.from_env({"BACKEND": "capi"}).backend == "capi"
    with pytest.raises(SettingsError, match="BACKEND='tf': tensorflow or capi is expected"):
        Settings.from_env({"BACKEND": "tf"})


# --- frozen models ---

FREEZE: dict[str, Any] = {
    "format": 1,
    "tensorflow": "2.21.0",
    "drift": {"serving_default": {"y": {"max_abs": 1e-7, "max_rel": 1e-6}}},
    "signatures": {
        "serving_default": {
            "inputs": {"x": {"tensor": "x:0", "dtype": "float32", "shape": [-1, 2]}},
            "outputs": {"y": {"tensor": "y:1", "dtype": "string", "shape": None}},
        }
    },
}


def frozen(folder: Path, description: object) -> Path:
    (folder / "freeze.json").write_text(json.dumps(description))
    return folder


def test_a_frozen_model_is_found_and_read(tmp_path: Path) -> None:
    assert locate(frozen(tmp_path, FREEZE)).path == tmp_path
    found = read_frozen(tmp_path)
    assert found.graph == tmp_path / GRAPH
    entry = found.entries["serving_default"]
    assert (entry.inputs["x"].dtype, str(entry.inputs["x"].spec)) == (1, "float32[?,2]")
    assert (entry.outputs["y"].dtype, str(entry.outputs["y"].spec)) == (7, "string[...]")
    assert found.told == {"tensorflow": "2.21.0", "drift": FREEZE["drift"]}


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({**FREEZE, "format": 2}, "has format 2, expected 1"),
        ({"format": 1}, "is not as the freezer writes it: KeyError"),
        ([], "is not as the freezer writes it: TypeError"),
        ({**FREEZE, "signatures": {"s": 3}}, "is not as the freezer writes it"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, description: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_frozen(frozen(tmp_path, description))


# --- what tfslim took out ---


class FakeGuard:
    """Stands for `_tfslim_guard` and `_tfslim` of a slim environment."""

    def __init__(self, problem: str = "", ops: dict[str, list[str]] | None = None) -> None:
        self.problem = problem
        self.ops = ops or {}
        self.left: list[str] = []
        self.checked: set[str] = set()

    def data(self) -> dict[str, Any]:
        return {"ops": self.ops}

    def check(self) -> str:
        return self.problem

    def leave(self, line: str) -> None:
        self.left.append(line)

    def check_model(self, ops: set[str]) -> None:
        self.checked = ops
        raise RuntimeError("the model needs the op FFT, and tfslim took out what that takes")


def test_a_gpu_that_cannot_run_the_image_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    guard.refuse_gpu()  # nothing where there is no guard
    fake = FakeGuard("this image serves sm_90")
    monkeypatch.setitem(sys.modules, "_tfslim_guard", fake)  # type: ignore[arg-type]
    guard.refuse_gpu()
    assert fake.left == ["this image serves sm_90"]


def test_a_model_with_removed_ops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    node = encode_bytes(2, encode_bytes(1, encode_bytes(2, b"FFT")))
    graph = MetaGraph(Message(node))
    guard.refuse_removed_ops(Path("/m"), graph)
    for ops, refused in (({}, False), ({"no-cufft": ["*FFT*"]}, True)):
        fake = FakeGuard(ops=ops)
        monkeypatch.setitem(sys.modules, "_tfslim_guard", fake)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "_tfslim", fake)  # type: ignore[arg-type]
        if refused:
            with pytest.raises(ModelLoadError, match="/m: the model needs the op FFT"):
                guard.refuse_removed_ops(Path("/m"), graph)
            assert fake.checked == {"FFT"}
        else:
            guard.refuse_removed_ops(Path("/m"), graph)


def test_the_real_guard_takes_ops_by_name(tmp_path: Path) -> None:
    """The files that `tfslim slim` puts into a slim environment, in an interpreter of its own."""
    for file in (APP.parents[1] / "ci/tfslim/slim/guard/site").glob("*.py"):
        shutil.copy(file, tmp_path)
    known = {"ops": {"no-cufft": ["*FFT*"]}, "rules": {"no-cufft": {"keep": "cufft"}}}
    (tmp_path / "_tfslim.json").write_text(json.dumps(known))
    script = (
        "from pathlib import Path\n"
        "from tfserve_app.capi.guard import refuse_removed_ops\n"
        "from tfserve_app.capi.metagraph import MetaGraph\n"
        "from tfserve_app.capi.wire import Message\n"
        "import sys\n"
        "refuse_removed_ops(Path('/m'), MetaGraph(Message(bytes.fromhex(sys.argv[1]))))\n"
    )
    for op, expected in ((b"RFFT2D", 1), (b"MatMul", 0)):
        node = encode_bytes(2, encode_bytes(1, encode_bytes(2, op)))
        done = subprocess.run(
            [sys.executable, "-c", script, node.hex()],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{APP}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stderr
        assert ("the model needs the op RFFT2D" in done.stderr) == bool(expected)
        assert ("--keep cufft" in done.stderr) == bool(expected)
