"""The files of a tree, in a fixed order: what planning and applying both walk over."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TreeFile", "sha256", "tree_files"]


@dataclass(frozen=True)
class TreeFile:
    """A regular file of a tree: its names (hard links) relative to the tree, and its bytes."""

    names: tuple[str, ...]
    size: int

    def at(self, tree: Path) -> Path:
        """Return where it is."""
        return tree / self.names[0]


def tree_files(tree: Path) -> list[TreeFile]:
    """Return the regular files of a tree in a fixed order; symbolic links are not followed."""
    groups: defaultdict[tuple[int, int, int], list[str]] = defaultdict(list)
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                identity = (status.st_dev, status.st_ino, status.st_size)
                groups[identity].append(path.relative_to(tree).as_posix())
    files = [TreeFile(tuple(sorted(names)), key[2]) for key, names in groups.items()]
    return sorted(files, key=lambda item: item.names)


def sha256(path: Path) -> str:
    """Return the digest of a file's content in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
