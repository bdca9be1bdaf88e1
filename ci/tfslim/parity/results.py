"""What a probe wrote, read back with suspicion: a target under test may write anything."""

from __future__ import annotations

import hashlib
import itertools
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from tfslim.parity import probe

__all__ = [
    "Call",
    "Environment",
    "ModelResult",
    "Output",
    "ProbeError",
    "Unreadable",
    "read_environment",
    "read_model",
]

_JSON_BYTES = 256 << 20
_Model = TypeVar("_Model", bound=BaseModel)
Array = npt.NDArray[Any]


class Unreadable(Exception):  # noqa: N818 (an answer, not an error of ours)
    """A probe's files are missing, damaged, or not what they say."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeError(_Record):
    """An error as Python names it."""

    type: str
    message: str


class Value(_Record):
    """An input: dtype as TensorFlow or numpy names it, and a digest over shape and content."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    sha256: str


class Output(_Record):
    """An output; shape, digest and key are None where its values cannot be read (a resource)."""

    name: str
    dtype: str
    shape: tuple[NonNegativeInt, ...] | None
    sha256: str | None
    array: str | None


class Call(_Record):
    """One call and what came of it; the fields are those of `probe.Call`."""

    kind: Literal["load", "run", "misuse"]
    signature: str
    case: str
    status: Literal["ok", "error", "unmade"]
    inputs: dict[str, Value]
    outputs: tuple[Output, ...]
    error: ProbeError | None
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other calls of its model."""
        return self.kind, self.signature, self.case


class _Calls(_Record):
    schema_version: Literal[1]
    model: str
    loader: str
    notes: tuple[str, ...]
    calls: tuple[Call, ...]


class Environment(_Record):
    """What a target computed with; empty where its TensorFlow could not be imported.

    Attributes:
        gpus: Name and compute capability of each GPU that TensorFlow lists.
        driver: What the NVIDIA driver says of itself.
        variables: Environment variables that matter to TensorFlow.
        backend: Through what the models were asked: Python's TensorFlow or the C API.
    """

    schema_version: Literal[1]
    python: str
    machine: str
    cpus: int
    variables: dict[str, str]
    deterministic: bool
    import_error: ProbeError | None
    driver: str
    numpy: str = ""
    tensorflow: str = ""
    keras: str = ""
    cuda: str = ""
    cudnn: str = ""
    gpus: tuple[str, ...] = ()
    backend: Literal["tensorflow", "capi"] = "tensorflow"


@dataclass(frozen=True)
class ModelResult:
    """All answers of one model, with the arrays that are in them.

    Attributes:
        loader: How it was loaded.
        notes: What was unusual about that.
        calls: By their key.
        arrays: By their key in the outputs; strings as arrays of bytes objects.
    """

    loader: str
    notes: tuple[str, ...]
    calls: Mapping[tuple[str, str, str], Call]
    arrays: Mapping[str, Array]

    @property
    def has_signatures(self) -> bool:
        """False for what Python's TensorFlow alone can load, or call."""
        return self.loader not in (probe.KERAS, probe.RESTORED_FUNCTIONS)


def read_environment(folder: Path) -> Environment:
    """Read what a target computed with.

    Raises:
        Unreadable: It is not there, or not what it should be.
    """
    return _parsed(Environment, folder / probe.ENVIRONMENT)


def read_model(folder: Path) -> ModelResult:
    """Read a model's answers, and check each array against its digest.

    Raises:
        Unreadable: They are not there, damaged, or not what they should be.
    """
    found = _parsed(_Calls, folder / probe.CALLS)
    calls = {call.key: call for call in found.calls}
    if len(calls) != len(found.calls):
        raise Unreadable(f"{folder.name}/{probe.CALLS} has the same call twice")
    outputs = [output for call in found.calls for output in call.outputs if output.array]
    stored = _stored_arrays(folder / probe.ARRAYS) if outputs else {}
    arrays = {str(output.array): _checked(output, stored) for output in outputs}
    return ModelResult(found.loader, found.notes, calls, arrays)


def _parsed(model: type[_Model], path: Path) -> _Model:
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise Unreadable(f"{path.name} is larger than {_JSON_BYTES} bytes")
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Unreadable(f"{path.name} is damaged: {place}: {first['msg']}") from error


def _stored_arrays(path: Path) -> dict[str, Array]:
    """Read a .npz file; nothing in it is unpickled or decompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Unreadable(f"{path.name} is compressed, which a probe's never is")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise Unreadable(f"{path.name} is damaged: {error}") from error


def _checked(output: Output, stored: Mapping[str, Array]) -> Array:
    """Return an output's array in its shape, if it is the one that the digest is of."""
    key = str(output.array)
    names = [f"{key}.ends", f"{key}.text"] if output.dtype == "string" else [key]
    try:
        parts = {name.removeprefix(key): stored[name] for name in names}
    except KeyError as error:
        raise Unreadable(f"{probe.ARRAYS} lacks {error}") from error
    shape = output.shape or ()
    digest = hashlib.sha256(f"{list(shape)}".encode())
    for part, values in parts.items():
        digest.update(part.encode() + np.ascontiguousarray(values).tobytes())
    array = _strings(parts[".ends"], parts[".text"]) if len(parts) == 2 else parts[""]
    if (
        digest.hexdigest() != output.sha256
        or array.size != math.prod(shape)
        or not _holds(array.dtype, output.dtype)
    ):
        raise Unreadable(f"{probe.ARRAYS}: {key} is not what {probe.CALLS} says of it")
    return array.reshape(shape)


def _holds(stored: np.dtype[Any], dtype: str) -> bool:
    """True where a probe stores values of a dtype like this: as they are, or as their bits."""
    try:
        own = np.dtype("O" if dtype == "string" else dtype)
    except TypeError:  # bfloat16 and the like are not numpy's
        return stored.kind == "u"
    return stored == own or (own.kind == "V" and stored.kind == "u")


def _strings(ends: Array, text: Array) -> Array:
    """Return byte strings from where each ends in one long text."""
    if (ends.dtype, text.dtype) != (np.dtype("int64"), np.dtype("uint8")):
        raise Unreadable(f"{probe.ARRAYS}: strings are stored in an unknown way")
    data, found = text.tobytes(), np.empty(ends.size, dtype=object)
    for index, (start, end) in enumerate(itertools.pairwise((0, *ends.tolist()))):
        found[index] = data[start:end]
    return found
