"""Tensors on the wire: JSON values, .npy and .npz, checked against what a signature takes.

The JSON rules are those of TensorFlow Serving's REST interface: numbers for numbers, `true` and
`false` for booleans, text or `{"b64": "…"}` for strings, and the tokens NaN, Infinity and
-Infinity for floats that are not finite (https://www.tensorflow.org/tfx/serving/api_rest).
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy_format

from tfserve_app.backend import Array, Signature, TensorSpec

if TYPE_CHECKING:
    import zipfile

__all__ = [
    "RequestError",
    "dump_json",
    "json_value",
    "load_json",
    "pick_signature",
    "read_npy",
    "read_npz",
    "tensor_from_array",
    "tensor_from_json",
    "write_npy",
    "write_npz",
]

_MAX_RANK = 32  # NumPy 1.26's limit; NumPy 2 and TensorFlow take more
_NPY_HEADER_BYTES = 16384  # NumPy itself reads headers of at most 10,000
_WIRE_DTYPE = {"bfloat16": "float32"}  # NumPy has no bfloat16


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        message: What was expected and what came.
        status: HTTP status, 4xx.
        signature: The signature that was meant, shown to the client in full.
    """

    def __init__(
        self, message: str, *, status: int = 400, signature: Signature | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.signature = signature


def pick_signature(
    signatures: Mapping[str, Signature], name: object, default: str
) -> tuple[str, Signature]:
    """Return the signature a request names, or the default one when it names none.

    Raises:
        RequestError: There is no such signature.
    """
    if name is None or name == "":
        return default, signatures[default]
    if not isinstance(name, str) or name not in signatures:
        known = ", ".join(sorted(signatures))
        raise RequestError(f"unknown signature {_short(name)}; this model has: {known}")
    return name, signatures[name]


def load_json(body: bytes | bytearray) -> dict[str, object]:
    """Parse a request body that must be a JSON object, without a key twice in any object.

    Raises:
        RequestError: It is not.
    """
    try:
        value = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(f"the body is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, not {_json_type(value)}")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        for key, _ in pairs:
            if key not in value:
                raise ValueError(f"the key {_short(key)} is there twice")
            del value[key]
    return value


def dump_json(value: object) -> bytes:
    """Serialise an answer; floats that are not finite become NaN, Infinity, -Infinity."""
    return json.dumps(value, separators=(",", ":")).encode()


def tensor_from_json(value: object, spec: TensorSpec, name: str) -> Array:
    """Turn a (nested) JSON value into the tensor that `spec` asks for.

    Raises:
        RequestError: Wrong type, ragged lists, wrong shape, or a number out of range.
    """
    leaves, shape = _flatten(value, name)
    if spec.dtype == "string":
        flat: Array = np.empty(len(leaves), dtype=object)
        flat[:] = [_string(leaf, name) for leaf in leaves]
    else:
        flat = _numbers(leaves, spec, name)
    _check_shape(shape, spec, name)
    return flat.reshape(shape)


def tensor_from_array(array: Array, spec: TensorSpec, name: str) -> Array:
    """Check a raw tensor against `spec`; text and fixed-size bytes become `bytes` objects.

    Raises:
        RequestError: Wrong type or shape. Types are not converted silently.
    """
    want = wire_dtype(spec)
    if spec.dtype == "string" and array.dtype.kind in "SU":
        array = _as_bytes(array)
    elif array.dtype.newbyteorder("=") != want:
        raise RequestError(
            f"input {name!r}: expected {spec}, got {array.dtype.name}{list(array.shape)}; "
            f"convert it, for example with .astype({want.name!r})"
        )
    _check_shape(array.shape, spec, name)
    return array.astype(want, copy=False)


def wire_dtype(spec: TensorSpec) -> np.dtype[np.generic]:
    """Return the NumPy type that carries a tensor of this specification.

    Raises:
        RequestError: There is none (resource handles and the like).
    """
    if spec.dtype == "string":
        return np.dtype(object)
    try:
        return np.dtype(_WIRE_DTYPE.get(spec.dtype, spec.dtype))
    except TypeError:
        raise RequestError(f"tensors of type {spec.dtype} cannot be sent over HTTP") from None


def read_npy(body: bytes | bytearray) -> Array:
    """Read one .npy file without copying it, and never more than the body holds.

    `np.load` would allocate whatever the header claims, and may unpickle; this does neither.

    Raises:
        RequestError: Not a .npy file, Python objects inside, or a size that does not match.
    """
    stream = io.BytesIO(body[:_NPY_HEADER_BYTES])
    try:
        version = npy_format.read_magic(stream)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # noqa: BLE001 (its parser raises whatever Python's tokenizer does)
        raise RequestError(f"the body is not a .npy file: {error}") from None
    if len(shape) > _MAX_RANK:
        raise RequestError(f"the .npy header has more than {_MAX_RANK} dimensions")
    if dtype.kind not in "biufcSU" or dtype.subdtype is not None:
        raise RequestError("a .npy body must hold plain numbers or fixed-size strings, no objects")
    offset = stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(body) - offset != expected:
        raise RequestError(
            f"the .npy header says {dtype.name}{list(shape)}, which is {expected} bytes, "
            f"but {len(body) - offset} bytes follow it"
        )
    if expected == 0:
        return np.empty(shape, dtype=dtype)
    flat = np.frombuffer(body, dtype=dtype, offset=offset)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_npz(body: bytes | bytearray, limit: int) -> dict[str, Array]:
    """Read the named tensors of a .npz file, at most `limit` bytes of them unpacked.

    Raises:
        RequestError: Not a .npz file, or larger than `limit` (status 413).
    """
    try:
        import zipfile  # noqa: PLC0415 (few clients need it, and every start would pay)

        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return _read_members(archive, limit)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001 (damaged archives raise a dozen kinds)
        raise RequestError(f"the body is not a .npz file: {error}") from None


def write_npy(array: Array, name: str) -> bytes:
    """Return a tensor as a .npy file.

    Raises:
        RequestError: It holds strings (status 406): .npy would cut their trailing NUL bytes.
    """
    if array.dtype.hasobject:
        raise RequestError(
            f"output {name!r} holds strings, which .npy cannot carry; ask for application/json",
            status=406,
        )
    stream = io.BytesIO()
    npy_format.write_array(stream, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def write_npz(arrays: Mapping[str, Array]) -> bytes:
    """Return named tensors as an uncompressed .npz file, which `np.load` reads."""
    import zipfile  # noqa: PLC0415 (see above)

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", write_npy(array, name))
    return stream.getvalue()


def json_value(array: Array, name: str) -> object:
    """Return a tensor as a (nested) JSON value.

    Strings whose output name ends in `_bytes`, and those that are not UTF-8, become
    `{"b64": "…"}`; other strings become text.

    Raises:
        RequestError: Complex numbers (status 406): JSON has none.
    """
    if array.dtype.kind == "c":
        raise RequestError(
            f"output {name!r} is {array.dtype.name}, which JSON cannot carry; "
            "ask /predict for application/x-npy",
            status=406,
        )
    if array.dtype.hasobject:
        leaves = np.empty(array.size, dtype=object)
        leaves[:] = [_json_string(leaf, binary=name.endswith("_bytes")) for leaf in array.flat]
        array = leaves.reshape(array.shape)
    return array.tolist()


def _read_members(archive: zipfile.ZipFile, limit: int) -> dict[str, Array]:
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)  # zipfile unpacks no more than it says
    if size > limit:
        raise RequestError(f"the .npz unpacks to {size} bytes, over {limit}", status=413)
    return {entry.filename.removesuffix(".npy"): read_npy(archive.read(entry)) for entry in entries}


def _flatten(value: object, name: str) -> tuple[list[object], tuple[int, ...]]:
    """Return the leaves of a nested list and its shape, level by level (no Python recursion).

    Raises:
        RequestError: Lists of unequal lengths, or lists beside values.
    """
    level: list[object] = [value]
    shape: list[int] = []
    while level and isinstance(level[0], list):
        lists = [item for item in level if isinstance(item, list)]
        lengths = set(map(len, lists))
        if len(lists) != len(level) or len(lengths) != 1:
            where = f"at nesting level {len(shape) + 1}"
            raise RequestError(
                f"input {name!r}: lists of unequal lengths {where}"
                if len(lists) == len(level)
                else f"input {name!r}: lists and single values are mixed {where}"
            )
        shape.append(lengths.pop())
        if len(shape) > _MAX_RANK:
            raise RequestError(f"input {name!r}: lists are nested more than {_MAX_RANK} deep")
        level = list(itertools.chain.from_iterable(lists))
    return level, tuple(shape)


def _numbers(leaves: list[object], spec: TensorSpec, name: str) -> Array:
    """Return JSON leaves as a flat array of the specified type."""
    dtype = wire_dtype(spec)
    allowed = _JSON_TYPES.get(dtype.kind)
    if allowed is None:
        raise RequestError(
            f"input {name!r} is {spec}, which JSON cannot carry; send application/x-npy"
        )
    wrong = set(map(type, leaves)) - allowed  # one pass in C, however long the list
    if wrong:
        leaf = next(leaf for leaf in leaves if type(leaf) in wrong)
        raise RequestError(
            f"input {name!r}: expected {spec}, got {_json_type(leaf)} {_short(leaf)}"
        )
    try:
        array = np.array(leaves, dtype=np.float64 if dtype.kind == "f" else dtype)
        fitting = _in_range(array, leaves, dtype)
    except OverflowError:
        fitting = None
    if fitting is None:
        raise RequestError(f"input {name!r}: a number is out of range for {spec.dtype}")
    return fitting


def _in_range(array: Array, leaves: list[object], dtype: np.dtype[np.generic]) -> Array | None:
    """Return the array in its final type, None where a number does not fit into it."""
    if dtype.kind != "f":
        return array if array.tolist() == leaves else None  # NumPy 1.26 wraps integers around
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype, copy=False)
    return narrow if np.isinf(narrow).sum() == np.isinf(array).sum() else None


