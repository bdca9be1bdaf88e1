"""Turn a layer's blob into a table of its entries while it passes, whatever its compression.

What a file is worth beyond its header is for the caller to say: a `Look` names the files whose
content is kept, which are shown to a probe, and whether checksums are taken.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import zstandard

from tfslim.images.disk import full_disk_is_told
from tfslim.images.tarstream import Forward, compression_of, safe_path, tar_members, unpacked

__all__ = ["HEAD_BYTES", "Layer", "Limits", "Look", "Member", "read_layer"]

Kind = Literal["file", "dir", "symlink", "hardlink", "whiteout", "opaque", "other"]

HEAD_BYTES = 64
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_KEPT_BYTES = 32 << 20
_ESTIMATE_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a layer.

    Attributes:
        path: Without leading slash; for a whiteout what it removes, for an opaque mark the folder.
        kind: What it is; `hardlink` and `symlink` have a `target`.
        size_bytes: Content of a file; 0 for everything else.
        mode: Permission bits.
        target: Of a hard link the path in the image; of a symbolic link as written.
        head: The first 64 bytes of a file.
        sha256: Digest of a file's content; empty where it was not asked for.
        finding: What the look's probe said of the file.
    """

    path: str
    kind: Kind
    size_bytes: int
    mode: int
    target: str = ""
    head: bytes = b""
    sha256: bytes = b""
    finding: object = None


@dataclass(frozen=True)
class Layer:
    """One layer of an image with the table of its entries, in the order of the tar.

    Attributes:
        digest: Of the blob as stored ("sha256:…").
        compression: "none", "gzip" or "zstd".
        blob_bytes: Size of the blob as stored.
        unpacked_bytes: Size of the tar.
        estimate_bytes: Size under zstd 3 where the blob is not compressed and it was asked for.
        members: Its entries.
        kept: Content of the small files the look asked for, by path.
        created_by: The history's command; empty when there is none.
        key: Name of the blob's file in the archive or layout.
        offset: Where the blob starts in an uncompressed archive; 0 in a layout.
    """

    digest: str
    compression: str
    blob_bytes: int
    unpacked_bytes: int
    estimate_bytes: int | None
    members: tuple[Member, ...]
    kept: dict[str, bytes]
    created_by: str = ""
    key: str = ""
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Limits:
    """What no honest image exceeds; more is refused instead of filling memory or running on."""

    layer_unpacked_bytes: int = 128 * 10**9
    layer_members: int = 4_000_000


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class Look:
    """What to learn of each file while it passes, beyond its header.

    Attributes:
        keep: By path: files whose content is kept (up to 32 MiB each).
        probe_wanted: By path, size and first bytes: files that are spooled to a temporary file,
            one at a time, and given to `probe`.
        probe: Its answer becomes `Member.finding`.
        checksums: Take the SHA-256 of every file.
        estimate: Compress uncompressed layers (zstd 3) to learn what a pull would take.
        scratch: Folder for the one spooled file; the system's temporary folder by default.
        on_bytes: Called with the number of archive bytes as they are read.
    """

    keep: Callable[[str], bool] = _never
    probe_wanted: Callable[[str, int, bytes], bool] = _never
    probe: Callable[[Path], object] | None = None
    checksums: bool = False
    estimate: bool = False
    scratch: Path | None = None
    limits: Limits = field(default_factory=Limits)
    on_bytes: Callable[[int], None] | None = None


def read_layer(digest: str, size: int, blob: Forward, look: Look) -> Layer:
    """Read a layer's blob to its end.

    Args:
        digest: What to call it.
        size: Bytes of the blob.
        blob: Stands at its first byte.
        look: What to learn of each file.

    Raises:
        InputError: It is no tar, is damaged, or goes beyond the limits.
    """
    compression = compression_of(blob.peek(4))
    counter = zstandard.ZstdCompressor(level=_ESTIMATE_LEVEL).compressobj()
    estimate = 0
    measured = compression == "none" and look.estimate
    if measured:

        def count(piece: bytes) -> None:
            nonlocal estimate
            estimate += len(counter.compress(piece))

        blob = blob.section(size, count)
    reader = _LayerReader(unpacked(blob, limit_bytes=look.limits.layer_unpacked_bytes), look)
    members = reader.members()
    return Layer(
        digest=digest,
        compression=compression,
        blob_bytes=size,
        unpacked_bytes=reader.tar.tell(),
        estimate_bytes=estimate + len(counter.flush()) if measured else None,
        members=members,
        kept=reader.kept,
    )


class _LayerReader:
    """One pass over a layer's tar."""

    def __init__(self, tar: Forward, look: Look) -> None:
        self.tar = tar
        self.look = look
        self.kept: dict[str, bytes] = {}

    def members(self) -> tuple[Member, ...]:
        """Read the tar to its end."""
        members = []
        for info, _ in tar_members(self.tar):
            members.append(self._member(info))
            if len(members) > self.look.limits.layer_members:
                raise self.tar.damaged(f"it holds more than {len(members) - 1} entries")
        for _ in self.tar.rest():
            pass
        return tuple(members)

    def _member(self, info: tarfile.TarInfo) -> Member:
        path = safe_path(info.name, self.tar)
        folder, _, base = path.rpartition("/")
        if base == _OPAQUE:
            return Member(folder, "opaque", 0, 0)
        if base.startswith(_WHITEOUT):
            return Member(posixpath.join(folder, base.removeprefix(_WHITEOUT)), "whiteout", 0, 0)
        if info.isreg():
            return self._file(path, info)
        if info.islnk():
            return Member(path, "hardlink", 0, info.mode, safe_path(info.linkname, self.tar))
        if info.issym():
            return Member(path, "symlink", 0, info.mode, info.linkname)
        return Member(path, "dir" if info.isdir() else "other", 0, info.mode)

    def _file(self, path: str, info: tarfile.TarInfo) -> Member:
        """Read a file's content as far as the look asks for it."""
        if info.sparse is not None:  # stored without its holes: what follows is not the content
            return Member(path, "file", info.size, info.mode)
        look, size = self.look, info.size
        head = self.tar.peek(min(size, HEAD_BYTES))
        finding: object = None
        hasher = hashlib.sha256()
        if look.probe and look.probe_wanted(path, size, head):
            finding = self._probed(size, look.probe, hasher.update)
        elif look.keep(path) and size <= _MAX_KEPT_BYTES:
            self.kept[path] = b"".join(self.tar.pieces(size))
            hasher.update(self.kept[path])
        elif look.checksums:
            for piece in self.tar.pieces(size):
                hasher.update(piece)
        sha256 = hasher.digest() if look.checksums else b""
        return Member(path, "file", size, info.mode, head=head, sha256=sha256, finding=finding)

    def _probed(
        self, size: int, probe: Callable[[Path], object], seen: Callable[[bytes], None]
    ) -> object:
        folder = self.look.scratch
        with tempfile.NamedTemporaryFile(prefix="tfslim-", dir=folder) as spool:
            with full_disk_is_told(folder or Path(tempfile.gettempdir())):
                for piece in self.tar.pieces(size):
                    spool.write(piece)
                    seen(piece)
                spool.flush()
            return probe(Path(spool.name))
