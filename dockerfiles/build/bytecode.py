"""Compile every Python file of some trees, and see to it that none is left without bytecode.

Bytecode is made with unchecked hashes (PEP 552): Python uses it without looking at the source's
time, so it stays valid in an image whose files all carry the same time. The same sources give the
same bytes.

Usage: python bytecode.py unchecked|sourceless [--root ROOT] TREE…

--root: where the trees lie now below; tracebacks name files without it.
sourceless: the bytecode takes the source's place (x.pyc instead of x.py). Tracebacks then show no
lines of code, and nothing can look up a function's source (AutoGraph does, where models are made).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import py_compile
import sys
from multiprocessing import Pool
from pathlib import Path

UNCHECKED = b"\x01\x00\x00\x00"  # the flags that follow the magic number
# Which equal constants of a module become one depends, rarely, on what the same process compiled
# before: so each process compiles one fixed slice of the files and ends.
SLICE = 256


def compiled(source: Path, mode: str) -> Path:
    """Return where the bytecode of a file goes."""
    if mode == "sourceless":
        return source.with_suffix(".pyc")
    return Path(importlib.util.cache_from_source(str(source)))


def compile_one(source: Path, mode: str, root: str) -> str:
    """Compile a file; return why it cannot be, or nothing."""
    try:
        py_compile.compile(
            str(source),
            cfile=str(compiled(source, mode)),
            dfile=str(source)[len(root) :],
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except (py_compile.PyCompileError, ValueError) as error:
        return str(error).strip().splitlines()[-1]
    return ""


def compile_all(files: list[Path], mode: str, root: str) -> list[str]:
    """Compile files on all processors; return for each what `compile_one` says."""
    slices = [files[start : start + SLICE] for start in range(0, len(files), SLICE)]
    with Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        said = pool.starmap(compile_slice, [(part, mode, root) for part in slices], chunksize=1)
    return [error for errors in said for error in errors]


def compile_slice(files: list[Path], mode: str, root: str) -> list[str]:
    """Compile files one after the other."""
    return [compile_one(path, mode, root) for path in files]


def remove_stale(tree: Path, wanted: set[Path]) -> None:
    """Remove bytecode that no source here stands behind, and folders that are empty then."""
    for folder in sorted(tree.rglob("__pycache__"), reverse=True):
        for file in folder.iterdir():
            if file not in wanted:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def unusable(bytecode: set[Path]) -> list[Path]:
    """Return the files that are missing, or that Python would check or refuse."""
    head = importlib.util.MAGIC_NUMBER + UNCHECKED
    return [path for path in sorted(bytecode) if not path.exists() or not _starts(path, head)]


def _starts(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head


def main() -> None:
    """Compile all trees; say what could not be compiled, fail where bytecode is missing."""
    parser = argparse.ArgumentParser(description="Compile every Python file of some trees.")
    parser.add_argument("mode", choices=("unchecked", "sourceless"))
    parser.add_argument("trees", type=Path, nargs="+")
    parser.add_argument("--root", default="")
    options = parser.parse_args()
    for tree in options.trees:
        if not (tree.is_dir() and str(tree).startswith(options.root)):
            sys.exit(f"bytecode: {tree} is not a folder in {options.root or '/'}")
    files = [source for tree in options.trees for source in sorted(tree.rglob("*.py"))]
    errors = dict(zip(files, compile_all(files, options.mode, options.root), strict=True))
    made = {compiled(source, options.mode) for source in files if not errors[source]}
    for tree in options.trees:
        remove_stale(tree, made)
    for source, error in errors.items():
        if error:
            print(f"bytecode: stays source, is not valid Python: {source}: {error}")
        elif options.mode == "sourceless":
            source.unlink()
    if broken := unusable(made):
        sys.exit("bytecode: missing or not as made: " + " ".join(map(str, broken[:20])))
    size = sum(path.stat().st_size for path in made)
    print(f"bytecode: {len(made)} files, {size / 1e6:.1f} MB, {options.mode}")


if __name__ == "__main__":
    main()
