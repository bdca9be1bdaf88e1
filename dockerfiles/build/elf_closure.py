"""Ask the dynamic loader which libraries files are loaded with: it looks, and runs nothing."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["LOADER", "system_libraries"]

LOADER = Path("/lib64/ld-linux-x86-64.so.2")  # fixed by the x86-64 psABI
# Of the ELF header (64 bytes, ELF-64): identification, e_machine, e_phoff, e_phentsize, e_phnum.
HEADER = struct.Struct("<6s12xH12xQ14xHH6x")
MAGIC, X86_64 = b"\x7fELF\x02\x01", 62
PT_DYNAMIC = 2
# The driver's libraries come from the host when the container starts (NVIDIA container toolkit).
FROM_THE_HOST = {"libcuda.so.1", "libnvidia-ml.so.1"}


def system_libraries(trees: Iterable[Path], programs: Iterable[Path]) -> set[str]:
    """Return the libraries outside of some trees that programs and all in the trees need.

    A library that the loader does not find ends the run, unless the host brings it, or it lies in
    one of the trees: then whatever needs it opens it first.
    """
    trees = [tree.resolve() for tree in trees]
    files = [*programs, *(path for tree in trees for path in _elf_files(tree))]
    known = FROM_THE_HOST | {path.name for path in files}
    needed: set[str] = set()
    lacking: list[str] = []
    for path in files:
        found, missing = _loaded_with(path)
        needed |= {library for library in found if not _inside(Path(library), trees)}
        lacking += [f"{name} for {path}" for name in missing - known]
    if lacking:
        sys.exit("assemble-root: libraries are missing:\n  " + "\n  ".join(sorted(lacking)))
    return needed


def _elf_files(tree: Path) -> Iterator[Path]:
    """Yield every program and library for this kind of machine below a folder, if it has needs."""
    for folder, _, names in os.walk(tree):
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink() and _is_dynamic(path):
                yield path


def _is_dynamic(path: Path) -> bool:
    """True for what the loader loads: not object files, nor programs that need no library."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            return False
        _, machine, offset, size, count = HEADER.unpack(head)
        file.seek(offset)
        table = file.read(size * count)
    kinds = {table[at : at + 4] for at in range(0, len(table), size or 1)}
    return machine == X86_64 and PT_DYNAMIC.to_bytes(4, "little") in kinds


def _loaded_with(path: Path) -> tuple[set[str], set[str]]:
    """Return the libraries that the loader finds for a file, and the names it does not find."""
    # Without the mask it may choose libraries for this machine's processor alone.
    done = subprocess.run(
        [str(LOADER), "--glibc-hwcaps-mask", "", str(path)],
        env={"LD_TRACE_LOADED_OBJECTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"assemble-root: the loader cannot read {path}: {done.stderr.strip()}")
    found = re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.MULTILINE)
    missing = re.findall(r"^\t(\S+) => not found", done.stdout, re.MULTILINE)
    return set(found), set(missing)


def _inside(path: Path, trees: Iterable[Path]) -> bool:
    real = path.resolve()
    return any(tree in real.parents for tree in trees)
