"""What carries TensorFlow's types in NumPy."""

from __future__ import annotations

from typing import cast

import numpy as np

from tfserve_app.backend import Array
from tfserve_app.capi.dtypes import BFLOAT16, NAMES

__all__ = ["bfloat16_from_float32", "bfloat16_to_float32", "numpy_dtype"]

# The types that NumPy has under the same name: their memory is the same, too. Not among them:
# float8 and int4, which NumPy has not, and handles, which have no value.
_PLAIN = frozenset(
    {
        *("float16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    }
)

_QUANTISED = {
    "qint8": "int8",
    "quint8": "uint8",
    "qint16": "int16",
    "quint16": "uint16",
    "qint32": "int32",
}


def numpy_dtype(number: int) -> np.dtype[np.generic] | None:
    """Return the NumPy type with the same memory; None where there is none.

    bfloat16 is uint16 here: its bits. Quantised numbers are the integers they are stored as.
    """
    if number == BFLOAT16:
        return np.dtype(np.uint16)
    name = NAMES.get(number, "")
    name = _QUANTISED.get(name, name)
    return np.dtype(name) if name in _PLAIN else None


def bfloat16_to_float32(bits: Array) -> Array:
    """Return bfloat16 values, given as uint16, as float32: the upper half of its bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat16_from_float32(values: Array) -> Array:
    """Return float32 values rounded to bfloat16 (to nearest, ties to even), as uint16.

    As Eigen's float_to_bfloat16_rtne, which tf.cast uses: a NaN becomes a quiet NaN of its sign.
    """
    contiguous = np.ascontiguousarray(values, np.float32).reshape(values.shape)
    bits = contiguous.view(np.uint32).astype(np.uint64)
    odd = (bits >> np.uint64(16)) & np.uint64(1)
    rounded = (bits + np.uint64(0x7FFF) + odd) >> np.uint64(16)
    quiet = (bits >> np.uint64(16)) & np.uint64(0x8000) | np.uint64(0x7FC0)
    return cast(Array, np.where(np.isnan(contiguous), quiet, rounded).astype(np.uint16))
