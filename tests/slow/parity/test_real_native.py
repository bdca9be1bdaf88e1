"""Rule native on a real TensorFlow: it answers as Python did, and each broken tree fails. Minutes.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/parity/test_real_native.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tfslim.parity.gate import Request, verify
from tfslim.parity.locate import find_target
from tfslim.parity.verdict import Verdict
from tfslim.parity.zoos import zoo_models
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import ExportRule, Policy, make_policy
from tfslim.slim.symbols import read_symbols
from tfslim.ui import Ui

pytestmark = pytest.mark.slow

QUIET = Ui(quiet=True)
LIBRARY = "tensorflow/libtensorflow_cc.so.2"


def no_engine() -> None:
    raise AssertionError("no engine is needed")


@pytest.fixture(scope="module")
def stock() -> Path:
    """A virtual environment with TensorFlow, never changed by the tests."""
    place = os.environ.get("TFSLIM_STOCK_TREE")
    if not place:
        pytest.skip("TFSLIM_STOCK_TREE names no venv with tensorflow")
    return Path(place)


@pytest.fixture(scope="module")
def zoo(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    target = find_target(str(stock), no_engine)  # type: ignore[arg-type]
    paths = zoo_models(target, tmp_path_factory.mktemp("zoo"), QUIET)
    return {Path(path).name: path for path in paths}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy("inference", parse_targets("90"), also=("native",))


def linked(source: Path, tree: Path, *left_out: str) -> Path:
    """Return a tree of hard links: a file that changes has to be a new one."""
    ignored = shutil.ignore_patterns(*left_out)
    shutil.copytree(source, tree, symlinks=True, copy_function=os.link, ignore=ignored)
    return tree


def slim(tree: Path, policy: Policy) -> None:
    outcome = apply_plan(make_plan(tree, policy), tree)
    assert not outcome.restored


@pytest.fixture(scope="module")
def native(stock: Path, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Headers, and the libraries that only a GPU needs, stay away to save time.
    tree = linked(stock, tmp_path_factory.mktemp("native") / "tree", "include", "nvidia")
    slim(tree, policy)
    yield tree
    shutil.rmtree(tree)


@pytest.fixture
def copy(native: Path, tmp_path: Path) -> Iterator[Path]:
    yield linked(native, tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree")


def packages(tree: Path) -> Path:
    (found,) = tree.glob("lib/python3*/site-packages")
    return found


def compare(stock: Path, slim: Path, *models: str, **options: object) -> Verdict:
    request = Request(str(stock), str(slim), models, gpu="off", **options)  # type: ignore[arg-type]
    return verify(request, no_engine, QUIET)  # type: ignore[arg-type]


def said(verdict: Verdict) -> str:
    calls = [call for model in verdict.models for call in model.calls]
    errors = [str(call.error_slim) for call in calls if call.error_slim]
    return "\n".join([*(one.reason for one in verdict.models), *(c.reason for c in calls), *errors])


def test_the_zoo_answers_as_through_python(stock: Path, native: Path, zoo: dict[str, str]) -> None:
    verdict = compare(stock, native, *zoo.values())
    assert verdict.outcome == "passed", said(verdict)
    assert verdict.rules["cpu"].kind == "bits"
    others = {model.name for model in verdict.models if model.outcome != "passed"}
    assert others == {"two-ways.keras"}
    for model in verdict.models:
        compared = sum(output.elements for call in model.calls for output in call.outputs)
        assert compared > 50 or model.name in others, model.name


def test_the_stock_itself_answers_alike_both_ways(stock: Path, zoo: dict[str, str]) -> None:
    verdict = compare(stock, stock, zoo["cnn"], zoo["text"], backend="capi")
    assert verdict.outcome == "passed", said(verdict)


def test_nothing_of_python_s_tensorflow_is_left_but_its_word(native: Path) -> None:
    folder = packages(native) / "tensorflow"
    libraries = {"libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}
    assert {path.name for path in folder.iterdir()} - {"include"} == {*libraries, "__init__.py"}
    for name in ("keras", "google", "absl", "h5py", "grpc"):
        assert not (packages(native) / name).exists(), name
    done = subprocess.run(
        [native / "bin" / "python", "-c", "import tensorflow"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "rule native); slim with --keep native to have it" in done.stderr


def test_every_name_of_the_c_api_is_still_offered(stock: Path, native: Path) -> None:
    for name in (LIBRARY, "tensorflow/libtensorflow_framework.so.2"):
        before, after = (c_names(packages(tree) / name) for tree in (stock, native))
        assert before == after
        assert len(before) > 100


def c_names(library: Path) -> set[bytes]:
    with Elf(library) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        defined = symbols.entries["section"] != 0
        names = symbols.names()
    return {
        name
        for name, here in zip(names, defined.tolist(), strict=True)
        if here and name.startswith((b"TF_", b"TFE_"))
    }


def without_names(tree: Path) -> None:
    """Hide the C API as well, as a rule without a prefix would."""
    policy = make_policy("inference", parse_targets("90"), also=("native",))
    rules = tuple(
        rule.model_copy(update={"prefix": ""}) if isinstance(rule, ExportRule) else rule
        for rule in policy.profile.rules
    )
    slim(tree, replace(policy, profile=policy.profile.model_copy(update={"rules": rules})))


def without_library(tree: Path) -> None:
    (packages(tree) / "tensorflow/libtensorflow_framework.so.2").unlink()


def with_other_code(tree: Path) -> None:
    """Write breakpoints over a piece of the code that every model runs."""
    path = packages(tree) / LIBRARY
    with Elf(path) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        at = symbols.names().index(b"TF_SessionRun")
        start = elf.to_offset(int(symbols.entries["value"][at]))
    assert start is not None
    content = bytearray(path.read_bytes())
    content[start : start + 16] = b"\xcc" * 16
    path.unlink()
    path.write_bytes(content)


def with_other_inputs(tree: Path) -> None:
    path = packages(tree) / "numpy/__init__.py"
    text = path.read_text()
    path.unlink()
    path.write_text(
        text + "\n_frombuffer = frombuffer\n"
        "def frombuffer(*args, **options):\n"
        "    made = _frombuffer(*args, **options).copy()\n"
        "    made[-1:] += made.dtype.type(made.dtype.itemsize == 4) * 7\n"
        "    return made\n"
    )


def without_word(tree: Path) -> None:
    """Without the record that it is native, it is asked through Python, and has none."""
    (packages(tree) / "_tfslim_guard.py").unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "the C API is not offered": (without_names, "has no TF_"),
    "a library is gone": (without_library, "libtensorflow_framework"),
    "its code is other code": (with_other_code, "ended by SIG"),
    "numpy makes other inputs": (with_other_inputs, "inputs that were made differ"),
    "nothing says that it is native": (without_word, "Python package was removed by tfslim"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_native_tree_fails(
    stock: Path, copy: Path, zoo: dict[str, str], name: str
) -> None:
    change, word = BROKEN[name]
    change(copy)
    verdict = compare(stock, copy, zoo["fft"], zoo["two-ways.keras"])
    assert verdict.outcome == "failed"
    assert word in said(verdict)
