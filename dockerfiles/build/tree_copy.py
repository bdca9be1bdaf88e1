"""Copy paths from one root file system to another; links stay links, with what they lead to."""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Root", "follow"]

MAX_LINKS = 40  # as the kernel's own limit for a path


def follow(old: str, path: str) -> tuple[str, list[tuple[str, str]]]:
    """Follow every link on the way to a path inside a root.

    Args:
        old: The root, without a slash at its end: "" is the one of this process.
        path: Absolute, as a program in the root would name it.

    Returns:
        The path without links, and the links as (path, target as written).
    """
    done, parts = "", [part for part in path.split("/") if part]
    links: list[tuple[str, str]] = []
    while parts:
        step = f"{done}/{parts.pop(0)}"
        source = Path(f"{old}{step}")
        if source.is_symlink() and len(links) < MAX_LINKS:
            target = str(source.readlink())
            links.append((step, target))
            parts = [*os.path.normpath(Path(f"{done}/") / target).split("/")[1:], *parts]
            done = ""
        elif source.exists():
            done = step
        else:
            sys.exit(f"assemble-root: {path} is not there: {step} is missing")
    return done, links


class Root:
    """The new root; `add` copies from the old one under the same path.

    Args:
        folder: Where the new root is made.
        old: The root that files come from, see `follow`.
    """

    def __init__(self, folder: Path, old: str = "") -> None:
        self.folder = folder
        self.old = old
        self.copied: set[str] = set()

    def add(self, path: str, without: Iterable[str] = ()) -> None:
        """Copy a file, a folder with all in it, or a link with what it leads to.

        Args:
            path: Absolute, as a program would name it.
            without: Patterns of what stays behind of a folder. As in .gitignore, one without a
                slash holds at any depth, others are relative to the folder.
        """
        real, links = follow(self.old, path)
        for link, target in links:
            self.link(link, target)
        source = Path(f"{self.old}{real}")
        if source.is_dir():
            self.make(real)
            for child in sorted(source.iterdir()):
                inner = _below(without, child.name)
                if inner is not None:
                    self.add(f"{real}/{child.name}", inner)
        elif real not in self.copied:
            shutil.copy2(source, self._place(real))
            self.copied.add(real)

    def make(self, path: str, mode: int | None = None) -> None:
        """Make a folder."""
        self._place(path).mkdir(exist_ok=True)
        if mode is not None:
            self._place(path).chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Make a link, unless it is there."""
        if not self._place(path).is_symlink():
            self._place(path).symlink_to(target)

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        self._place(path).write_text(text, encoding="utf-8")

    def _place(self, path: str) -> Path:
        place = Path(f"{self.folder}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


def _below(patterns: Iterable[str], name: str) -> list[str] | None:
    """Return the patterns that hold inside of an entry; None where one is about the entry."""
    inner = []
    for pattern in patterns:
        first, slash, rest = pattern.partition("/")
        matches = fnmatch.fnmatch(name, first)
        if matches and not slash:
            return None
        if not slash:
            inner.append(pattern)
        elif matches:
            inner.append(rest)
    return inner
