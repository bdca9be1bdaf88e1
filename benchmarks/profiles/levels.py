"""What an image's layers take to pull at several zstd levels.

Usage: python levels.py IMAGE… [--level N …]

The engine sends the image (`docker save`), each layer is unpacked and packed again. Prints JSON:
bytes on disk are those of `tfslim inspect`; pull bytes are the layers' alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import zstandard

from tfslim.images.tarstream import from_chunks, unpacked


def packed_bytes(archive: tarfile.TarFile, blob: str, level: int) -> int:
    """Return the bytes of a layer at a level."""
    stored = archive.extractfile(blob)
    assert stored is not None
    layer = unpacked(from_chunks(iter(lambda: stored.read(1 << 20), b""), blob))
    packer = zstandard.ZstdCompressor(level=level, threads=-1).compressobj()
    total = sum(len(packer.compress(chunk)) for chunk in layer.rest())
    return total + len(packer.flush())


def layers(archive: tarfile.TarFile) -> list[str]:
    """Return the names of an image's layers in a saved archive, base first."""
    stored = archive.extractfile("manifest.json")
    assert stored is not None
    names: list[str] = json.load(stored)[0]["Layers"]
    return names


def measure(image: str, levels: list[int]) -> dict[str, object]:
    """Return an image's sizes."""
    found = subprocess.run(
        ["tfslim", "-q", "inspect", image, "--json"], check=True, capture_output=True
    )
    facts = json.loads(found.stdout)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "image.tar")
        subprocess.run(["docker", "save", "-o", saved, image], check=True)
        with tarfile.open(saved) as archive:
            pull = {
                f"zstd-{level}": sum(packed_bytes(archive, name, level) for name in layers(archive))
                for level in levels
            }
    return {"image": image, "disk_bytes": facts["disk_bytes"], "pull_bytes": pull}


def main() -> None:
    """Measure the images named."""
    parser = argparse.ArgumentParser(description="Pull bytes at several zstd levels.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--level", type=int, action="append", metavar="N")
    arguments = parser.parse_args()
    levels = arguments.level or [3, 10]
    print(json.dumps([measure(image, levels) for image in arguments.images], indent=1))


if __name__ == "__main__":
    main()
