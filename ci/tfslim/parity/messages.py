"""Error messages without what may differ between two runs of the same thing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["essence", "from_graph"]

_RULES: Final = (
    # Stack frames: where a function lies is the install's business, and source may be left out.
    (re.compile(r'^ *File "[^"\n]*", line \d+, in .*\n(?: {4,}\S.*\n)*', re.MULTILINE), ""),
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b0x[0-9a-fA-F]+"), "0x…"),
    (re.compile(r"(?<![\w.])(?:~|\.{1,2})?(?:/[\w.@+=-]+)*/(?=[\w.@+=-])"), "…/"),
    (re.compile(r"\bline \d+"), "line …"),
    # TensorFlow numbers functions as it meets them, and their order in a file is not fixed.
    (re.compile(r"(__(?:inference|forward|backward)_[\w<>./]*?)_\d+\b"), r"\1_…"),
)
_NODE: Final = "{{node "


def essence(message: str) -> tuple[str, ...]:
    """Return a message's words without paths, addresses, line numbers and stack frames.

    They are sorted: TensorFlow names a signature's outputs in another order in each process.
    """
    for pattern, replacement in _RULES:
        message = pattern.sub(replacement, message)
    return tuple(sorted(re.findall(r"[^\s\[\](){},]+", message)))


def from_graph(message: str) -> bool:
    """Return whether a node of a graph gave an error, as it ran.

    Nodes run at the same time: where several would fail, chance names one of them.
    """
    return _NODE in message
