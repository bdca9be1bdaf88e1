"""Fail an image build whose TensorFlow cannot find its CUDA libraries. Needs no GPU and no driver.

TensorFlow opens CUDA libraries through small stubs inside libtensorflow_framework, and lists no GPU
when one of them cannot be opened; its message does not say which. This calls one harmless version
function of each library through those stubs, so TensorFlow's own search path is what is tested,
then opens what the stubs do not cover, and names whatever is missing.

Usage: python check_cuda.py
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

# Library, version function, and how the function takes its result: by a pointer, or as its value.
# Older TensorFlow keeps some stubs elsewhere: their libraries are then opened by name instead.
STUBS = [
    ("libcudart.so.12", "cudaRuntimeGetVersion", "pointer"),
    ("libcublas.so.12", "cublasGetProperty", "property"),
    ("libcufft.so.11", "cufftGetVersion", "pointer"),
    ("libcusparse.so.12", "cusparseGetProperty", "property"),
]
# What the small libraries return that tfslim puts in place of these; they open, and that is enough.
NOT_SUPPORTED = {"libcufft.so.11": 16, "libcusparse.so.12": 10}
STAND_IN = -1
CUDNN_VERSION = "cudnnGetVersion"
CUDNN_NAMES = ["libcudnn.so.9", "libcudnn.so.8"]
# Opened by the libraries above or by TensorFlow later: the loader must find them, too.
LIBRARIES = ["libcublasLt.so.12", "libcusolver.so.11", "libnvJitLink.so.12"]
CUDNN_PARTS = {
    9: ["graph", "ops", "cnn", "adv", "heuristic", "engines_precompiled"],
    8: ["ops_infer", "cnn_infer", "adv_infer"],
}


def framework() -> ctypes.CDLL:
    """Load libtensorflow_framework as `import tensorflow` would find it, without importing it."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        sys.exit("check-cuda: tensorflow is not installed in this environment")
    return ctypes.CDLL(str(Path(spec.origin).parent / "libtensorflow_framework.so.2"))


def version(
    library: ctypes.CDLL, function: str, style: str, not_supported: int | None = None
) -> int:
    """Call a version function; 0 means that TensorFlow's stub could not open its library."""
    call = getattr(library, function)
    if style == "value":
        call.restype = ctypes.c_size_t
        return int(call())
    if style == "property":  # libraryPropertyType: MAJOR 0, MINOR 1, PATCH 2
        parts = []
        for which in range(3):
            number = ctypes.c_int(0)
            status = call(which, ctypes.byref(number))
            if status != 0:
                return STAND_IN if status == not_supported else 0
            parts.append(number.value)
        return parts[0] * 10000 + parts[1] * 100 + parts[2]
    number = ctypes.c_int(0)
    status = call(ctypes.byref(number))
    if status != 0:
        return STAND_IN if status == not_supported else 0
    return number.value


def loader_says(name: str) -> str:
    """Return why the dynamic loader cannot open a library; nothing where it can."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return ""


def cudnn_version(library: ctypes.CDLL) -> int:
    """Return cuDNN's version, through TensorFlow's stub or else from cuDNN itself; 0 for none."""
    if hasattr(library, CUDNN_VERSION):
        return version(library, CUDNN_VERSION, "value")
    for name in CUDNN_NAMES:
        if not loader_says(name):
            return version(ctypes.CDLL(name), CUDNN_VERSION, "value")
    return 0


def main() -> None:
    """Check all libraries; print what was found, or exit with what is missing."""
    library = framework()
    names = list(LIBRARIES)
    found: dict[str, int] = {}
    failures = []
    for name, function, style in STUBS:
        if not hasattr(library, function):
            names.append(name)
        elif number := version(library, function, style, NOT_SUPPORTED.get(name)):
            found[name] = number
        else:
            failures.append(f"{name}: TensorFlow's stub for {function} could not open it")
    cudnn = cudnn_version(library)
    if cudnn:
        found["libcudnn"] = cudnn
        major = cudnn // 10000 if cudnn >= 90000 else cudnn // 1000
        names += [f"libcudnn_{part}.so.{major}" for part in CUDNN_PARTS.get(major, [])]
    else:
        failures.append("libcudnn: neither TensorFlow nor the loader could open it")
    failures += [f"{name}: {why}" for name in names if (why := loader_says(name))]
    for line in failures:
        print(f"check-cuda: missing: {line}", file=sys.stderr)
    if failures:
        sys.exit("check-cuda: TensorFlow would list no GPU in this image")
    versions = ", ".join(
        f"{name} {'(a stand-in)' if number == STAND_IN else number}"
        for name, number in found.items()
    )
    print(f"check-cuda: {versions}; found by the loader: {', '.join(names)}")


if __name__ == "__main__":
    main()
