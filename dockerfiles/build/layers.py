"""Deal the files of a root out to folders, one for each layer of the image.

Each folder holds full paths from the root and is copied into the image by one COPY. Every time is
set to one moment, so that a layer's digest depends on nothing but names, rights and content: what
did not change is neither pulled nor stored again.

Usage: python layers.py ROOT LAYERS [--plan layers.txt]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

# 1980-01-01, the earliest time that a zip file can hold.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))
REST = "root"


def read_plan(text: str) -> list[tuple[str, str]]:
    """Return (layer, pattern) for each line that is not a comment."""
    lines = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    for line in lines:
        if len(line) != 2 or line[1].startswith("/") or ".." in Path(line[1]).parts:
            sys.exit(f"layers: a line is a layer and a pattern in the root: {' '.join(line)}")
    return [(layer, pattern) for layer, pattern in lines]


def deal(root: Path, layers: Path, plan: list[tuple[str, str]]) -> None:
    """Move everything out of the root, each path to its layer; folders above it are made."""
    for layer, pattern in plan:
        (layers / layer).mkdir(parents=True, exist_ok=True)
        for path in sorted(root.glob(pattern)):
            target = layers / layer / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    root.rename(layers / REST)


def settle(tree: Path) -> int:
    """Set every time below a folder, and return the bytes of its files."""
    total = 0
    for folder, folders, files in os.walk(tree, topdown=False):
        total += sum(Path(folder, name).lstat().st_size for name in files)
        for path in (Path(folder, name) for name in [*folders, *files]):
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    os.utime(tree, (EPOCH, EPOCH))
    return total


def main() -> None:
    """Deal, set the times, and say how large each layer is."""
    parser = argparse.ArgumentParser(description="Deal a root out to layers.")
    parser.add_argument("root", type=Path)
    parser.add_argument("layers", type=Path)
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_name("layers.txt"))
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"layers: {options.root} is not a folder")
    options.layers.mkdir(parents=True, exist_ok=True)
    deal(options.root, options.layers, read_plan(options.plan.read_text(encoding="utf-8")))
    sizes = Counter({layer.name: settle(layer) for layer in sorted(options.layers.iterdir())})
    for name, size in sizes.most_common():
        if size:
            print(f"layers: {size / 1e6:8.1f} MB  {name}")


if __name__ == "__main__":
    main()
