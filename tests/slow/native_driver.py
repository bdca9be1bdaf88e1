"""Run by the stock interpreter: one backend answers a list of requests about several models.

    python native_driver.py tensorflow|capi OUT.pickle MODEL…

What is written is {model: {"signatures", "answers", "failed"}}; an answer is the named outputs, or
kind and text of the error.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserve_app.backend import Array, Backend, Signature, TensorSpec
from tfserve_app.errors import ModelLoadError

_WORDS = [b"the", b"fox", b"42", "été".encode(), b"", b"unknown word", b"x" * 200_000, b"a\0b"]
# Other models may end the process: some of TensorFlow's kernels divide by the size of the batch.
_TAKE_NONE = ("types", "shapes", "text-form", "old", "two-graphs")
_FLOATS = ("float16", "float32", "float64", "bfloat16")


def open_backend(kind: str, model: Path) -> Backend:
    if kind == "capi":
        from tfserve_app.capi.backend import CapiBackend  # noqa: PLC0415

        return CapiBackend(model, lambda _: None)
    from tfserve_app.tensorflow_backend import TensorFlowBackend  # noqa: PLC0415

    return TensorFlowBackend(model, lambda _: None)


def requests(signature: Signature, *, none: bool) -> Iterator[dict[str, Array]]:
    """Batches of random numbers, and of none."""
    for seed, rows in enumerate((1, 3, 6, 0) if none else (1, 3, 6)):
        random = np.random.default_rng(seed)
        yield {name: _random(spec, rows, random) for name, spec in signature.inputs.items()}


def _random(spec: TensorSpec, rows: int, random: np.random.Generator) -> Array:
    sizes = spec.shape if spec.shape is not None else (-1, -1)
    shape = tuple(rows if size < 0 else size for size in sizes)
    count = int(np.prod(shape))
    if spec.dtype == "string":
        flat: Array = np.empty(count, dtype=object)
        flat[:] = list(itertools.islice(itertools.cycle(_WORDS), count))
        return flat.reshape(shape)
    if spec.dtype in _FLOATS:
        dtype = "float32" if spec.dtype == "bfloat16" else spec.dtype
        return np.asarray(random.normal(size=shape)).astype(dtype)
    if spec.dtype.startswith("complex"):
        values = random.normal(size=shape) + 1j * random.normal(size=shape)
        return np.asarray(values).astype(spec.dtype)
    if spec.dtype == "bool":
        return np.asarray(random.integers(0, 2, shape)).astype(bool)
    return np.asarray(random.integers(0, 10, shape)).astype(spec.dtype)


def answer(backend: Backend, name: str, inputs: Mapping[str, Array]) -> object:
    try:
        return backend.predict(name, inputs)
    except Exception as error:  # noqa: BLE001 (which one is what is compared)
        return type(error).__name__, str(error)


def examine(kind: str, model: Path) -> dict[str, Any]:
    try:
        backend = open_backend(kind, model)
    except ModelLoadError as error:
        return {"failed": str(error)}
    return {
        "signatures": {name: signature.as_dict() for name, signature in backend.signatures.items()},
        "answers": {
            f"{name}/{number}": answer(backend, name, inputs)
            for name, signature in sorted(backend.signatures.items())
            for number, inputs in enumerate(requests(signature, none=model.name in _TAKE_NONE))
        },
    }


def main() -> int:
    kind, out, *models = sys.argv[1:]
    found = {model: examine(kind, Path(model)) for model in models}
    if kind == "capi":
        assert "tensorflow" not in sys.modules
    Path(out).write_bytes(pickle.dumps(found))
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:  # noqa: BLE001 (the process ends without Python's own report)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
