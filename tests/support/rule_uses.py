"""How each rule of the profiles is tried: a use of what it takes out, or the test that has one.

A use is a program for the tree's Python. Where the rule's word was kept it runs to its end; where
the rule was followed it fails, and says on standard error which rule and which flag.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ELSEWHERE", "USES", "Use"]

_LIBRARY = """
import ctypes, pathlib, sysconfig
library = ctypes.CDLL(pathlib.Path(sysconfig.get_path("purelib"), "nvidia", {path!r}))
number, other = ctypes.c_int(), ctypes.c_int()
assert library.{call} == 0
"""
_LITE = """
import tensorflow as tf
double = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec([2])])
converter = tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()])
interpreter = tf.lite.Interpreter(model_content=converter.convert())
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tf.ones([2]).numpy())
interpreter.invoke()
"""
_HEADER = """
import pathlib, subprocess, sys, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
command = ["g++", "-std=c++17", "-E", "-x", "c++", "-", "-o", "/dev/null"]
command += [f"-I{{site / folder}}" for folder in {folders!r}]
done = subprocess.run(command, input={source!r}, stderr=subprocess.PIPE, text=True)
sys.exit(done.stderr or 0)
"""


def _calls(path: str, call: str) -> str:
    """Return a program that calls a function of a library with no need of a GPU, and checks it."""
    return _LIBRARY.format(path=path, call=call)


def _includes(source: str, *folders: str) -> str:
    return _HEADER.format(source=f"#include <{source}>\n", folders=folders)


@dataclass(frozen=True)
class Use:
    """A use of what a rule takes out.

    Attributes:
        kept: What works where it was kept.
        gone: What explains itself where it was not; the same if empty.
        explains: Whether anything can: what nobody asks for cannot answer.
    """

    kept: str
    gone: str = ""
    explains: bool = True


_FILE = (
    "import pathlib, sysconfig; assert pathlib.Path(sysconfig.get_path('purelib'), {!r}).exists()"
)

# Of TensorFlow 2.21.0's tree, by rule.
USES = {
    "tensorflow-headers": Use(_includes("tensorflow/core/framework/op.h", "tensorflow/include")),
    "cuda-headers": Use(_includes("cuda.h", "nvidia/cuda_runtime/include")),
    "libclang": Use("import clang.cindex; clang.cindex.Index.create()"),
    "nvvm": Use(
        _calls(
            "cuda_nvcc/nvvm/lib64/libnvvm.so",
            "nvvmVersion(ctypes.byref(number), ctypes.byref(other))",
        )
    ),
    "installers": Use("import setuptools, pkg_resources, pip._internal.cli.main"),
    "python-tools": Use("from numpy import f2py; f2py.get_include()"),
    "second-nvrtc": Use(
        _calls(
            "cuda_nvrtc/lib/libnvrtc.alt.so.12",
            "nvrtcVersion(ctypes.byref(number), ctypes.byref(other))",
        )
    ),
    "multi-gpu-solver": Use(
        _FILE.format("nvidia/cusolver/lib/libcusolverMg.so.11"),
        _calls("cusolver/lib/libcusolverMg.so.11", "cusolverMgCreate(ctypes.byref(number))"),
    ),
    "cuda-interfaces": Use(_FILE.format("nvidia/cublas/lib/libnvblas.so.12"), explains=False),
    "collectives": Use(_calls("nccl/lib/libnccl.so.2", "ncclGetVersion(ctypes.byref(number))")),
    "gpu-profiler": Use(
        _calls("cuda_cupti/lib/libcupti.so.12", "cuptiGetVersion(ctypes.byref(number))")
    ),
    "random-numbers": Use(
        _calls("curand/lib/libcurand.so.10", "curandGetVersion(ctypes.byref(number))")
    ),
    "profiler-tools": Use(
        _calls(
            "cuda_cupti/lib/libnvperf_host.so", "NVPW_InitializeHost((ctypes.c_size_t * 2)(16, 0))"
        )
    ),
    "profiler-plugin": Use(
        "from tensorflow.python.profiler.internal import _pywrap_profiler_plugin as p; p.trace"
    ),
    "tensorflow-lite": Use(_LITE),
    "stablehlo": Use(
        "from tensorflow.compiler.mlir.stablehlo import stablehlo; stablehlo.get_api_version()"
    ),
    "unloadable": Use(_FILE.format("tensorflow/compiler/tf2xla/ops/_xla_ops.so"), explains=False),
    "grpc": Use("import grpc; grpc.insecure_channel('localhost:1').close()"),
    "text-highlighting": Use("import rich.syntax; rich.syntax.Syntax('x = 1', 'python')"),
    "tests": Use("import numpy.tests"),
    "keras-backends": Use(
        _FILE.format("keras/src/backend/jax/core.py"),
        "import os; os.environ['KERAS_BACKEND'] = 'jax'; import keras; keras.ops",
    ),
    "type-stubs": Use(_FILE.format("numpy/__init__.pyi"), explains=False),
    "install-records": Use("pass", explains=False),
}

# Where the other rules are tried, kept and followed.
ELSEWHERE = {
    "symbol-tables": (
        "tests/unit/slim/test_layout.py",
        "test_stripping_leaves_what_is_loaded_and_the_sections_that_stay",
    ),
    "windows-launchers": (
        "tests/unit/slim/test_slim_apply.py",
        "test_a_planned_file_may_be_deleted",
    ),
    "identical-headers": (
        "tests/unit/slim/test_slim_apply.py",
        "test_second_copies_of_headers_become_names_of_one_file",
    ),
    "other-architectures": (
        "tests/unit/slim/test_guard.py",
        "test_a_gpu_that_is_not_served_ends_with_one_line",
    ),
    "aot": ("tests/unit/slim/test_aot.py", "test_machine_code_takes_the_place_of_ptx"),
    "zstd": (
        "tests/unit/slim/test_guard.py",
        "test_code_stored_with_zstd_needs_a_driver_that_reads_it",
    ),
    "relr": ("tests/unit/slim/test_relr.py", "test_it_is_kept_on_demand"),
    "guard": ("tests/unit/slim/test_guard.py", "test_without_the_guard"),
    "native": (
        "tests/unit/slim/test_inference.py",
        "test_native_takes_python_s_tensorflow_and_what_nobody_else_needs",
    ),
    "native-requirements": (
        "tests/unit/slim/test_inference.py",
        "test_native_takes_python_s_tensorflow_and_what_nobody_else_needs",
    ),
    "nvcc": ("tests/unit/slim/test_stub.py", "test_compilers_of_cuda_say_so_or_are_kept"),
    "tensorboard": ("tests/unit/slim/test_inference.py", "test_what_older_tensorflows_require"),
    "exported-names": (
        "tests/unit/slim/test_exports.py",
        "test_a_custom_op_in_the_tree_keeps_its_names_and_one_from_elsewhere_fails",
    ),
    "runtime-engines": ("tests/slow/slim/test_stubs_real.py", "test_every_function_can_be_called"),
    "run-time-compiler": (
        "tests/slow/slim/test_stubs_real.py",
        "test_every_function_can_be_called",
    ),
    "cufft-lto": ("tests/unit/slim/test_lto.py", "test_it_goes_from_the_named_library_alone"),
    "keras": (
        "tests/unit/slim/test_inference.py",
        "test_keras_goes_only_when_asked_for_and_says_so",
    ),
    "keras-requirements": (
        "tests/unit/slim/test_inference.py",
        "test_keras_goes_only_when_asked_for_and_says_so",
    ),
    "unreached-modules": ("tests/slow/slim/test_workload.py", "test_a_removed_module_says_so"),
    **dict.fromkeys(
        (
            "fft",
            "linear-algebra",
            "sparse-matrices",
            "run-time-linker",
            "recurrent",
            "recurrent-8",
            "convolutions",
        ),
        ("tests/slow/slim/test_stubs_real.py", "test_every_function_can_be_called"),
    ),
    "xla": ("tests/slow/slim/test_stubs_real.py", "test_a_compiler_that_is_gone_says_so"),
}
