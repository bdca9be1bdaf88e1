"""What an image of tfslim says of itself: bytes that rules took out, answers of the parity gate.

It is read from files in the image, which anybody may have written: what is not understood is left
out, sizes are bounded, and no text is taken over at full length.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["GateResult", "RuleRemoval", "describes", "gates_of", "removals_of"]

_GUARD = "_tfslim.json"  # beside TensorFlow, see slim/guard
_GATES = "usr/share/tfslim/"  # see dockerfiles/build/gate.py
_LARGEST = 4 << 20  # bytes of such a file
_ENTRIES = 1000  # rules, or models of a gate
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]*")  # names and outcomes; no control characters


class RuleRemoval(BaseModel):
    """What one rule of the slim engine took out.

    Attributes:
        rule: Name in the profile, as in docs/rules.md.
        removed_bytes: Of the pieces and files.
        count: How many pieces and files.
    """

    model_config = ConfigDict(frozen=True)

    rule: str = Field(max_length=100)
    removed_bytes: int = Field(ge=0)
    count: int = Field(ge=0)


class GateResult(BaseModel):
    """One answer of the parity gate: this image against the packages before slimming.

    Attributes:
        name: "zoo", "model", or of whatever else was compared.
        outcome: "passed", "inconclusive", "failed", "off" or "not asked".
        why: Where nothing was compared.
        models: Outcome by model.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=100)
    outcome: str = Field(max_length=40)
    why: str = Field("", max_length=1000)
    models: dict[str, str] = Field(default_factory=dict, max_length=_ENTRIES)


def describes(path: str) -> bool:
    """True for the files that `removals_of` and `gates_of` read."""
    return posixpath.basename(path) == _GUARD or _gate_name(path) is not None


def removals_of(kept: Mapping[str, bytes]) -> list[RuleRemoval]:
    """Return the bytes that went by rule, largest first, as the slim engine left them written.

    Args:
        kept: Content of files by path; those that say nothing of it are passed over.
    """
    removed: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for path, content in kept.items():
        if posixpath.basename(path) == _GUARD:
            for item in _removed(content):
                removed[item.rule] += item.removed_bytes
                counts[item.rule] += item.count
    ordered = sorted(removed, key=lambda rule: (-removed[rule], rule))
    return [RuleRemoval(rule=r, removed_bytes=removed[r], count=counts[r]) for r in ordered]


def gates_of(kept: Mapping[str, bytes]) -> list[GateResult]:
    """Return the gate's answers by name; see `removals_of`."""
    found = []
    for path in sorted(kept):
        name = _gate_name(path)
        said = _parsed(kept[path]) if name else None
        if name and said is not None and _WORDS.fullmatch(str(said.get("outcome"))):
            try:
                found.append(GateResult.model_validate({**said, "name": name}))
            except ValidationError:
                continue
    return found


def _gate_name(path: str) -> str | None:
    folder, base = posixpath.split(path)
    if f"{folder}/" == _GATES and base.startswith("gate-") and base.endswith(".json"):
        name = base.removeprefix("gate-").removesuffix(".json")
        return name if _WORDS.fullmatch(name) else None
    return None


def _removed(content: bytes) -> Iterator[RuleRemoval]:
    by_rule = (_parsed(content) or {}).get("removed")
    if not isinstance(by_rule, dict):
        return
    for rule, said in list(by_rule.items())[:_ENTRIES]:
        if isinstance(said, dict) and _WORDS.fullmatch(rule):
            try:
                yield RuleRemoval.model_validate(
                    {"rule": rule, "removed_bytes": said["bytes"], "count": said["count"]}
                )
            except (KeyError, ValidationError):
                continue


def _parsed(content: bytes) -> dict[str, Any] | None:
    if len(content) > _LARGEST:
        return None
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
