"""Stubs of NVIDIA's libraries under a real TensorFlow, and the ops that rules keep them for.

    TFSLIM_STOCK_TREE=/path/to/venv pytest -m slow tests/slow/slim/test_stubs_real.py

No GPU: TensorFlow lists one with a stand-in for the driver, its CPU results are compared, and every
function of every stub is called.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real import make_driver, output
from test_real_tensorflow import LIST_GPUS, MODEL

from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import R_X86_64_JUMP_SLOT, Elf
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import LibraryRule, load_profile, make_policy
from tfslim.slim.stub.interface import read_interface
from tfslim.slim.stub.write import is_stub
from tfslim.slim.symbols import read_symbols
from tfslim.slim.trace import Trace

pytestmark = pytest.mark.slow

CHECK_CUDA = Path(__file__).parents[3] / "dockerfiles" / "build" / "check_cuda.py"
DENSE = Trace(
    ops=frozenset({"MatMul", "BiasAdd", "Relu", "StatefulPartitionedCall"}), opened=frozenset()
)
WORKLOAD = load_profile("workload")


@pytest.fixture(scope="module")
def stubbed(
    stock: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Plan, Outcome]]:
    """The stock tree, by hard links, with every library a stub that a dense model does without."""
    tree = tmp_path_factory.mktemp("stubs") / "tree"
    subprocess.run(["cp", "-al", str(stock), str(tree)], check=True)
    policy = make_policy(
        "workload", parse_targets("90"), trace=DENSE, also=("runtime-engines", "nvrtc")
    )
    plan = make_plan(tree, policy)
    rules = {rule.id for rule in WORKLOAD.stub_rules} | {"cuda-interfaces"}
    files = tuple(item for item in plan.files if item.removals[0].rule in rules)
    plan = plan.model_copy(update={"files": files})
    yield tree, plan, apply_plan(plan, tree)
    shutil.rmtree(tree)


def stubs_of(plan: Plan) -> list[str]:
    return [item.path for item in plan.files if item.action == "replace"]


def test_all_of_them_are_stubs_of_a_few_kilobytes(stubbed: tuple[Path, Plan, Outcome]) -> None:
    tree, plan, outcome = stubbed
    assert not outcome.restored
    names = {Path(path).name.partition(".so")[0] for path in stubs_of(plan)}
    assert names >= {
        "libcudnn_adv",
        "libcudnn_cnn",
        "libcudnn_engines_precompiled",
        "libcudnn_engines_runtime_compiled",
        "libcudnn_heuristic",
        "libcudnn_ops",
        "libcufft",
        "libcupti",
        "libcurand",
        "libcusolver",
        "libcusolverMg",
        "libcusparse",
        "libnccl",
        "libnvJitLink",
        "libnvperf_host",
        "libnvrtc",
        "libnvvm",
        "ptxas",
    }
    assert sum((tree / path).stat().st_size for path in stubs_of(plan)) < 700_000
    assert max((tree / path).stat().st_size for path in stubs_of(plan)) < 100_000


def test_every_function_can_be_called(stubbed: tuple[Path, Plan, Outcome]) -> None:
    """In one process each, so that a crash names its library."""
    tree, plan, _ = stubbed
    code = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
zeros = [ctypes.c_void_p(None)] * 8
for name in sys.argv[2:]:
    getattr(library, name)(*zeros)
print("CALLED", len(sys.argv) - 2)
"""
    for path in (tree / name for name in stubs_of(plan) if ".so" in name):
        with Elf(path) as elf:
            exports = read_interface(elf).exports
        names = [export.name.decode() for export in exports if export.kind == "function"]
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), *names],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"CALLED {len(names)}\n", (path.name, done.stderr[-500:])
        said = re.findall(
            r"^tfslim: (\w+) was called, but .* --keep \S+ to have it$", done.stderr, re.MULTILINE
        )
        assert set(said) <= set(names)
        assert len(said) == len(done.stderr.splitlines())


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_driver(tmp_path_factory.mktemp("driver"))


def test_tensorflow_lists_a_gpu_and_calls_nothing_that_is_gone(
    stubbed: tuple[Path, Plan, Outcome], driver: Path
) -> None:
    said = output(stubbed[0], "-c", f"import os; os.dup2(1, 2); {LIST_GPUS}", driver=driver)
    assert "GPU:0" in said
    assert "was called" not in said


def test_the_check_of_image_builds_passes(stubbed: tuple[Path, Plan, Outcome]) -> None:
    said = output(stubbed[0], "-c", CHECK_CUDA.read_text(encoding="utf-8"))
    assert "libcufft.so.11 (a stand-in)" in said
    assert "libcusparse.so.12 (a stand-in)" in said


