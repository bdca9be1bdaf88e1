"""What an image takes on disk, and what its layers take to pull at several zstd levels.

Usage: python levels.py IMAGE… [--level N …]

Each image is packed again by `tfslim repack`, with a window of 128 MB, into an archive that is
thrown away. Prints JSON: bytes on disk are those of `tfslim inspect`; pull bytes are the layers'.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def told(*command: str) -> dict[str, Any]:
    """Run tfslim, and return what it says as JSON."""
    done = subprocess.run(["tfslim", "-q", *command, "--json"], check=True, stdout=subprocess.PIPE)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def measure(image: str, levels: list[int]) -> dict[str, object]:
    """Return an image's sizes, its layers as they are stored first."""
    pull: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = str(Path(folder, "image.tar"))
        for level in levels:
            packed = told("repack", image, "--level", str(level), "--output", archive)
            pull |= {"stored": packed["before_bytes"], f"repack-{level}": packed["after_bytes"]}
    return {
        "image": image,
        "image_id": packed["image_id"],
        "disk_bytes": told("inspect", image)["disk_bytes"],
        "pull_bytes": pull,
    }


def main() -> None:
    """Measure the images named."""
    parser = argparse.ArgumentParser(description="Pull bytes at several zstd levels.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--level", type=int, action="append", metavar="N")
    arguments = parser.parse_args()
    levels = arguments.level or [10, 19]
    print(json.dumps([measure(image, levels) for image in arguments.images], indent=1))


if __name__ == "__main__":
    main()
