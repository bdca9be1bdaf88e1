"""Error messages without what may differ between two runs of the same thing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["essence"]

_RULES: Final = (
    # Stack frames: where a function lies is the install's business, and source may be left out.
    (re.compile(r'^ *File "[^"\n]*", line \d+, in .*\n(?: {4,}\S.*\n)*', re.MULTILINE), ""),
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b0x[0-9a-fA-F]+"), "0x…"),
    (re.compile(r"(?<![\w.])(?:~|\.{1,2})?(?:/[\w.@+=-]+)*/(?=[\w.@+=-])"), "…/"),
    (re.compile(r"\bline \d+"), "line …"),
    # TensorFlow numbers functions as it meets them, and their order in a file is not fixed.
    (re.compile(r"(__(?:inference|forward|backward)_[\w<>./]*?)_\d+\b"), r"\1_…"),
    (re.compile(r"\s+"), " "),
)


def essence(message: str) -> str:
    """Return a message with paths, addresses, line numbers and stack frames taken out."""
    for pattern, replacement in _RULES:
        message = pattern.sub(replacement, message)
    return message.strip()