_JSON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
}


def _check_shape(shape: tuple[int, ...], spec: TensorSpec, name: str) -> None:
    if not spec.fits(shape):
        raise RequestError(f"input {name!r}: expected {spec}, got shape {list(shape)}")
    if 0 in shape and 0 not in (spec.shape or ()):
        # Some of TensorFlow's kernels divide by a size and end the process.
        raise RequestError(f"input {name!r}: shape {list(shape)} is empty; send at least one")


def _string(leaf: object, name: str) -> bytes:
    """Return a JSON leaf of a string tensor as bytes."""
    if isinstance(leaf, str):
        return leaf.encode("utf-8", "surrogatepass")
    if isinstance(leaf, dict) and set(leaf) == {"b64"} and isinstance(leaf["b64"], str):
        try:
            return base64.b64decode(leaf["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError(f"input {name!r}: broken base64: {error}") from None
    raise RequestError(
        f'input {name!r}: expected text or {{"b64": "…"}}, got {_json_type(leaf)} {_short(leaf)}'
    )


def _as_bytes(array: Array) -> Array:
    """Return fixed-size text or bytes as `bytes` objects."""
    flat: Array = np.empty(array.size, dtype=object)
    flat[:] = [leaf.encode() if isinstance(leaf, str) else leaf for leaf in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _json_string(leaf: object, *, binary: bool) -> object:
    """Return an element of a string tensor as JSON."""
    if not isinstance(leaf, bytes):
        return str(leaf)
    if not binary:
        try:
            return leaf.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(leaf).decode()}


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _short(value: object) -> str:
    """Return a value for an error message, cut where it is long."""
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}…"
