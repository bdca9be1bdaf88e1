"""Each rule of profile inference on a small tree: what serves stays, what goes explains itself."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import FIXTURES, LIBRARIES, digests
from site_tree import SITE, install, installed_tree, python, write

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import load_profile, make_policy
from tfslim.slim.stub.write import is_stub
from tfslim.slim.trace import Trace

STAYS = (
    "keras/__init__.py",
    "keras/__pycache__/__init__.cpython-311.pyc",
    "numpy/__init__.py",
    "nvidia/cublas/lib/libcublas.so.12",
    "nvidia/cuda_nvcc/bin/ptxas",
    "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc",
    "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    "nvidia/cuda_runtime/lib/libcudart.so.12",
    "rich/syntax.py",
    "tensorflow-1.0.dist-info/METADATA",
    "tensorflow/lite/experimental/microfrontend/python/ops/audio_microfrontend_op.py",
)
# By the word that keeps it.
GOES = {
    "headers": (
        "tensorflow/include/external/deep/below.h",
        "numpy/_core/include/numpy/npy.h",
        "nvidia/cuda_runtime/lib/libcudart_static.a",
    ),
    "clang": ("clang/native/libclang.so", "clang/__init__.py", "libclang-1.0.dist-info/METADATA"),
    "pip": ("pip/__main__.py", "pip/__pycache__/__main__.cpython-311.pyc", "pkg_resources"),
    "python-tools": ("numpy/f2py/__init__.py", "numpy/f2py"),
    "cuda-interfaces": ("nvidia/cublas/lib/libnvblas.so.12",),
    "profiler": ("tensorflow/python/profiler/internal/_pywrap_profiler_plugin.so",),
    "lite": ("tensorflow/lite/python/libpywrap_tflite_common.so", "tensorflow/lite/python"),
    "stablehlo": ("tensorflow/compiler/mlir/stablehlo/stablehlo_extension.so",),
    "unloadable": ("tensorflow/compiler/tf2xla/ops/_xla_ops.so",),
    "grpc": ("grpc/cygrpc.so", "grpc", "grpcio-1.0.dist-info"),
    "pygments": ("pygments",),
    "tests": ("numpy/_core/tests",),
    "type-stubs": ("numpy/__init__.pyi",),
}
# What becomes a stub, by the word that keeps it. Real libraries: others are left alone.
BECOMES_A_STUB = {
    "cuda-interfaces": ("nvidia/cusolver/lib/libcusolverMg.so.11",),
    "nvcc": ("nvidia/cuda_nvcc/nvvm/lib64/libnvvm.so",),
    "nvrtc-alt": ("nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",),
    "profiler": (
        "nvidia/cuda_cupti/lib/libnvperf_host.so",
        "nvidia/cuda_cupti/lib/libcheckpoint.so",
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = installed_tree(tmp_path / "venv")
    for place in (tree / SITE / name for names in BECOMES_A_STUB.values() for name in names):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURES / LIBRARIES[0], place)
    return tree


def plan(tree: Path, *keep: str, also: tuple[str, ...] = ()) -> Plan:
    policy = make_policy("inference", parse_targets("90"), keep=keep, also=also)
    return make_plan(tree, policy)


def slim(tree: Path, *keep: str) -> None:
    outcome = apply_plan(plan(tree, *keep), tree)
    assert not outcome.restored


def test_what_serves_stays_and_all_else_goes(tree: Path) -> None:
    slim(tree)
    assert [name for name in STAYS if not (tree / SITE / name).exists()] == []
    gone = [name for names in GOES.values() for name in names]
    assert [name for name in gone if (tree / SITE / name).exists()] == []
    assert (tree / "bin" / "pip").exists()  # a command that says what is missing


@pytest.mark.parametrize("word", GOES)
def test_each_rule_can_be_kept_alone(word: str, tree: Path) -> None:
    before = {name: (tree / SITE / name).exists() for name in GOES[word]}
    assert all(before.values())
    slim(tree, word)
    assert [name for name in GOES[word] if not (tree / SITE / name).exists()] == []
    others = [name for other, names in GOES.items() if other != word for name in names]
    assert [name for name in others if (tree / SITE / name).exists()] == []


@pytest.mark.parametrize("word", BECOMES_A_STUB)
def test_each_library_is_a_stub_or_kept_alone(word: str, tree: Path) -> None:
    library = tree / SITE / BECOMES_A_STUB[word][0]
    kept = Path(shutil.copytree(tree, tree.with_name("kept")))
    slim(kept, word)
    assert not is_a_stub(kept / library.relative_to(tree))
    slim(tree)
    for names in BECOMES_A_STUB.values():
        assert all(is_a_stub(tree / SITE / name) for name in names)
    for names in (names for other, names in BECOMES_A_STUB.items() if other != word):
        assert all(is_a_stub(kept / SITE / name) for name in names)


def is_a_stub(path: Path) -> bool:
    with Elf(path) as elf:
        return is_stub(elf)


def test_tensorflow_imports_and_each_removal_explains_itself(tree: Path) -> None:
    slim(tree)
    for code, rule, keep in (
        ("import grpc", "grpc", "grpc"),
        ("import clang.cindex", "libclang", "clang"),
        ("import pkg_resources", "installers", "pip"),
        ("import numpy.f2py", "python-tools", "python-tools"),
        ("from numpy import f2py", "python-tools", "python-tools"),
        ("import rich.syntax", "text-highlighting", "pygments"),
        ("import tensorflow.compiler.mlir.stablehlo.stablehlo", "stablehlo", "stablehlo"),
        (
            "from tensorflow.python.profiler import profiler_client as p; p.trace()",
            "profiler-plugin",
            "profiler",
        ),
        ("import tensorflow; tensorflow.lite.Interpreter", "tensorflow-lite", "lite"),
    ):
        done = python(tree, f"import tensorflow, keras\n{code}")
        last = done.stderr.splitlines()[-1]
        assert f"(rule {rule})" in last, (code, done.stderr)
        assert f"--keep {keep}" in last
        assert last.startswith(("ModuleNotFoundError", "AttributeError"))


def test_kept_modules_are_the_real_ones(tree: Path) -> None:
    slim(tree, "lite", "grpc", "pip")
    done = python(tree, "import grpc, pip, tensorflow; print(tensorflow.lite.lite.Interpreter)")
    assert "tensorflow.lite.python.lite.Interpreter" in done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_a_build_against_the_tree_stops_with_the_rule(tree: Path, tmp_path: Path) -> None:
    slim(tree)
    (tmp_path / "op.cc").write_text('#include "tensorflow/core/framework/op.h"\n')
    include = tree / SITE / "tensorflow" / "include"
    command = ["gcc", "-E", "-x", "c++", f"-I{include}", str(tmp_path / "op.cc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "rule tensorflow-headers" in done.stderr
    assert "--keep headers" in done.stderr


def test_explain_names_the_largest_files_of_a_rule_and_counts_the_rest(tree: Path) -> None:
    headers = {f"tensorflow/include/{n:02}.h": "x" * (n + 100) for n in range(30)}
    write(tree / SITE, headers)
    lines = plan(tree).explain()
    named = [line for line in lines if line.endswith("[tensorflow-headers]")]
    assert len(named) == 13
    assert named[0].startswith(f"{SITE}/tensorflow/include/29.h: 129 B, deleted")
    assert named[-1].startswith("and 22 smaller files, ")
    assert "[tensorflow-headers] breaks: Building custom ops" in "\n".join(lines)


def test_a_second_run_changes_nothing(tree: Path) -> None:
    slim(tree)
    after = digests(tree)
    assert plan(tree).files == ()
    assert digests(tree) == after


def test_what_an_interrupted_run_began_the_next_one_ends(tree: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(tree, whole, copy_function=shutil.copy2)
    slim(whole)
    first = plan(tree)
    # Bytecode and stand-ins come first, lists of packages last.
    early = [item for item in first.files if item.content or item.path.endswith(".pyc")]
    rest = [item for item in first.files if item not in early and "-info/" not in item.path]
    apply_plan(first.model_copy(update={"files": (*early, *rest[::2])}), tree)
    slim(tree)
    assert digests(tree) == digests(whole)


def test_lists_of_installed_files_tell_the_truth(tree: Path) -> None:
    slim(tree)
    for info in (tree / SITE).glob("*.dist-info"):
        for path in importlib.metadata.PathDistribution(info).files or ():
            assert Path(str(path.locate())).exists(), path
    kept = importlib.metadata.PathDistribution(tree / SITE / "numpy-1.0.dist-info")
    assert {str(path) for path in kept.files or ()} >= {"numpy/__init__.py"}
    assert kept.version == "1.0"


@pytest.mark.parametrize(
    ("why", "word"),
    [
        ("somebody asked for it by name", "requested"),
        ("model-server requires it", "required"),
        ("app/main.py imports it", "imported"),
        ("served/rpc.py imports it", "installed"),
    ],
)
def test_a_package_that_others_need_stays(why: str, word: str, tree: Path) -> None:
    if word == "requested":
        (tree / SITE / "grpcio-1.0.dist-info" / "REQUESTED").touch()
    elif word == "required":
        install(tree, "model-server", {"served/__init__.py": ""}, requires=("grpcio>=1",))
    elif word == "imported":
        write(tree, {"app/main.py": "import os\nfrom grpc import aio\n"})
    else:
        install(tree, "other", {"served/rpc.py": "import grpc\n"})
    made = plan(tree)
    assert not [item for item in made.files if item.path.startswith(f"{SITE}/grpc")]
    (note,) = [note for note in made.notes if "grpcio stays" in note.why]
    assert why in note.why
    assert "--also grpc" in note.why
    assert [item for item in plan(tree, also=("grpc",)).files if "grpc/cygrpc.so" in item.path]


def test_what_a_needed_package_requires_stays_too(tree: Path) -> None:
    """rich alone is TensorFlow's, which needs none of its highlighting; another program may."""
    assert [f for f in plan(tree).files if f.path.endswith("pygments/__init__.py")]
    write(tree, {"app/main.py": "import rich.markdown\n"})
    made = plan(tree)
    assert not [f for f in made.files if f.path.endswith("pygments/__init__.py")]
    (note,) = [note for note in made.notes if "pygments stays" in note.why]
    assert "rich requires it" in note.why


