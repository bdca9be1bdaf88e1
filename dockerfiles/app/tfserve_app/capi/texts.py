"""Tensors of strings, made without NumPy: a model is loaded before that is imported."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tfserve_app.capi.dtypes import STRING
from tfserve_app.capi.library import Library

__all__ = ["STRING_BYTES", "new_texts"]

STRING_BYTES = 24  # sizeof(TF_TString), tsl/platform/ctstring_internal.h
_ALIGNMENT = 64  # the most that Eigen asks for; a scalar elsewhere ends the process

# Memory of string tensors that TensorFlow holds now, by address.
_held: dict[int, ctypes.Array[ctypes.c_char]] = {}

_Deallocator = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_deallocators: dict[int, Any] = {}


def new_texts(library: Library, texts: Sequence[bytes], shape: Sequence[int] = ()) -> int:
    """Return a new TF_Tensor of copies: ops copy a TF_TString that is a view past its end.

    Args:
        library: TensorFlow.
        texts: The strings in row-major order, as many as the shape has elements.
        shape: The tensor's dimensions; none for a scalar.
    """
    size = STRING_BYTES * len(texts)
    memory = ctypes.create_string_buffer(size + _ALIGNMENT)
    start = ctypes.addressof(memory)
    start += -start % _ALIGNMENT
    for index, text in enumerate(texts):
        at = start + STRING_BYTES * index
        library.TF_StringInit(at)
        library.TF_StringCopy(at, text, len(text))
    _held[start] = memory
    dims = (ctypes.c_int64 * len(shape))(*shape)
    deallocator = ctypes.cast(_deallocator(library), ctypes.c_void_p)
    pointer: int = library.TF_NewTensor(STRING, dims, len(shape), start, size, deallocator, None)
    return pointer


def _deallocator(library: Library) -> Any:
    """Return what frees a string tensor's memory; TensorFlow calls it from any of its threads."""
    found = _deallocators.get(id(library))
    if found is None:

        def free(start: int, size: int, _: int) -> None:
            for at in range(start, start + size, STRING_BYTES):
                library.TF_StringDealloc(at)
            del _held[start]

        found = _deallocators.setdefault(id(library), _Deallocator(free))
    return found
