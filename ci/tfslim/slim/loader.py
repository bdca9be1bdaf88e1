"""The seam to the dynamic loader of this machine: ask it about a library, run none of its code."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tfslim import proc

__all__ = ["LOADER", "loader_answer", "mapped_libraries"]

LOADER: Final = Path("/lib64/ld-linux-x86-64.so.2")
_SECONDS: Final = 120.0
# What may differ between two answers about the same content: addresses, and where things lie.
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_FOLDER: Final = re.compile(r"/\S*/")
# "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f…)"
_MAPPED: Final = re.compile(r"^\s*(\S+) => (/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)


def mapped_libraries(path: Path) -> dict[str, Path]:
    """Return where the loader finds each library that a file needs, directly or not, by name.

    Libraries that it does not find are missing; all are where this machine has no such loader.
    """
    if not LOADER.exists():
        return {}
    done = _ask(path, {})
    return {name: Path(where) for name, where in _MAPPED.findall(done.stdout)}


def _ask(path: Path, env: dict[str, str]) -> proc.Completed:
    """Let the loader map a library and all that it needs, and say so; then it ends."""
    return proc.run(
        [str(LOADER), str(path.absolute())],
        env={"LD_TRACE_LOADED_OBJECTS": "1", **env},
        timeout=_SECONDS,
    )


def loader_answer(path: Path, library_path: Sequence[Path] = ()) -> str | None:
    """Return what the dynamic loader says of a library when it maps it and resolves everything.

    This is `ldd -r`: the loader maps the file and all it needs, applies every relocation at once
    (RTLD_NOW), names what it cannot resolve, and ends before any code of theirs runs, except
    resolvers of IFUNC symbols. Addresses, folders and the library's own name are left out.

    Args:
        path: The library.
        library_path: Folders in which what it needs may lie.

    Returns:
        None where this machine has no such loader.
    """
    if not LOADER.exists():
        return None
    folders = os.pathsep.join(str(folder) for folder in library_path)
    done = _ask(path, {"LD_WARN": "1", "LD_BIND_NOW": "1", "LD_LIBRARY_PATH": folders})
    said = (done.stdout + done.stderr).replace(str(path.absolute()), "LIBRARY")
    lines = sorted(_FOLDER.sub("", _ADDRESS.sub("ADDRESS", line)) for line in said.splitlines())
    return "\n".join([f"exit {done.returncode}", *lines])
