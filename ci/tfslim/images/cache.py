"""The local build cache: one folder per variant, replaced as a whole, bounded in size.

`type=local` caches only ever grow when exported onto themselves (before Buildx 0.35, which has
`reset=true`), so each export goes to a new folder that takes the old one's place when the build has
succeeded. Blobs that two variants share are hard links to one file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfslim.config import CacheConfig

__all__ = ["Export", "LocalCache"]


@dataclass(frozen=True)
class Export:
    """What to tell buildx: where caches are read from and written to (empty: nowhere)."""

    sources: list[str] = field(default_factory=list)
    destinations: list[str] = field(default_factory=list)


class LocalCache:
    """The folder of caches.

    Args:
        settings: Where it is, which mode, how large it may get.
        enabled: False where the engine cannot export a cache; then nothing is read or written.
    """

    def __init__(self, settings: CacheConfig, *, enabled: bool) -> None:
        self._settings = settings
        self._dir = settings.dir.resolve()
        self._enabled = enabled

    @contextmanager
    def export(self, variant: str) -> Iterator[Export]:
        """Give the addresses for one build, and keep its cache if the build succeeds."""
        if not self._enabled:
            yield Export()
            return
        current, new = self._dir / variant, self._dir / f".{variant}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        sources = [f"type=local,src={current}"] if (current / "index.json").exists() else []
        try:
            yield Export(
                sources,
                [
                    f"type=local,dest={new},mode={self._settings.mode},"
                    "compression=zstd,oci-mediatypes=true"
                ],
            )
            if (new / "index.json").exists():
                old = self._dir / f".{variant}.old"
                shutil.rmtree(old, ignore_errors=True)
                if current.exists():
                    current.rename(old)
                new.rename(current)
                shutil.rmtree(old, ignore_errors=True)
                self._share_blobs()
                self._drop_oldest(keep=variant)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def bytes(self) -> int:
        """Return the disk that all caches take, shared blobs counted once."""
        files = {(s.st_dev, s.st_ino): s.st_size for s in (f.stat() for f in self._blobs())}
        return sum(files.values())

    def _blobs(self) -> list[Path]:
        return sorted(self._dir.glob("*/blobs/sha256/*"))

    def _share_blobs(self) -> None:
        """Make equal blobs of different variants one file; their names are their digests."""
        first: dict[str, Path] = {}
        for blob in self._blobs():
            known = first.setdefault(blob.name, blob)
            if known is not blob and not known.samefile(blob):
                link = blob.with_name(f".{blob.name}")
                os.link(known, link)
                link.replace(blob)

    def _drop_oldest(self, keep: str) -> None:
        """Drop the caches that were written longest ago until the rest fits."""
        variants = sorted(
            (d for d in self._dir.iterdir() if d.is_dir() and not d.name.startswith(".")),
            key=lambda d: (d / "index.json").stat().st_mtime if (d / "index.json").exists() else 0,
        )
        for folder in variants:
            if self.bytes() <= self._settings.max_bytes:
                return
            if folder.name != keep:
                shutil.rmtree(folder)
