"""How probe.py asks a model through TensorFlow's C API: with the service's own native backend.

Loaded by probe.py from beside it, together with the folder `tfserve_app`. Python's TensorFlow is
never imported here: a target need not have it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# The service carries bfloat16 as float32; here its bits count.
_BFLOAT16 = "bfloat16"

Array = Any
Spec = tuple[str, "tuple[int | None, ...] | None"]
Answer = list[tuple[str, str, Array]]
Functions = dict[str, tuple[dict[str, Spec], Callable[[Mapping[str, Array]], Answer]]]


class RefusedError(Exception):
    """Inputs that do not fit the signature, as the service refuses them before the model runs."""


def wanted() -> bool:
    """Return whether a target was slimmed so that only its C API is left to ask (rule native)."""
    try:
        import _tfslim_guard  # type: ignore  # noqa: PLC0415
    except ImportError:
        return False
    return "native" in _tfslim_guard.data()["rules"]


def start() -> None:
    """Import the backend, and open TensorFlow's library.

    Raises:
        Exception: Something of it is not there.
    """
    sys.path.insert(0, str(_HERE))
    from tfserve_app.capi.library import open_library  # noqa: PLC0415

    open_library()


def environment() -> dict[str, Any]:
    """Say what the answers are made with."""
    import numpy  # noqa: PLC0415

    from tfserve_app.capi.gpus import gpu_names  # noqa: PLC0415
    from tfserve_app.capi.library import open_library  # noqa: PLC0415
    from tfserve_app.capi.options import SessionOptions  # noqa: PLC0415

    library = open_library()
    return {
        "numpy": numpy.__version__,
        "tensorflow": library.version,
        "gpus": list(gpu_names(library, SessionOptions())),
    }


def load(path: Path, note: Callable[[str], None]) -> Functions:
    """Load a SavedModel.

    Args:
        path: Its folder.
        note: Gets what is unusual about it.

    Returns:
        Its signatures by name: inputs, and what calls it.

    Raises:
        Exception: It cannot be loaded, or has none.
    """
    from tfserve_app.capi.backend import CapiBackend  # noqa: PLC0415

    backend = CapiBackend(path, note)
    return {
        name: (
            {key: (spec.dtype, _shape(spec.shape)) for key, spec in signature.inputs.items()},
            _caller(backend, name, signature),
        )
        for name, signature in backend.signatures.items()
    }


def cast(values: Array, dtype: str) -> Array:
    """Return float64 numbers as an array of a type; None for one that the backend cannot take."""
    if dtype == _BFLOAT16:
        from tfserve_app.capi import arrays  # noqa: PLC0415

        bits = arrays.bfloat16_from_float32(values.astype("float32"))
        return arrays.bfloat16_to_float32(bits)
    try:
        return values.astype(dtype)
    except TypeError:
        return None


def error_of(error: BaseException) -> BaseException:
    """Return TensorFlow's own error, of which the backend says only the first line."""
    told = error.__cause__
    return told if told is not None and type(told).__mro__[1].__name__ == "StatusError" else error


def _shape(shape: tuple[int, ...] | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(None if size < 0 else size for size in shape)


def _caller(backend: Any, name: str, signature: Any) -> Callable[[Mapping[str, Array]], Answer]:
    def call(inputs: Mapping[str, Array]) -> Answer:
        _check(signature.inputs, inputs)
        outputs = backend.predict(name, inputs)
        return [(key, signature.outputs[key].dtype, outputs[key]) for key in sorted(outputs)]

    return call


def _check(specs: Mapping[str, Any], inputs: Mapping[str, Array]) -> None:
    """Refuse what the service refuses before it asks its backend."""
    if inputs.keys() != specs.keys():
        raise RefusedError(f"inputs {sorted(inputs)} in place of {sorted(specs)}")
    for name, array in inputs.items():
        spec = specs[name]
        dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
        if dtype != spec.dtype and (dtype, spec.dtype) != ("float32", _BFLOAT16):
            raise RefusedError(f"input {name}: {dtype} in place of {spec.dtype}")
        if not spec.fits(array.shape):
            raise RefusedError(f"input {name}: shape {list(array.shape)} does not fit {spec}")
