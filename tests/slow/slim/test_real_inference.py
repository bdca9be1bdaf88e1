"""Profile inference on a real TensorFlow: everything serves, what is gone says so. Minutes, no GPU.

TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_real_inference.py
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath

import pytest
from real import copied, make_driver, output, site_of, start

from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.draft import plan_file
from tfslim.slim.plan import FilePlan, Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import FileRule, PackageRule, load_profile, make_policy
from tfslim.slim.trace import module_name
from tfslim.slim.tree import TreeFile

pytestmark = pytest.mark.slow

SERVE = str(Path(__file__).with_name("serve_many.py"))
LIST_GPUS = "import tensorflow as tf; print('GPUS', tf.config.list_physical_devices('GPU'))"
OP_TYPES = """
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session as session
import tensorflow as tf
found = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
print(sorted(op.name for op in found.op))
"""
# These are opened at every start of TensorFlow or Python, and something stands in for them.
STOOD_IN_FOR = {"profiler-plugin", "tensorflow-lite", "installers"}
# Stubs of libraries that no other file of the tree names.
UNASKED = {"nvvm", "second-nvrtc", "multi-gpu-solver"}


@pytest.fixture(scope="module")
def slimmed(
    stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Plan, Outcome]]:
    """The stock tree with profile inference for sm_90, made in place on a copy of hard links."""
    with copied(stock, tmp_path_factory.mktemp("inference")) as tree:
        plan = make_plan(tree, make_policy("inference", parse_targets("90")))
        yield tree, plan, apply_plan(plan, tree)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def opened(
    stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, frozenset[PurePosixPath]]:
    """What models of many kinds answer in the stock tree, and the files of it that were opened."""
    names = tmp_path_factory.mktemp("opened") / "names"
    answers = output(stock, SERVE, str(names))
    inside = [Path(name) for name in names.read_text().splitlines()]
    root = stock.resolve()
    paths = (path.relative_to(root) for path in inside if path.is_relative_to(root))
    return answers, frozenset(PurePosixPath(module_name(str(path))) for path in paths)


def test_every_file_is_proved_and_the_size_is_reached(
    slimmed: tuple[Path, Plan, Outcome],
) -> None:
    _, plan, outcome = slimmed
    assert not outcome.restored
    assert outcome.tree_after == plan.tree_bytes - plan.saved <= 2.35e9


def test_models_of_many_kinds_answer_the_same_bit_for_bit(
    opened: tuple[str, frozenset[PurePosixPath]], slimmed: tuple[Path, Plan, Outcome]
) -> None:
    assert output(slimmed[0], SERVE).split("ANSWERS")[1] == opened[0].split("ANSWERS")[1]


def test_nothing_that_models_open_is_gone(
    opened: tuple[str, frozenset[PurePosixPath]], slimmed: tuple[Path, Plan, Outcome]
) -> None:
    gone = {
        PurePosixPath(module_name(item.path)): item.removals[0].rule
        for item in slimmed[1].files
        if item.action == "delete"
    }
    missed = {path: gone[path] for path in opened[1] if path in gone}
    assert len(opened[1]) > 2000
    assert {p: rule for p, rule in missed.items() if rule not in STOOD_IN_FOR} == {}


def test_no_library_that_stays_names_one_that_is_gone(
    slimmed: tuple[Path, Plan, Outcome],
) -> None:
    tree, plan, _ = slimmed
    stubs = {item.path for item in plan.files if item.rule in UNASKED and item.action == "replace"}
    deleted = {item.path for item in plan.files if item.action == "delete"}
    gone = {PurePosixPath(path).name for path in deleted | stubs}
    names = {f"{name.partition('.so')[0]}.so" for name in gone if name.startswith("lib")}
    assert {"libnvvm.so", "libnvrtc.alt.so", "libcusolverMg.so", "libcufftw.so"} <= names
    found = {}
    for path in sorted(tree.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and str(path.relative_to(tree)) not in stubs:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                named = [name for name in names if data.find(name.encode()) >= 0]
            if named:
                found[path.name] = named
    assert found == {}


def test_the_same_op_types_are_registered(stock: Path, slimmed: tuple[Path, Plan, Outcome]) -> None:
    before, after = (
        output(tree, "-c", OP_TYPES, CUDA_VISIBLE_DEVICES="") for tree in (stock, slimmed[0])
    )
    assert "AudioMicrofrontend" in before
    assert after == before


def test_tensorflow_still_lists_a_gpu(slimmed: tuple[Path, Plan, Outcome], driver: Path) -> None:
    assert "GPU:0" in start(slimmed[0], "-c", LIST_GPUS, driver=driver).stdout


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("tf.profiler.experimental.client.trace('grpc://x:1', '/tmp', 9)", "profiler-plugin"),
        ("tf.lite.TFLiteConverter", "tensorflow-lite"),
        ("tf.compat.v1.lite.Interpreter", "tensorflow-lite"),
        ("import tensorflow.lite.python.interpreter", "tensorflow-lite"),
        ("from tensorflow.compiler.mlir.stablehlo import stablehlo", "stablehlo"),
        ("import clang.cindex", "libclang"),
        ("import grpc", "grpc"),
        ("import pkg_resources", "installers"),
        ("from numpy import f2py", "python-tools"),
        ("import numpy.tests", "tests"),
        ("import rich.syntax", "text-highlighting"),
        ("import keras.src.backend.torch", "keras-backends"),
    ],
)
def test_a_use_of_what_is_gone_names_the_rule_and_the_word(
    code: str, rule: str, slimmed: tuple[Path, Plan, Outcome]
) -> None:
    program = f"import tensorflow as tf\n{code}"
    done = start(slimmed[0], "-c", program, CUDA_VISIBLE_DEVICES="")
    keep = load_profile("inference").rule(rule).keep
    assert f"(rule {rule}); slim with --keep {keep} to have it" in done.stderr.splitlines()[-1]


def test_python_dash_m_pip_says_why(slimmed: tuple[Path, Plan, Outcome]) -> None:
    done = start(slimmed[0], "-m", "pip", "list")
    assert done.returncode
    assert "--keep pip" in done.stderr


def test_a_custom_op_is_not_compiled_and_the_compiler_says_why(
    slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    folder = output(slimmed[0], "-c", "import tensorflow as tf; print(tf.sysconfig.get_include())")
    (tmp_path / "op.cc").write_text('#include "tensorflow/core/framework/op_kernel.h"\n')
    command = ["g++", "-E", f"-I{folder.strip()}", str(tmp_path / "op.cc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "op_kernel.h and all headers of TensorFlow: removed by tfslim" in done.stderr
    assert "--keep headers" in done.stderr


def test_a_local_profile_is_still_taken(
    slimmed: tuple[Path, Plan, Outcome], tmp_path: Path
) -> None:
    program = (
        "import sys, tensorflow as tf\n"
        "tf.profiler.experimental.start(sys.argv[1])\n"
        "tf.reduce_sum(tf.ones((9, 9)))\n"
        "tf.profiler.experimental.stop()\n"
    )
    output(slimmed[0], "-c", program, str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_lists_of_installed_files_tell_the_truth(slimmed: tuple[Path, Plan, Outcome]) -> None:
    program = (
        "import importlib.metadata as m\n"
        "for d in m.distributions():\n"
        "    lost = [str(f) for f in d.files or () if not f.locate().exists()]\n"
        "    if lost: print(d.name, lost[:3])\n"
    )
    lost = output(slimmed[0], "-c", program)
    assert lost == ""


def test_a_gpu_that_is_not_served_ends_the_import_with_one_line(
    slimmed: tuple[Path, Plan, Outcome], driver: Path
) -> None:
    done = start(slimmed[0], "-c", LIST_GPUS, driver=driver, FAKE_GPUS="8.0")
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--cuda-arch 80,90" in done.stderr
    assert start(slimmed[0], "-c", LIST_GPUS, driver=driver).returncode == 0


def test_a_second_run_finds_nothing(slimmed: tuple[Path, Plan, Outcome]) -> None:
    assert make_plan(slimmed[0], make_policy("inference", parse_targets("90"))).files == ()


def kept_bytes(stock: Path, item: FilePlan) -> int:
    """Return what a file would take in the slim tree, were it kept."""
    arch = make_policy("arch", parse_targets("90"))
    planned, *_ = plan_file(
        stock,
        TreeFile((item.path, *item.links), item.size),
        arch.profile,
        arch.sms,
        keep_ptx=False,
    )
    return planned.after if planned else item.size


def test_rules_say_within_a_twentieth_what_keeping_them_costs(
    stock: Path, slimmed: tuple[Path, Plan, Outcome]
) -> None:
    cost: Counter[str] = Counter()
    copies: set[str] = set()
    for item in slimmed[1].files:
        if item.action == "delete" and item.sha256 not in copies:
            cost[item.removals[0].rule] += kept_bytes(stock, item)
        if "/include/" in item.path:  # further copies would be links
            copies.add(item.sha256)
    inference = load_profile("inference")
    said = {
        rule.id: rule.bytes
        for rule in inference.rules[len(load_profile("arch").rules) :]
        if isinstance(rule, FileRule | PackageRule) and rule.bytes and not rule.optional
    }
    assert {rule: cost[rule] for rule in said} == pytest.approx(said, rel=0.05)


def test_what_was_kept_is_there(stock: Path, tmp_path: Path) -> None:
    """The words of the command line, all at once."""
    words = ("headers", "clang", "pip", "profiler", "lite", "stablehlo", "grpc", "tests")
    policy = make_policy("inference", parse_targets("90"), keep=words)
    changed = {item.path for item in make_plan(stock, policy).files if item.action == "delete"}
    site = site_of(stock).relative_to(stock)
    for name in (
        "tensorflow/include/tensorflow/core/framework/op.h",
        "clang/cindex.py",
        "pip/__main__.py",
        "tensorflow/python/profiler/internal/_pywrap_profiler_plugin.so",
        "tensorflow/lite/python/lite.py",
        "tensorflow/compiler/mlir/stablehlo/stablehlo_extension.so",
        "grpc/__init__.py",
        "numpy/_core/tests/test_dtype.py",
    ):
        assert (stock / site / name).exists()
        assert str(site / name) not in changed
