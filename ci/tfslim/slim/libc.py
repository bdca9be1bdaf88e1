"""Which C library a tree runs with, as far as that is known. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from tfslim.slim import loader, relr
from tfslim.slim.tree import TreeFile

__all__ = ["unpacked_because"]

_GLIBC: Final = "libc.so.6"
_MUSL: Final = "ld-musl-*.so.1"


def unpacked_because(tree: Path, files: Sequence[TreeFile]) -> str:
    """Return why a tree's libraries cannot count on packed relocations; empty where they can.

    They can where the glibc that they run with has the version that says so (2.36 and newer): the
    tree's own; or, for a venv, whose Python lies on this machine, this machine's.

    Args:
        tree: The tree.
        files: Its files.
    """
    names = [name for item in files for name in item.names]
    if any(PurePosixPath(name).match(_MUSL) for name in names):
        return "the tree has another C library than glibc"
    own = [tree / name for name in names if PurePosixPath(name).name == _GLIBC]
    found = own or _of_venv(tree)
    if not found:
        return "which C library the tree runs with is not known"
    lacking = [path for path in found if not _packs(path)]
    return f"{lacking[0]} is older than glibc 2.36" if lacking else ""


def _of_venv(tree: Path) -> list[Path]:
    """Return the C library that a venv's Python maps on this machine."""
    python = tree / "bin" / "python"
    if not (tree / "pyvenv.cfg").is_file() or not python.exists():
        return []
    found = loader.mapped_libraries(python.resolve()).get(_GLIBC)
    return [] if found is None else [found]


def _packs(libc: Path) -> bool:
    """True for a library that says it has what packed relocations need."""
    try:
        return b"\0" + relr.VERSION + b"\0" in libc.read_bytes()
    except OSError:
        return False
