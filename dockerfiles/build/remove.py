"""Remove from a virtual environment what a rule file lists, and print what each rule saved.

Usage: python remove.py VENV RULES

A rule that matches nothing is reported, not an error: packages differ between versions. A pattern
that would reach outside of site-packages ends the run before anything is removed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def rules(text: str) -> list[tuple[str, str]]:
    """Return (pattern, reason) for each line that is not a comment."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    for pair in pairs:
        if len(pair) != 2:
            sys.exit(f"remove: a rule needs a pattern and a reason: {pair[0]}")
        if pair[0].startswith("/") or ".." in Path(pair[0]).parts:
            sys.exit(f"remove: a pattern must stay inside site-packages: {pair[0]}")
    return [(pattern, reason) for pattern, reason in pairs]


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(child.lstat().st_size for child in path.rglob("*") if not child.is_dir())


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> None:
    """Apply each rule in turn."""
    venv, rule_file = Path(sys.argv[1]), Path(sys.argv[2])
    (site,) = venv.glob("lib/python3.*/site-packages")
    total = 0
    for pattern, reason in rules(rule_file.read_text(encoding="utf-8")):
        matches = [path for path in site.glob(pattern) if "__pycache__" not in path.parts]
        saved = 0
        for path in matches:
            if path.is_symlink() or path.exists():  # a parent may have gone with an earlier match
                saved += size(path)
                remove(path)
        total += saved
        print(
            f"remove: {saved / 1e6:8.1f} MB  {pattern}  ({reason})"
            if matches
            else f"remove:   no match  {pattern}"
        )
    print(f"remove: {total / 1e6:8.1f} MB in all")


if __name__ == "__main__":
    main()