def test_whoever_requires_tensorflow_keeps_nothing_by_that(tree: Path) -> None:
    install(tree, "model", {"model/__init__.py": "import tensorflow\n"}, requires=("tensorflow",))
    assert [f for f in plan(tree).files if f.path.endswith("grpc/cygrpc.so")]


def test_an_environment_without_tensorflow_keeps_what_is_its_own(tree: Path) -> None:
    other = tree / "other"
    install(other, "grpcio", {"grpc/cygrpc.so": "native"})
    install(other, "pip", {"pip/__main__.py": ""})
    gone = {f.path for f in plan(tree).files if f.action == "delete"}
    assert f"other/{SITE}/grpc/cygrpc.so" not in gone
    assert f"other/{SITE}/pip/__main__.py" in gone


def test_what_runs_whenever_tensorflow_is_imported_counts(tree: Path) -> None:
    """TensorFlow 2.16 imports distutils, which newer Pythons have from setuptools alone."""
    init = tree / SITE / "tensorflow" / "__init__.py"
    init.write_text("import distutils as _distutils\n" + init.read_text())
    gone = {item.path for item in plan(tree).files if item.action == "delete"}
    assert f"{SITE}/setuptools/__init__.py" not in gone
    assert f"{SITE}/pip/__init__.py" in gone


