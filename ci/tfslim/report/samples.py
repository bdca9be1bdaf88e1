"""Raw samples of a record, in a file beside it where they are many.

In the record stays, for each list that moved, how many there were and 101 quantiles: without the
file the record is still read, with samples made from the quantiles and a note that says so.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tfslim.errors import InputError

__all__ = [
    "Beside",
    "Stored",
    "beside_file",
    "dumps",
    "nothing_beside",
    "put_back",
    "taken_out",
    "with_references",
]

Beside = Callable[[str], bytes | None]
"""Gives the content of a file that lies beside a record; None where there is none."""

_KEY: Final = "latencies_s"
_INLINE: Final = 5_000  # samples that a record holds itself
_SHORT: Final = 200  # samples; a shorter list is not worth a reference
_QUANTILES: Final = 101
_MAX_SAMPLES: Final = 5_000_000
_MAX_FILE: Final = 128 << 20  # bytes, packed and unpacked
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.samples\.json\.gz")


@dataclass(frozen=True)
class Stored:
    """A file of samples: its name, and its content (gzip'ed JSON: a list of lists)."""

    name: str
    data: bytes


def taken_out(data: dict[str, Any], stem: str) -> tuple[dict[str, Any], Stored | None]:
    """Return a record's JSON without its long lists of samples, and the file for them.

    Args:
        data: The record; it is changed.
        stem: Beginning of the file's name.
    """
    holders = list(_holders(data))
    if sum(len(holder[_KEY]) for holder in holders) <= _INLINE:
        return data, None
    lists: list[list[float]] = []
    for holder in holders:
        values = holder[_KEY]
        if len(values) > _SHORT:
            holder[_KEY] = {
                "list": len(lists),
                "n": len(values),
                "quantiles": np.quantile(values, np.linspace(0, 1, _QUANTILES)).tolist(),
            }
            lists.append(values)
    if not lists:
        return data, None
    content = gzip.compress(dumps(lists).encode(), compresslevel=6, mtime=0)
    name = f"{stem}.samples.json.gz"
    data["samples"] = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
    return data, Stored(name, content)


def put_back(data: dict[str, Any], beside: Beside, name: str) -> dict[str, Any]:
    """Return a record's JSON with its samples: those of the file, else made from quantiles.

    Raises:
        InputError: A reference is not one, or the file is not the one that the record names.
    """
    holders = [holder for holder in _holders(data) if isinstance(holder[_KEY], dict)]
    said = data.pop("samples", None)
    if not holders:
        return data
    lists = _read(said, beside, name)
    total = 0
    for holder in holders:
        reference = _Reference.of(holder[_KEY], name)
        total += reference.n
        if total > _MAX_SAMPLES:
            raise _damaged(name, f"it claims more than {_MAX_SAMPLES} samples")
        found = reference.from_quantiles() if lists is None else reference.from_file(lists, name)
        holder[_KEY] = found
    if lists is None:
        note = "The file with the raw samples is not there: latencies are made from 101 quantiles."
        notes = data.get("notes")
        data["notes"] = [*(notes if isinstance(notes, list) else []), note]
    return data


def with_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a record's JSON schema with what stands for samples that are in a file."""
    reference = {
        "type": "object",
        "description": "Samples in the file that `samples` names: the number of the list there, "
        "how many they are, and their quantiles from the smallest to the largest.",
        "properties": {
            "list": {"type": "integer", "minimum": 0},
            "n": {"type": "integer", "minimum": 1},
            "quantiles": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": 2,
                "maxItems": _QUANTILES,
            },
        },
        "required": ["list", "n", "quantiles"],
    }
    file = {
        "type": "object",
        "description": "The file beside this one with the samples: gzip'ed JSON, a list of lists.",
        "properties": {"file": {"type": "string"}, "sha256": {"type": "string"}},
        "required": ["file", "sha256"],
    }
    for model in schema["$defs"].values():
        if _KEY in model.get("properties", {}):
            plain = model["properties"][_KEY]
            model["properties"][_KEY] = {"anyOf": [plain, {"$ref": "#/$defs/SamplesReference"}]}
    schema["$defs"]["SamplesReference"] = reference
    schema["$defs"]["RunRecord"]["properties"]["samples"] = file
    return schema


def beside_file(folder: Path) -> Beside:
    """Return what reads files of a folder, none larger than samples may be."""

    def read(name: str) -> bytes | None:
        try:
            with (folder / name).open("rb") as file:
                return file.read(_MAX_FILE + 1)
        except OSError:
            return None

    return read


def nothing_beside(_name: str) -> bytes | None:
    """There is nothing beside the record."""
    return None


def dumps(data: object, *, indent: int | None = None) -> str:
    """Return JSON without NaN and Infinity, which JSON does not have."""
    separators = (",", ":") if indent is None else None
    return json.dumps(data, allow_nan=False, indent=indent, separators=separators)


@dataclass(frozen=True)
class _Reference:
    number: int
    n: int
    quantiles: list[float]

    @classmethod
    def of(cls, data: Mapping[str, Any], name: str) -> _Reference:
        number, n, quantiles = data.get("list"), data.get("n"), data.get("quantiles")
        if (
            isinstance(number, int)
            and isinstance(n, int)
            and 0 < n <= _MAX_SAMPLES
            and isinstance(quantiles, list)
            and 2 <= len(quantiles) <= _QUANTILES
            and all(map(_sample, quantiles))
        ):
            return cls(number, n, quantiles)
        raise _damaged(name, "a reference to samples is not understood")

    def from_file(self, lists: list[Any], name: str) -> list[float]:
        values = lists[self.number] if 0 <= self.number < len(lists) else None
        if not isinstance(values, list) or len(values) != self.n or not all(map(_sample, values)):
            raise _damaged(name, "its file of samples does not hold what it refers to")
        return values

    def from_quantiles(self) -> list[float]:
        at = (np.arange(self.n) + 0.5) / self.n
        found: list[float] = np.interp(
            at, np.linspace(0, 1, len(self.quantiles)), self.quantiles
        ).tolist()
        return found


def _sample(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _holders(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every object of a record that has latencies."""
    measurements = [
        load for item in _dicts(data.get("measurements")) for load in _dicts(item.get("loads"))
    ]
    plain = [*_dicts(data.get("in_process")), *_dicts(data.get("http"))]
    yield from (
        item for item in (*measurements, *plain) if isinstance(item.get(_KEY), (list, dict))
    )
    for other in _dicts(data.get("others")):
        yield from _holders(other)


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read(said: object, beside: Beside, name: str) -> list[Any] | None:
    """Return the lists of the file; None where there is none."""
    if not isinstance(said, dict) or not _NAME.fullmatch(str(said.get("file"))):
        raise _damaged(name, "it refers to samples and names no file of them")
    content = beside(said["file"])
    if content is None:
        return None
    if len(content) > _MAX_FILE or hashlib.sha256(content).hexdigest() != said.get("sha256"):
        raise _damaged(name, f"{said['file']} is not the file that belongs to it")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(content, _MAX_FILE)
        lists = json.loads(plain)
    except (zlib.error, ValueError, RecursionError) as error:
        raise _damaged(name, f"{said['file']}: {error}") from error
    if not isinstance(lists, list):
        raise _damaged(name, f"{said['file']} holds no lists")
    return lists


def _damaged(name: str, why: str) -> InputError:
    return InputError(f"{name} is not a run record of this version", why=why)
