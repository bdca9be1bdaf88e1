"""A small venv with the distributions and files that the inference rules speak of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SITE = "lib/python3.11/site-packages"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def install(
    tree: Path,
    name: str,
    files: dict[str, str],
    *,
    version: str = "1.0",
    requires: tuple[str, ...] = (),
    requested: bool = False,
) -> None:
    """Install a distribution as pip does, bytecode included in its RECORD."""
    site = tree / SITE
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    bytecode = {
        f"{path.rpartition('/')[0]}/__pycache__/{Path(path).stem}.cpython-311.pyc".lstrip(
            "/"
        ): "pyc"
        for path in files
        if path.endswith(".py")
    }
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    own = {f"{info}/METADATA": "\n".join(metadata) + "\n\nA package.\n"}
    if requested:
        own[f"{info}/REQUESTED"] = ""
    everything = {**files, **bytecode, **own}
    record = [f"{path},sha256=x,{len(text)}" for path, text in everything.items()]
    script = f"../../../bin/{name}"
    write(site, {**everything, f"{info}/RECORD": "\n".join([*record, f"{script},,", ""])})
    write(site, {script: f"#!/bin/sh\n# {name}\n"})


def installed_tree(tree: Path) -> Path:
    """Make a venv with a TensorFlow that imports what the real one imports; return it."""
    (tree / SITE).mkdir(parents=True)
    install(
        tree,
        "tensorflow",
        {
            "tensorflow/__init__.py": "from tensorflow._api.v2 import lite\n"
            "from tensorflow.python.profiler import profiler_client\n",
            "tensorflow/_api/v2/__init__.py": "",
            "tensorflow/_api/v2/lite/__init__.py": "from tensorflow.lite.python import lite\n",
            "tensorflow/lite/__init__.py": "",
            "tensorflow/lite/python/__init__.py": "",
            "tensorflow/lite/python/lite.py": "class Interpreter: pass\n",
            "tensorflow/lite/python/libpywrap_tflite_common.so": "native",
            "tensorflow/lite/experimental/__init__.py": "",
            "tensorflow/lite/experimental/microfrontend/python/ops/audio_microfrontend_op.py": "",
            "tensorflow/python/profiler/profiler_client.py": "from tensorflow.python.profiler."
            "internal import _pywrap_profiler_plugin as p\ndef trace(): return p.trace()\n",
            "tensorflow/python/profiler/internal/__init__.py": "",
            "tensorflow/python/profiler/internal/_pywrap_profiler_plugin.so": "native",
            "tensorflow/python/profiler/internal/_pywrap_profiler_plugin.pyi": "def trace(): ...",
            "tensorflow/compiler/mlir/stablehlo/stablehlo.py": "from . "
            "import stablehlo_extension\n",
            "tensorflow/compiler/mlir/stablehlo/stablehlo_extension.so": "native",
            "tensorflow/compiler/tf2xla/ops/_xla_ops.so": "native",
            "tensorflow/include/tensorflow/core/framework/op.h": "#pragma once\n",
            "tensorflow/include/external/deep/below.h": "#pragma once\n// deep\n",
        },
        requires=(
            "libclang",
            "grpcio",
            "setuptools",
            "keras",
            "numpy",
            "nvidia-cublas; extra == 'and-cuda'",
        ),
        requested=True,
    )
    install(tree, "keras", {"keras/__init__.py": "import rich\n"}, requires=("rich",))
    install(
        tree,
        "rich",
        {"rich/__init__.py": "", "rich/syntax.py": "import pygments\n"},
        requires=("Pygments", "markdown-it-py"),
    )
    install(tree, "Pygments", {"pygments/__init__.py": ""})
    install(tree, "libclang", {"clang/__init__.py": "", "clang/native/libclang.so": "native"})
    install(
        tree,
        "grpcio",
        {
            "grpc/__init__.py": "from grpc import aio\n",
            "grpc/aio.py": "",
            "grpc/cygrpc.so": "native",
        },
    )
    install(tree, "pip", {"pip/__init__.py": "", "pip/__main__.py": ""}, requested=True)
    install(
        tree,
        "setuptools",
        {"setuptools/__init__.py": "", "pkg_resources/__init__.py": ""},
        requested=True,
    )
    install(
        tree,
        "numpy",
        {
            "numpy/__init__.py": "",
            "numpy/__init__.pyi": "",
            "numpy/f2py/__init__.py": "",
            "numpy/_core/tests/test_a.py": "",
            "numpy/_core/include/numpy/npy.h": "",
        },
    )
    install(
        tree,
        "nvidia-cuda",
        {
            "nvidia/cuda_runtime/lib/libcudart.so.12": "native",
            "nvidia/cuda_runtime/lib/libcudart_static.a": "native",
            "nvidia/cuda_runtime/include/cuda.h": "#pragma once\n",
            "nvidia/cuda_nvcc/bin/ptxas": "native",
            "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc": "bitcode",
            "nvidia/cuda_nvrtc/lib/libnvrtc.so.12": "native",
            "nvidia/cuda_cupti/lib/libcupti.so.12": "native",
            "nvidia/cublas/lib/libcublas.so.12": "native",
            "nvidia/cublas/lib/libnvblas.so.12": "native",
        },
    )
    return tree


def python(
    tree: Path, code: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code with a tree's site-packages, .pth files included."""
    start = f"import site; site.addsitedir({str(tree / SITE)!r})\n"
    return subprocess.run(
        [sys.executable, "-S", "-B", *options, "-c", start + code],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