def test_results_on_the_cpu_are_the_same(stock: Path, stubbed: tuple[Path, Plan, Outcome]) -> None:
    """Also of ops whose GPU kernels need what is gone."""
    answers = [output(tree, "-c", MODEL).split("RESULT ")[1] for tree in (stock, stubbed[0])]
    assert answers[0] == answers[1]


def test_a_compiler_that_is_gone_says_so(stubbed: tuple[Path, Plan, Outcome]) -> None:
    tree, plan, _ = stubbed
    (ptxas,) = [tree / path for path in stubs_of(plan) if path.endswith("/ptxas")]
    done = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "(rule xla); slim with --keep xla to have it" in done.stderr
    with Elf(ptxas) as elf:
        assert is_stub(elf)


# --- data: what functions return --------------------------------------------------------------

STATUS = re.compile(
    r"cufftResult|cus(olver|parse)Status_t|cu(rand|dnn|blas)Status_t|ncclResult_t|CUptiResult|"
    r"nvrtcResult|nvJitLinkResult"
)
# C macros between the type and the name, and words that change nothing.
NOISE = re.compile(
    r"\b(extern|static|inline|const|\w+API|\w+WINAPI|\w*DEPRECATED\w*|\w*EXTERN_C|NCCL_\w+)\b"
)


def prototypes(folder: Path) -> Iterator[tuple[str, str]]:
    """Every function that headers declare, with the type of what it returns."""
    for header in sorted(folder.rglob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(errors="replace"), flags=re.DOTALL)
        text = re.sub(r"(?m)^[ \t]*#(.*\\\n)*.*$|//[^\n]*", "", text)
        for declaration in re.split(r"[;{}]", text):
            match = re.match(r"\s*([\w\s\*\"]*?)\b(\w+)\s*\(", declaration)
            if match:
                yield match[2], " ".join(NOISE.sub("", match[1]).replace('"C"', "").split())


def test_whoever_does_not_return_a_status_is_answered_for(stock: Path) -> None:
    """A pointer that is a status would be followed."""
    unanswered = []
    for rule in WORKLOAD.stub_rules:
        if not isinstance(rule, LibraryRule):
            continue
        for path in sorted(stock.rglob("lib*.so*")):
            if not rule.matches(path.relative_to(stock)) or path.is_symlink():
                continue
            declared = dict(prototypes(path.parents[1] / "include"))
            with Elf(path) as elf:
                names = {e.name.decode() for e in read_interface(elf).exports}
            unanswered += [
                (name, returned)
                for name in sorted(names)
                if (returned := declared.get(name.removeprefix("p"), declared.get(name, "")))
                and "*" in returned
                and rule.answer(name) == rule.status
            ]
    assert not unanswered


# --- data: which ops need what ----------------------------------------------------------------

KERNELS = """
import json, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from tensorflow.python.framework import kernels
found = {kernel.op for kernel in kernels.get_all_registered_kernels().kernel
         if kernel.device_type in ("GPU", "XLA_GPU_JIT", "DEFAULT")}
print("OPS", json.dumps(sorted(found)))
"""
# How ops are called that could need a library, and those of them that do not, by their code.
FAMILIES = {
    "fft": (r"FFT|Fourier|Stft|Spectr", ""),
    "linear-algebra": (
        r"Cholesky|Qr\b|Svd|Eig|^Lu$|Determinant|Inverse|Solve|Triang|Tridiag|Logarithm|SquareRoot",
        "",
    ),
    "sparse-matrices": (r"CSR|SparseMatrix|Tridiagonal|SparseTensorDenseMat", ""),
    "recurrent": (r"RNN|CTC|Cudnn", ""),
    "convolutions": (
        r"Conv\d?|Pool|BatchNorm|^LRN|RNN|CTC|Cudnn|InstanceNorm|LayerNorm|Depthwise|Xla",
        "",
    ),
    "xla": (r"Xla", ""),
}


@pytest.fixture(scope="module")
def gpu_ops(stock: Path) -> frozenset[str]:
    return frozenset(json.loads(output(stock, "-c", KERNELS).split("OPS ")[1]))


@pytest.mark.parametrize("rule_id", FAMILIES)
def test_ops_that_sound_as_if_they_needed_it_keep_it(rule_id: str, gpu_ops: frozenset[str]) -> None:
    sounds, except_for = FAMILIES[rule_id]
    family = {op for op in gpu_ops if re.search(sounds, op) and op not in except_for.split()}
    assert family
    assert not sorted(family - set(WORKLOAD.rule(rule_id).needed_by(family)))