@pytest.mark.parametrize(
    "source",
    [
        "# import grpc\n",
        "def later():\n    import grpc\n",
        "import grpcio_other\n",
        "text = 'from grpc import aio'\n",
    ],
)
def test_what_only_looks_like_an_import_keeps_nothing(source: str, tree: Path) -> None:
    write(tree, {"app/main.py": source, "lib/python3.11/ensurepip.py": "import pip\n"})
    assert [item for item in plan(tree).files if item.path.endswith("grpc/cygrpc.so")]


def test_a_lock_file_asks_for_everything_and_says_nothing(tree: Path) -> None:
    for info in (tree / SITE).glob("*.dist-info"):
        (info / "REQUESTED").touch()
    assert [item for item in plan(tree).files if item.path.endswith("grpc/cygrpc.so")]


def test_an_installed_distribution_speaks_against_a_rule(tree: Path) -> None:
    install(tree, "numba", {"numba/__init__.py": ""})
    made = plan(tree)
    assert not [item for item in made.files if item.rule == "nvvm"]
    (note,) = [note for note in made.notes if note.why.startswith("nvvm: numba may need")]
    assert "--also nvcc" in note.why
    assert [item for item in plan(tree, also=("nvcc",)).files if item.rule == "nvvm"]


def test_debian_and_a_second_environment(tree: Path, tmp_path: Path) -> None:
    """Rules speak of every site-packages; one without TensorFlow has no guard."""
    root = tmp_path / "root"
    shutil.copytree(tree, root / "opt" / "venv")
    write(
        root / "usr/lib/python3/dist-packages",
        {"numpy/f2py/a.py": "", "numpy/core.py": "", "pip/__init__.py": ""},
    )
    changed = {item.path: item.action for item in plan(root).files}
    debian = {k: v for k, v in changed.items() if "dist-packages" in k}
    # apt's packages have no RECORD: what they are made of is not known, and dpkg's business.
    assert debian == {"usr/lib/python3/dist-packages/numpy/f2py/a.py": "delete"}
    guards = [path for path, action in changed.items() if "_tfslim.json" in path]
    assert guards == [f"opt/venv/{SITE}/_tfslim.json"]


