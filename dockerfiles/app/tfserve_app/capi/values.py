"""NumPy arrays to TensorFlow's tensors and back.

Numbers go in by one copy, into memory that TensorFlow allocates: it wants 64-byte alignment, which
NumPy's arrays seldom have, so a view would be copied as well (TF_NewTensor does). They come out
without a copy: the array is a read-only view that keeps the tensor alive.
"""

from __future__ import annotations

import ctypes

import numpy as np

from tfserve_app.backend import Array
from tfserve_app.capi.arrays import bfloat16_from_float32, bfloat16_to_float32, numpy_dtype
from tfserve_app.capi.dtypes import BFLOAT16, NAMES, STRING
from tfserve_app.capi.library import Library
from tfserve_app.capi.texts import STRING_BYTES, new_texts
from tfserve_app.errors import InputRejectedError

__all__ = ["Tensor", "to_tensor"]


class Tensor:
    """A TF_Tensor; it is deleted with this object.

    Args:
        library: TensorFlow.
        pointer: The TF_Tensor, owned from now on.
    """

    def __init__(self, library: Library, pointer: int) -> None:
        self._library = library
        self.pointer = pointer
        # Asked, not taken from the signature: one that is wrong must not decide what is read.
        self.dtype: int = library.TF_TensorType(pointer)

    def __del__(self) -> None:
        self._library.TF_DeleteTensor(self.pointer)

    @property
    def __array_interface__(self) -> dict[str, object]:
        """What NumPy makes a view from; https://numpy.org/doc/stable/reference/arrays.interface.html."""
        dtype = numpy_dtype(self.dtype)
        assert dtype is not None  # noqa: S101 (to_array looks before)
        address = self._library.TF_TensorData(self.pointer)
        return {
            "shape": self.shape,
            "typestr": dtype.str,
            "data": (address, True),  # read-only: it may be the memory of a variable
            "version": 3,
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        dim, pointer = self._library.TF_Dim, self.pointer
        return tuple(dim(pointer, index) for index in range(self._library.TF_NumDims(pointer)))

    def to_array(self, name: str) -> Array:
        """Return its values; strings as `bytes` objects, bfloat16 as float32.

        Raises:
            InputRejectedError: NumPy has no such type.
        """
        shape = self.shape
        if self.dtype == STRING:
            return self._strings(shape)
        dtype = numpy_dtype(self.dtype)
        if dtype is None:
            kind = NAMES.get(self.dtype, f"type {self.dtype}")
            raise InputRejectedError(f"output {name!r} is {kind}, which cannot be sent over HTTP")
        # An empty tensor may have no memory at all.
        array: Array = np.asarray(self) if 0 not in shape else np.empty(shape, dtype)
        return bfloat16_to_float32(array) if self.dtype == BFLOAT16 else array

    def _strings(self, shape: tuple[int, ...]) -> Array:
        library, at = self._library, self._library.TF_TensorData(self.pointer)
        flat: Array = np.empty(int(np.prod(shape)), dtype=object)
        for index in range(flat.size):
            text = at + STRING_BYTES * index
            size = library.TF_StringGetSize(text)
            flat[index] = ctypes.string_at(library.TF_StringGetDataPointer(text), size)
        return flat.reshape(shape)


def to_tensor(library: Library, array: Array, dtype: int, name: str) -> Tensor:
    """Return an array as a tensor.

    Args:
        library: TensorFlow.
        array: Numbers of the very type (bfloat16 as float32), or objects: `bytes`, or text.
        dtype: TensorFlow's number of the type.
        name: The input's name, for errors.

    Raises:
        InputRejectedError: The array has another type, or one that cannot be sent.
    """
    if dtype == STRING:
        pointer = _from_strings(library, array)
    else:
        pointer = _from_numbers(library, _checked(array, dtype, name), dtype)
    if not pointer:
        raise InputRejectedError(f"input {name!r}: TensorFlow makes no tensor of it")
    return Tensor(library, pointer)


def _checked(array: Array, dtype: int, name: str) -> Array:
    """Return numbers in the type that the tensor's memory has, in row-major order."""
    want = numpy_dtype(dtype)
    expected = np.dtype(np.float32) if dtype == BFLOAT16 else want
    if want is None or array.dtype != expected:
        raise InputRejectedError(
            f"input {name!r}: expected {NAMES.get(dtype, dtype)}, got {array.dtype.name}"
        )
    return np.asarray(bfloat16_from_float32(array) if dtype == BFLOAT16 else array, order="C")


def _from_numbers(library: Library, array: Array, dtype: int) -> int:
    dims = (ctypes.c_int64 * array.ndim)(*array.shape)
    pointer: int = library.TF_AllocateTensor(dtype, dims, array.ndim, array.nbytes)
    if pointer and array.nbytes:
        source = array.__array_interface__["data"][0]
        ctypes.memmove(library.TF_TensorData(pointer), source, array.nbytes)
    return pointer


def _from_strings(library: Library, array: Array) -> int:
    texts = [leaf if isinstance(leaf, bytes) else str(leaf).encode() for leaf in array.ravel()]
    return new_texts(library, texts, array.shape)
