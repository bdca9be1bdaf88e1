"""The local build cache: one folder per variant, replaced as a whole, bounded in size.

`type=local` caches only ever grow when exported onto themselves (before Buildx 0.35, which has
`reset=true`), so each export goes to a new folder that takes the old one's place when it is
complete. Blobs that two variants share are hard links to one file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfslim.config import CacheConfig
from tfslim.engine.engine import Engine
from tfslim.ui import Ui, human_bytes

__all__ = ["LocalCache"]

_NOTE = "tfslim-image-digest"
_RESERVE = 5 * 10**9  # free bytes that an export must leave


class LocalCache:
    """The folder of caches.

    Args:
        settings: Whether it is wanted, where it is, which mode, how large it may get.
    """

    def __init__(self, settings: CacheConfig) -> None:
        self._settings = settings
        self._dir = settings.dir.resolve()
        self._told = False

    def usable(self, engine: Engine, ui: Ui) -> bool:
        """Return whether to use the cache; the first time it is not, say why."""
        reason = ""
        if not engine.cache_export:
            reason = engine.cache_reason
        elif (free := _free_bytes(self._dir)) < self._settings.max_bytes + _RESERVE:
            reason = (
                f"{human_bytes(free)} free at {self._dir}, and cache.max-bytes is "
                f"{human_bytes(self._settings.max_bytes)}; the engine's own cache still serves"
            )
        if self._settings.local and reason and not self._told:
            self._told = True
            ui.warn(f"no local cache export: {reason}")
        return self._settings.local and not reason

    def sources(self, variant: str) -> list[str]:
        """Return where buildx may import a variant's cache from."""
        folder = self._dir / variant
        return [f"type=local,src={folder}"] if (folder / "index.json").exists() else []

    def holds(self, variant: str, digest: str) -> bool:
        """Return whether the cache was exported for exactly this image."""
        note = self._dir / variant / _NOTE
        return note.exists() and note.read_text(encoding="utf-8") == digest

    @contextmanager
    def export(self, variant: str, digest: str) -> Iterator[str]:
        """Give the address to export to, and keep what was exported if the build succeeds.

        Of several processes one exports at a time; the others wait for their turn.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        turn = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with self._exported(variant, digest) as destination:
                yield destination
        finally:
            os.close(turn)

    @contextmanager
    def _exported(self, variant: str, digest: str) -> Iterator[str]:
        current, new, old = (self._dir / name for name in (variant, ".new", ".old"))
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield (
                f"type=local,dest={new},mode={self._settings.mode},"
                "compression=zstd,oci-mediatypes=true"
            )
            if (new / "index.json").exists():
                (new / _NOTE).write_text(digest, encoding="utf-8")
                if current.exists():
                    current.rename(old)
                new.rename(current)
                self._share_blobs()
                self._drop_oldest(keep=variant)
        finally:
            for folder in (new, old):
                shutil.rmtree(folder, ignore_errors=True)

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


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system that a folder is, or will be, on."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