def test_a_rule_that_finds_nothing_leaves_no_stand_in(tmp_path: Path) -> None:
    tree = tmp_path / "venv"
    install(
        tree,
        "tensorflow",
        {"tensorflow/__init__.py": "", "tensorflow/_api/v2/lite/__init__.py": ""},
    )
    made = plan(tree, "guard")
    assert [item.path for item in made.files] == []


def test_the_bytecode_of_what_a_stand_in_replaces_goes(tree: Path) -> None:
    """It may be of the kind that Python never checks against the source."""
    stale = tree / SITE / "tensorflow/_api/v2/lite/__pycache__/__init__.cpython-311.pyc"
    assert stale.exists()
    slim(tree)
    assert not stale.exists()


def test_what_the_guard_knows(tree: Path) -> None:
    slim(tree, "grpc")
    known = json.loads((tree / SITE / "_tfslim.json").read_text())
    assert known["served"] == [90]
    assert (known["cuda"], known["driver"]) == (12, "525.60.13")
    assert known["modules"]["clang"] == "libclang"
    assert "clang.native" not in known["modules"]
    assert "grpc" not in known["modules"]
    assert known["libraries"]["libnvvm.so"] == "nvvm"
    assert set(known["modules"].values()) <= set(known["rules"])


def test_every_rule_says_what_breaks_and_what_it_saves() -> None:
    inference = load_profile("inference")
    own = inference.rules[len(load_profile("arch").rules) :]
    for rule in own:
        assert rule.breaks, rule.id
        assert rule.proof, rule.id
        assert len(rule.keep) < 20


