"""Fail an image build whose TensorFlow cannot find its CUDA libraries. Needs no GPU and no driver.

TensorFlow opens CUDA libraries through small stubs inside libtensorflow_framework, and lists no GPU
when one of them cannot be opened; its message does not say which. This calls one harmless version
function of each library through those stubs, so TensorFlow's own search path is what is tested,
then opens what the stubs do not cover, and names whatever is missing.

Usage: python check_cuda.py [--cudnn-min VERSION]
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

# Library, version function, and how the function takes its result: by a pointer, or as its value.
STUBS = [
    ("libcudart", "cudaRuntimeGetVersion", "pointer"),
    ("libcublas", "cublasGetProperty", "property"),
    ("libcufft", "cufftGetVersion", "pointer"),
    ("libcusparse", "cusparseGetProperty", "property"),
    ("libcudnn", "cudnnGetVersion", "value"),
]
# Opened by the libraries above or by TensorFlow later: the loader must find them, too.
LIBRARIES = ["libcublasLt.so.12", "libcusolver.so.11", "libnvJitLink.so.12"]
CUDNN_PARTS = ["graph", "ops", "cnn", "adv", "heuristic", "engines_precompiled"]


def framework() -> ctypes.CDLL:
    """Load libtensorflow_framework as `import tensorflow` would find it, without importing it."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        sys.exit("check-cuda: tensorflow is not installed in this environment")
    return ctypes.CDLL(str(Path(spec.origin).parent / "libtensorflow_framework.so.2"))


def version_through_stub(library: ctypes.CDLL, function: str, style: str) -> int:
    """Call a version function; 0 means that the stub could not open its library."""
    call = getattr(library, function)
    if style == "value":
        call.restype = ctypes.c_size_t
        return int(call())
    if style == "property":  # libraryPropertyType: MAJOR 0, MINOR 1, PATCH 2
        parts = []
        for which in range(3):
            number = ctypes.c_int(0)
            if call(which, ctypes.byref(number)) != 0:
                return 0
            parts.append(number.value)
        return parts[0] * 10000 + parts[1] * 100 + parts[2]
    number = ctypes.c_int(0)
    return number.value if call(ctypes.byref(number)) == 0 else 0


def missing_libraries(cudnn_major: int) -> list[str]:
    """Return the loader's message for each library that it cannot open."""
    names = list(LIBRARIES)
    if cudnn_major >= 9:
        names += [f"libcudnn_{part}.so.{cudnn_major}" for part in CUDNN_PARTS]
    failures = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            failures.append(f"{name}: {error}")
    return failures


def main() -> None:
    """Check all libraries; print what was found, or exit with what is missing."""
    library = framework()
    found, failures = {}, []
    for name, function, style in STUBS:
        version = version_through_stub(library, function, style)
        if version:
            found[name] = version
        else:
            failures.append(f"{name}: TensorFlow's stub for {function} could not open it")
    cudnn = found.get("libcudnn", 0)
    cudnn_major = cudnn // 10000 if cudnn >= 90000 else cudnn // 1000
    failures += missing_libraries(cudnn_major)
    for line in failures:
        print(f"check-cuda: missing: {line}", file=sys.stderr)
    if failures:
        sys.exit("check-cuda: TensorFlow would list no GPU in this image")
    print("check-cuda: " + ", ".join(f"{name} {version}" for name, version in found.items()))


if __name__ == "__main__":
    main()