# Classes of TensorFlow 2.21.0 that use cuSOLVER or cuSPARSE, and the op each is the kernel of.
USERS = {
    "GpuSolver": {
        "CholeskyOpGpu": "Cholesky",
        "DeterminantOpGpu": "MatrixDeterminant",
        "LaunchBatchMatrixTriangularSolve": "MatrixTriangularSolve",
        "LogDeterminantOpGpu": "LogMatrixDeterminant",
        "LuOpGpu": "Lu",
        "MatrixInverseOpGpu": "MatrixInverse",
        "MatrixSolveOpGpu": "MatrixSolve",
        "SelfAdjointEigV2OpGpu": "SelfAdjointEigV2",
        "SvdOpGpu": "Svd",
        "TridiagonalSolveOpGpu": "TridiagonalSolve",
        "TridiagonalSolveOpGpuLinalg": "TridiagonalSolve",
    },
    "GpuSparse": {
        "CSRMatMulGPUOp": "SparseMatrixMatMul",
        "CSRSparseMatMulGPUOp": "SparseMatrixSparseMatMul",
        "CSRSparseMatrixAdd": "SparseMatrixAdd",
        "CSRSparseMatrixMatMul": "SparseMatrixMatMul",
        "CSRSparseMatrixMatVec": "SparseMatrixMatMul",
        "CSRSparseMatrixToCOOSparseMatrix": "CSRSparseMatrixToDense",
        "CSRSparseMatrixTransposeComponent": "SparseMatrixTranspose",
        "DenseToCSRSparseMatrixGPUOp": "DenseToCSRSparseMatrix",
        "SparseTensorToCSRSparseMatrixGPUOp": "SparseTensorToCSRSparseMatrix",
        "TridiagonalSolveOpGpu": "TridiagonalSolve",
        "TridiagonalSolveOpGpuLinalg": "TridiagonalSolve",
    },
}


@pytest.mark.parametrize(
    ("user", "rule_id"), [("GpuSolver", "linear-algebra"), ("GpuSparse", "sparse-matrices")]
)
def test_the_code_that_calls_the_library_is_known(user: str, rule_id: str, stock: Path) -> None:
    """By the calls in the machine code: a TensorFlow with a new user of it fails here."""
    (library,) = stock.rglob("tensorflow/libtensorflow_cc.so.2")
    known = USERS[user]
    # Its constructor, which all call, or what cuSPARSE's users call after it.
    callers = classes_that_call(library, rf"_ZN10tensorflow9{user}(C[12]|10Initialize)E")
    assert callers - {"", user} == set(known)
    ops = set(known.values())
    assert set(WORKLOAD.rule(rule_id).needed_by(ops)) == ops


def classes_that_call(library: Path, pattern: str) -> set[str]:
    """The classes in whose functions another one is called; "" for unnamed ones."""
    listed = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines() if " t " in line.lower() or " W " in line]
    functions = sorted((int(row[0], 16), row[2]) for row in rows if len(row) == 3)
    starts = np.array([start for start, _ in functions])
    called = [start for start, name in functions if re.match(pattern, name)]
    with Elf(library) as elf:
        called += linkage_stubs(elf, pattern)
        (text,) = [section for section in elf.sections if section.name == ".text"]
        data = np.frombuffer(elf.read(text.offset, text.size), np.uint8)
    at = np.flatnonzero((data[:-4] & 0xFE) == 0xE8)  # call, jmp
    hits = at[np.isin(text.addr + at + 5 + distances(data, at + 1), called)] + text.addr
    names = {functions[i][1] for i in (np.searchsorted(starts, hits, "right") - 1).tolist()}
    readable = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    classes = re.compile(r"tensorflow::(?:functor::)?([A-Z]\w+)(?:<.*>)?::\w+\(")
    return {
        match[1] if (match := classes.search(line)) else "" for line in readable.stdout.splitlines()
    }


def linkage_stubs(elf: Elf, pattern: str) -> list[int]:
    """Addresses through which functions are called that the loader looks up."""
    symbols, relocations = read_symbols(elf), elf.relocations
    assert symbols is not None
    slots = np.flatnonzero(relocations.kind == R_X86_64_JUMP_SLOT)
    names = symbols.names(relocations.symbol[slots].astype(np.intp))
    wanted = [
        int(relocations.where[slot])
        for slot, name in zip(slots.tolist(), names, strict=True)
        if re.match(pattern, name.decode())
    ]
    found: list[int] = []
    for section in elf.sections:
        if section.name.startswith(".plt"):
            data = np.frombuffer(elf.read(section.offset, section.size), np.uint8)
            at = np.flatnonzero((data[:-5] == 0xFF) & (data[1:-4] == 0x25))  # jmp [rip+…]
            hits = at[np.isin(section.addr + at + 6 + distances(data, at + 2), wanted)]
            found += (section.addr + hits // 16 * 16).tolist()
    return found


def distances(data: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The signed 32-bit numbers at some places."""
    values = sum(data[at + i].astype(np.int64) << 8 * i for i in range(4))
    return np.where(values >= 1 << 31, values - (1 << 32), values)