def test_native_takes_python_s_tensorflow_and_what_nobody_else_needs(tree: Path) -> None:
    install(tree, "absl-py", {"absl/__init__.py": ""})
    install(tree, "h5py", {"h5py/__init__.py": ""})
    install(tree, "requests", {"requests/__init__.py": ""})
    install(tree, "client", {"client/__init__.py": ""}, requires=("requests",))
    write(tree / SITE, {"tensorflow/libtensorflow_cc.so.2": "native"})
    write(tree / SITE, {"tensorflow/libtensorflow_framework.so.2": "native"})
    for name in ("absl-py", "h5py", "requests"):
        metadata = tree / SITE / "tensorflow-1.0.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("\n\n", f"\nRequires-Dist: {name}\n\n", 1))
    outcome = apply_plan(plan(tree, also=("native",)), tree)
    assert not outcome.restored
    left = {path.name for path in (tree / SITE / "tensorflow").iterdir()}
    assert left == {
        "__init__.py",
        "include",
        "libtensorflow_cc.so.2",
        "libtensorflow_framework.so.2",
    }
    for name in ("keras", "absl", "h5py", "rich"):
        assert not (tree / SITE / name).exists()
    for name in ("numpy/__init__.py", "requests/__init__.py", "tensorflow-1.0.dist-info/METADATA"):
        assert (tree / SITE / name).exists()
    done = python(tree, "import tensorflow")
    assert "rule native); slim with --keep native to have it" in done.stderr
    done = python(tree, "import keras.layers")
    assert "rule native-requirements" in done.stderr
    assert importlib.metadata.version("numpy")


def test_native_is_followed_only_when_it_is_asked_for(tree: Path) -> None:
    slim(tree)
    assert (tree / SITE / "keras/__init__.py").exists()


def test_what_older_tensorflows_require(tree: Path) -> None:
    """TensorFlow up to 2.20 requires TensorBoard, which nothing imports at its outermost level."""
    install(tree, "tensorboard", {"tensorboard/__init__.py": ""}, requires=("werkzeug",))
    install(tree, "werkzeug", {"werkzeug/__init__.py": ""})
    metadata = tree / SITE / "tensorflow-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("\n\n", "\nRequires-Dist: tensorboard\n\n", 1))
    kept = Path(shutil.copytree(tree, tree.with_name("kept")))
    slim(kept, "tensorboard")
    assert python(kept, "import tensorboard, werkzeug").returncode == 0
    slim(tree)
    done = python(tree, "import tensorboard")
    assert "rule tensorboard); slim with --keep tensorboard to have it" in done.stderr
    assert not (tree / SITE / "werkzeug").exists()


@pytest.mark.parametrize(
    ("ops", "keep", "goes"),
    [(("MatMul",), (), True), (("MatMul", "@keras"), (), False), (("MatMul",), ("keras",), False)],
)
def test_keras_goes_only_when_asked_for_and_says_so(
    ops: tuple[str, ...], keep: tuple[str, ...], goes: bool, tree: Path
) -> None:
    install(tree, "h5py", {"h5py/__init__.py": ""})
    metadata = tree / SITE / "keras-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("\n\n", "\nRequires-Dist: h5py\n\n", 1))
    versions = {"tensorflow": "1.0", "keras": "1.0"}
    trace = Trace(
        tensorflow="1.0", python="3.11", packages=versions, ops=frozenset(ops), opened=frozenset()
    )

    def slimmed(*also: str) -> None:
        policy = make_policy(
            "workload", parse_targets("90"), keep=keep, also=also, trace=trace, margin="none"
        )
        assert not apply_plan(make_plan(tree, policy), tree).restored

    slimmed()
    assert python(tree, "import keras, h5py").returncode == 0
    slimmed("keras")
    assert (python(tree, "import keras, h5py").returncode != 0) is goes
    if goes:
        said = python(tree, "import keras").stderr
        assert "rule keras); slim with --keep keras to have it" in said
        said = python(tree, "import h5py").stderr
        assert "rule keras-requirements); slim with --keep keras to have it" in said
