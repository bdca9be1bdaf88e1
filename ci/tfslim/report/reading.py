"""Read a record that anybody may have written: bounded, checked, brought to this version.

A record travels (an artifact of a pull request from a fork, a branch), so its reader trusts
nothing: size, depth, lengths and numbers are checked before any model sees them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from tfslim.errors import InputError

__all__ = ["MAX_BYTES", "is_record", "migrated", "parse", "read_file", "validated"]

MAX_BYTES: Final = 16 << 20
_MAX_VALUES: Final = 1_000_000
_MAX_DEPTH: Final = 24
_MAX_TEXT: Final = 20_000  # characters; a layer's command is the longest text of a record
_MAX_KEY: Final = 500
_MAX_NUMBER: Final = 2**63
_MAX_PARTS: Final = 64
_SHOWN: Final = 5
_WAY_OUT: Final = "Make one with `tfslim bench`."
_MARKS: Final = {"schema_version", "started", "environment"}
_Model = TypeVar("_Model", bound=BaseModel)


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputError: It is missing, or larger than any record.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", way_out=_WAY_OUT) from error
    return content


def is_record(content: bytes) -> bool:
    """True for what means to be a record, and for what is no JSON at all: that is worth a word."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return True
    return isinstance(data, dict) and data.keys() >= _MARKS


def parse(content: bytes, name: str) -> dict[str, Any]:
    """Read JSON, and refuse what no record holds.

    Raises:
        InputError: It is no JSON object, too large, too deep, or has a text too long, a number
            that is none (NaN, Infinity), too large or negative.
    """
    if len(content) > MAX_BYTES:
        raise _refused(name, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"it is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise _refused(name, "it is no JSON object")
    for problem in _problems(data):
        raise _refused(name, problem)
    return data


def migrated(data: dict[str, Any], name: str, version: int) -> dict[str, Any]:
    """Bring a record to this version.

    Raises:
        InputError: It is of a newer version, or says none.
    """
    found = data.get("schema_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _refused(name, f"its schema_version is {found!r}")
    if found > version:
        raise InputError(
            f"{name} is a run record of version {found}; this tfslim reads up to {version}",
            way_out="Use the tfslim that made it, or a newer one: pip install --upgrade tfslim.",
        )
    for step in range(found, version):
        data = _STEPS[step](data)
    others = data.get("others")
    if isinstance(others, list):
        if len(others) > _MAX_PARTS or any(isinstance(o, dict) and o.get("others") for o in others):
            raise _refused(name, f"others: more than {_MAX_PARTS} parts, or parts within parts")
        data = {
            **data,
            "others": [migrated(o, name, version) if isinstance(o, dict) else o for o in others],
        }
    return data


def validated(model: type[_Model], data: Mapping[str, Any], name: str) -> _Model:
    """Return the data as a model.

    Raises:
        InputError: They do not fit; the first places that do not are named.
    """
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))[:200]}: {item['msg'][:200]}"
            for item in error.errors(include_url=False)[:_SHOWN]
        ]
        raise _refused(name, "\n".join(problems)) from error


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 added fields, each of which may be missing; no field changed its meaning."""
    return {**data, "schema_version": 2}


_STEPS: Final = {1: _from_1}


def _refused(name: str, why: str) -> InputError:
    return InputError(f"{name} is not a run record of this version", why=why, way_out=_WAY_OUT)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _problems(data: object) -> Iterator[str]:
    """Yield what a record must not hold, with its place; needs no memory to speak of."""
    open_values = [iter([("", data)])]
    seen = 0
    while open_values:
        place, value = next(open_values[-1], (None, None))
        if place is None:
            open_values.pop()
            continue
        problem = _problem(value)
        if problem:
            yield f"{place[-200:]}: {problem}"
        if isinstance(value, (dict, list)):
            seen += len(value)
            if len(open_values) > _MAX_DEPTH:
                yield f"it is nested more than {_MAX_DEPTH} deep"
            if seen > _MAX_VALUES:
                yield f"it has more than {_MAX_VALUES} values"
            open_values.append(_children(place, value))


def _children(place: str, value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is directly inside a value, with its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield f"{place}.{key}" if place else str(key), item


def _problem(value: object) -> str:
    if isinstance(value, dict) and any(len(key) > _MAX_KEY for key in value):
        return f"a key of more than {_MAX_KEY} characters"
    if isinstance(value, str):
        return f"a text of more than {_MAX_TEXT} characters" if len(value) > _MAX_TEXT else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    # A whole number of hundreds of digits is no float: it is compared before it is made one.
    huge = isinstance(value, int) and abs(value) > _MAX_NUMBER
    if huge or not math.isfinite(value) or value > _MAX_NUMBER:
        return "a number that is too large"
    return f"a negative number ({value:g})" if value < 0 else ""
