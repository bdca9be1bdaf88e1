"""A frozen model: a folder that `python -m tfserve_app.freeze` writes.

`frozen_graph.pb` is a GraphDef whose variables have become constants; `freeze.json` names its
signatures, what it was made from, and how far its answers are from the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserve_app.backend import TensorSpec
from tfserve_app.capi.dtypes import NAMES
from tfserve_app.capi.metagraph import Endpoint, Entry
from tfserve_app.savedmodel import FROZEN_FILE

__all__ = ["FORMAT", "GRAPH", "Frozen", "read_frozen"]

FORMAT = 1
GRAPH = "frozen_graph.pb"

_NUMBERS = {name: number for number, name in NAMES.items()}


@dataclass(frozen=True)
class Frozen:
    """A frozen model.

    Attributes:
        graph: The GraphDef's file.
        entries: The signatures by name.
        told: What `/health` tells of it: the TensorFlow that froze it, and the drift measured.
    """

    graph: Path
    entries: Mapping[str, Entry]
    told: Mapping[str, object]


def read_frozen(folder: Path) -> Frozen:
    """Read a frozen model's description.

    Raises:
        ValueError: It is not one, or of another format.
        OSError: It cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads((folder / FROZEN_FILE).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"{FROZEN_FILE} has format {found['format']!r}, expected {FORMAT}")
        entries = {
            name: Entry(_endpoints(one["inputs"]), _endpoints(one["outputs"]))
            for name, one in sorted(found["signatures"].items())
        }
        told = {key: found[key] for key in ("tensorflow", "drift")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{FROZEN_FILE} is not as the freezer writes it: {error!r}") from None
    return Frozen(folder / GRAPH, entries, told)


def _endpoints(named: Mapping[str, Any]) -> dict[str, Endpoint]:
    return {name: _endpoint(named[name]) for name in sorted(named)}


def _endpoint(one: Mapping[str, Any]) -> Endpoint:
    shape = one["shape"]
    spec = TensorSpec(str(one["dtype"]), None if shape is None else tuple(map(int, shape)))
    return Endpoint(str(one["tensor"]), _NUMBERS[spec.dtype], spec)
