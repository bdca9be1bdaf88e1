"""Names that nobody asks for leave a real TensorFlow: minutes, gigabytes, no GPU.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_real_exports.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfslim.slim import scan
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.elf import Elf
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import ExportRule, Policy, load_profile
from tfslim.slim.symbols import read_symbols
from tfslim.slim.tree import tree_files

pytestmark = pytest.mark.slow

LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
# A whole string that looks like the name of a C++ symbol.
NAME = re.compile(rb"\0(_Z[\w.$]{3,})(?=\0)")

PROGRAM = """
import hashlib, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
tf.keras.utils.set_random_seed(4)
layers = tf.keras.layers
model = tf.keras.Sequential([
    layers.Input((9, 5)), layers.LSTM(8, return_sequences=True), layers.Conv1D(4, 3),
    layers.GRU(4), layers.Dense(3),
])
digest = hashlib.sha256(model.predict(np.ones((4, 9, 5), "float32"), verbose=0).tobytes())

@tf.function
def control(x, n):
    total = tf.zeros_like(x)
    for i in tf.range(n):
        if tf.reduce_sum(x) > tf.cast(i, tf.float32):
            total += x * tf.cast(i, tf.float32)
        else:
            total -= x
    return total

digest.update(control(tf.range(6.0), 9).numpy().tobytes())
compiled = tf.function(lambda x: tf.nn.relu(x @ tf.transpose(x)), jit_compile=True)
digest.update(compiled(tf.reshape(tf.range(12.0), (3, 4))).numpy().tobytes())
try:  # an exception from the library, in Python's hands
    tf.reshape(tf.zeros(4), (3,))
except tf.errors.InvalidArgumentError as error:
    digest.update(str(error)[:40].encode())
print("RESULT", digest.hexdigest())
"""


@pytest.fixture(scope="module")
def slimmed(
    stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Plan, Outcome]]:
    """The stock tree without names that nobody asks for, and else as it was."""
    tree = tmp_path_factory.mktemp("exports") / "tree"
    subprocess.run(["cp", "-al", str(stock), str(tree)], check=True)
    whole = load_profile("inference")
    rules = tuple(rule for rule in whole.rules if isinstance(rule, ExportRule))
    profile = whole.model_copy(update={"rules": rules})
    plan = make_plan(tree, Policy(profile, None, keep_ptx=False, keep=(), also=(), trace=None))
    yield tree, plan, apply_plan(plan, tree)
    shutil.rmtree(tree)


def test_both_libraries_are_proved_and_much_smaller(slimmed: tuple[Path, Plan, Outcome]) -> None:
    _, plan, outcome = slimmed
    assert [Path(item.path).name for item in outcome.files] == list(LIBRARIES)
    assert {(item.state, item.loader) for item in outcome.files} == {("verified", "same")}
    assert plan.saved > 100e6
    assert len(plan.model_dump_json()) < 1e6


def run(tree: Path, program: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(tree / "bin" / "python"), "-B", str(program)],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("RESULT ")[1]


def test_results_are_the_same_bound_lazily_and_at_once(
    stock: Path, slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"  # a file, because AutoGraph reads its source
    program.write_text(PROGRAM)
    expected = run(stock, program)
    assert run(slimmed[0], program) == expected
    assert run(slimmed[0], program, LD_BIND_NOW="1") == expected


def lookups(tree: Path, folder: Path) -> int:
    """Names that the loader looked up to open the large library."""
    folder.mkdir()
    (library,) = tree.glob("lib/python3*/site-packages/tensorflow/libtensorflow_cc.so.2")
    subprocess.run(
        [str(tree / "bin" / "python"), "-c", f"import ctypes; ctypes.CDLL({str(library)!r})"],
        env={"LD_DEBUG": "statistics", "LD_DEBUG_OUTPUT": str(folder / "log")},
        capture_output=True,
        timeout=120,
        check=True,
    )
    said = "".join(log.read_text() for log in folder.iterdir())
    return max(map(int, re.findall(r"final number of relocations: (\d+)", said)))


def test_the_loader_looks_up_a_tenth_of_the_names(
    stock: Path, slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    before = lookups(stock, tmp_path / "before")
    assert lookups(slimmed[0], tmp_path / "after") < before / 5


@pytest.mark.parametrize("option", ["-d", "--dyn-syms", "-r", "-V", "-l", "-S"])
def test_readelf_has_nothing_to_object(option: str, slimmed: tuple[Path, Plan, Outcome]) -> None:
    tree, plan, _ = slimmed
    for item in plan.files:
        done = subprocess.run(
            ["readelf", "-W", option, str(tree / item.path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )
        assert done.stderr == b""


def test_no_hidden_name_stands_anywhere_as_text(
    stock: Path, slimmed: tuple[Path, Plan, Outcome]
) -> None:
    """A program could ask for a name at run time (dlsym); it would have to hold that name."""
    hidden: set[bytes] = set()
    for item in slimmed[1].files:
        with Elf(stock / item.path) as elf:
            symbols = read_symbols(elf)
        assert symbols is not None
        names = symbols.names()
        hidden.update(name for at, count in item.cuts.hidden for name in names[at : at + count])
    for item in tree_files(stock):
        path = item.at(stock)
        if item.size < 1024 or not scan.is_elf(path):
            continue
        with Elf(path) as elf:
            for section in elf.sections:
                if section.type == 1 and section.alloc and not section.executable:  # SHT_PROGBITS
                    text = b"\0" + elf.read(section.offset, section.size)
                    assert not hidden.intersection(NAME.findall(text)), path
