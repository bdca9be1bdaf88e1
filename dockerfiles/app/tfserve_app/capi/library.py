"""Find, open and call TensorFlow's C API.

Declared here is exactly what is used of tensorflow/c/c_api.h, tf_tensor.h, tf_status.h, tf_buffer.h
and tf_tstring.h. In some versions a part of it lies in libtensorflow_framework.so.2; that is a
dependency of the library that is opened, so the loader finds it there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from tfserve_app.errors import ModelLoadError

__all__ = [
    "LIBRARY",
    "Buffer",
    "Library",
    "Output",
    "StatusError",
    "find_library",
    "grow_memory_in_steps",
    "open_library",
    "release_memory",
]

LIBRARY = "libtensorflow_cc.so.2"

_RTLD_LAZY = 1  # bits/dlfcn.h

# TF_Code of tf_status.h, named as Python's tf.errors names it.
_ERRORS = {
    1: "CancelledError",
    2: "UnknownError",
    3: "InvalidArgumentError",
    4: "DeadlineExceededError",
    5: "NotFoundError",
    6: "AlreadyExistsError",
    7: "PermissionDeniedError",
    8: "ResourceExhaustedError",
    9: "FailedPreconditionError",
    10: "AbortedError",
    11: "OutOfRangeError",
    12: "UnimplementedError",
    13: "InternalError",
    14: "UnavailableError",
    15: "DataLossError",
    16: "UnauthenticatedError",
}


class StatusError(Exception):
    """TensorFlow refused a call; its class is named as in Python's `tf.errors`."""


class Output(ctypes.Structure):
    """TF_Output: one output of an operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes, their number, and how to free them."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


_MIB = 1 << 20
# M_TOP_PAD, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: numbers from malloc.h
_MALLOC_OPTIONS = ((-2, 64 * _MIB), (-3, 32 * _MIB), (-1, 64 * _MIB))

# Calls that take long let other Python threads run meanwhile.
_SLOW: dict[str, tuple[Any, list[Any]]] = {
    "TF_SessionRun": (
        None,
        [
            *(c_void_p, c_void_p, POINTER(Output), POINTER(c_void_p), c_int),
            *(POINTER(Output), POINTER(c_void_p), c_int),
            *(c_void_p, c_int, c_void_p, c_void_p),
        ],
    ),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p],
    ),
    "TF_GraphImportGraphDef": (None, [c_void_p, POINTER(Buffer), c_void_p, c_void_p]),
    "TF_NewSession": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_DeleteTensor": (None, [c_void_p]),
}
# The rest takes less than giving the interpreter away and waiting for it.
_FAST: dict[str, tuple[Any, list[Any]]] = {
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (POINTER(Buffer), []),
    "TF_DeleteBuffer": (None, [POINTER(Buffer)]),
    "TF_NewGraph": (c_void_p, []),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_OperationNumControlInputs": (c_int, [c_void_p]),
    "TF_OperationOpType": (c_char_p, [c_void_p]),
    "TF_NewImportGraphDefOptions": (c_void_p, []),
    "TF_DeleteImportGraphDefOptions": (None, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_SessionListDevices": (c_void_p, [c_void_p, c_void_p]),
    "TF_DeleteDeviceList": (None, [c_void_p]),
    "TF_DeviceListCount": (c_int, [c_void_p]),
    "TF_DeviceListName": (c_char_p, [c_void_p, c_int, c_void_p]),
    "TF_DeviceListType": (c_char_p, [c_void_p, c_int, c_void_p]),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_NewTensor": (
        c_void_p,
        [c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, c_void_p, c_void_p],
    ),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringDealloc": (None, [c_void_p]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
}


class Library:
    """The opened library; each function of the C API is an attribute, as in `library.TF_Version`.

    Args:
        handle: What dlopen returned.

    Raises:
        ModelLoadError: A function that is needed is not in it.
    """

    def __init__(self, handle: int) -> None:
        self._declare(ctypes.CDLL(LIBRARY, handle=handle), _SLOW)
        self._declare(ctypes.PyDLL(LIBRARY, handle=handle), _FAST)

    def __getattr__(self, name: str) -> Any:
        """Say which function is missing; the declared ones are found before this is asked."""
        raise AttributeError(f"{name} is not declared in {__name__}")

    @property
    def version(self) -> str:
        """TensorFlow's version."""
        version: bytes = self.TF_Version()
        return version.decode()

    @contextmanager
    def status(self) -> Iterator[int]:
        """Give a new TF_Status, and raise what it says at the end.

        Raises:
            StatusError: It is not TF_OK.
        """
        status: int = self.TF_NewStatus()
        try:
            yield status
            code: int = self.TF_GetCode(status)
            if code:
                message: bytes = self.TF_Message(status)
                raise _error(code)(message.decode("utf-8", "replace"))
        finally:
            self.TF_DeleteStatus(status)

    def _declare(self, library: ctypes.CDLL, functions: dict[str, tuple[Any, list[Any]]]) -> None:
        for name, (result, arguments) in functions.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise ModelLoadError(
                    f"{LIBRARY} has no {name}: this TensorFlow is too old for BACKEND=capi, or "
                    "symbols were removed from it; use BACKEND=tensorflow"
                ) from None
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)


@cache
def _error(code: int) -> type[StatusError]:
    return type(_ERRORS.get(code, "UnknownError"), (StatusError,), {})


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library knows how (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def grow_memory_in_steps() -> None:
    """Let malloc ask the system for memory in large steps, where the C library is glibc's.

    A start allocates a hundred megabytes in small pieces, and by itself malloc grows a thread's
    heap by a page or two at a time: tens of thousands of system calls and as many faults. Setting
    the step fixes the size from which memory is mapped and given back by itself, which glibc
    otherwise raises to this largest value as a program goes on (man 3 mallopt). It is not resident
    before it is used. Who has set malloc up in the environment is left alone.
    """
    told = (name for name in os.environ if name.startswith("MALLOC_"))
    if any(told) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)


def find_library() -> Path:
    """Return where the library is, in the folder of the package `tensorflow`.

    The package is found, never imported; a folder without `__init__.py`, which has little more
    than the library in it, is found as well.

    Raises:
        ModelLoadError: It is not there.
    """
    spec = importlib.util.find_spec("tensorflow")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        if (Path(folder) / LIBRARY).is_file():
            return Path(folder) / LIBRARY
    where = ", ".join(folders) or "a folder `tensorflow` on Python's path"
    raise ModelLoadError(f"{LIBRARY} is not there: it is expected in {where}; install tensorflow")


@cache
def open_library() -> Library:
    """Open the library, once in a process.

    Raises:
        ModelLoadError: It is not there, or cannot be opened.
    """
    path = find_library()
    # libc's own dlopen, called like any C function: ctypes.CDLL(path) would stop all other
    # Python threads for the tenths of a second that this takes.
    libc = ctypes.CDLL(None)
    libc.dlopen.restype, libc.dlopen.argtypes = c_void_p, [c_char_p, c_int]
    libc.dlerror.restype = c_char_p
    handle = libc.dlopen(os.fsencode(path), _RTLD_LAZY)
    if not handle:
        reason: bytes = libc.dlerror() or b"no reason was given"
        raise ModelLoadError(f"TensorFlow cannot be opened: {reason.decode(errors='replace')}")
    return Library(handle)
