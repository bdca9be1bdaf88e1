"""Python modules without bytecode: each start of a process compiles those that it imports again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from tfslim.slim.trace import module_name
from tfslim.slim.tree import TreeFile

__all__ = ["without_bytecode"]

# Where Python looks for modules: its own library, and installed packages.
_SOURCE: Final = re.compile(
    r"(?:.*/)?(?:lib(?:64)?/python3[^/]*|site-packages|dist-packages)/.*\.py"
)


def without_bytecode(files: Iterable[TreeFile], gone: Collection[str]) -> tuple[int, int]:
    """Count the modules that stay: those without bytecode, and all with a source.

    Args:
        files: A tree's files.
        gone: Paths that are deleted or replaced.
    """
    names = {name for item in files for name in item.names}.difference(gone)
    compiled = {module_name(name) for name in names if name.endswith(".pyc")}
    sources = [name for name in names if _SOURCE.fullmatch(name)]
    return sum(name not in compiled for name in sources), len(sources)
