"""Put the file system a container sees on disk, and tell afterwards what was changed in it.

Contents come straight from the layer where each file's last version lies; nothing is written that
a later layer overwrites. Symbolic links are made last, so no file is ever written through one.
Owners, special files and extended attributes are left out: the tree is to be looked at and edited,
and `relayer` takes all metadata from the layers themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfslim.errors import InputError
from tfslim.images.disk import full_disk_is_told, need_free
from tfslim.images.layer_table import Layer
from tfslim.images.layers import Inode, Merged
from tfslim.images.tarstream import Forward, tar_members, unpacked

__all__ = ["Blobs", "Changes", "Tree", "unpack"]


@dataclass(frozen=True)
class Tree:
    """An unpacked file system and how each of its files was left.

    Attributes:
        root: Its folder.
        merged: What was unpacked.
        stamps: By path, the file's (inode number, change time in ns).
    """

    root: Path
    merged: Merged
    stamps: dict[str, tuple[int, int]]

    def changes(self) -> Changes:
        """Return what is different now: by content, not by time stamps alone."""
        removed: set[str] = set()
        replaced: dict[str, Path] = {}
        for path, placed in self.merged.files.items():
            if placed.member.kind == "other":
                continue
            if not os.path.lexists(self.root / path):
                removed.add(path)
            elif placed.inode and self._changed(path, placed.inode):
                replaced[path] = self.root / path
        return Changes(frozenset(removed), replaced, self._added())

    def _added(self) -> dict[str, Path]:
        """Return the regular files that the image does not have."""
        added: dict[str, Path] = {}
        for folder, _, names in os.walk(self.root):
            inside = Path(folder).relative_to(self.root)
            paths = ((inside / name).as_posix() for name in names)
            new = (path for path in paths if path not in self.merged.files)
            added.update({path: self.root / path for path in new if _is_file(self.root / path)})
        return added

    def _changed(self, path: str, inode: Inode) -> bool:
        status = (self.root / path).lstat()
        if (status.st_ino, status.st_ctime_ns) == self.stamps[path]:
            return False
        if status.st_size != inode.member.size_bytes:
            return True
        with (self.root / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() != inode.member.sha256


@dataclass(frozen=True)
class Changes:
    """What an edit did to a tree, by final path.

    Attributes:
        removed: Paths that are gone.
        replaced: Files with other content, and where that lies.
        added: Files at new paths, and where their content lies.
    """

    removed: frozenset[str]
    replaced: dict[str, Path]
    added: dict[str, Path]

    def __bool__(self) -> bool:
        return bool(self.removed or self.replaced or self.added)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


class Blobs:
    """The layers' blobs as stored, held open: they stay readable if the image is deleted meanwhile.

    Args:
        place: The archive's file (uncompressed), or the folder with the blobs.
        layers: The layers that will be read.

    Raises:
        InputError: A blob is gone already.
    """

    def __init__(self, place: Path, layers: tuple[Layer, ...]) -> None:
        self._place = place
        self._opened = contextlib.ExitStack()
        self._files: dict[str, io.FileIO] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for layer in layers:
                if layer.key not in self._files:
                    self._files[layer.key] = self._opened.enter_context(self._open(layer))
            undo.pop_all()

    def reader(self, layer: Layer) -> Forward:
        """Return a reader of a layer's blob from its first byte."""
        file = self._files[layer.key]
        file.seek(layer.offset)
        whole = Forward(file.read, f"{self._place}: {layer.digest}")
        return whole.section(layer.blob_bytes, lambda _: None)

    def close(self) -> None:
        """Let go of the files."""
        self._opened.close()

    def _open(self, layer: Layer) -> io.FileIO:
        path = self._place / layer.key if self._place.is_dir() else self._place
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(
                f"the layer {layer.digest} cannot be read any more",
                why=str(error),
                way_out="Somebody may have deleted the image in the meantime: build or pull it.",
            ) from None


def unpack(
    blobs: Blobs,
    layers: tuple[Layer, ...],
    merged: Merged,
    root: Path,
    *,
    on_bytes: Callable[[int], None],
) -> Tree:
    """Write the final file system under `root`, which must be empty.

    Raises:
        DiskError: The disk is full, or would be.
        InputError: The image has paths that cannot be written.
    """
    need_free(root, sum(inode.member.size_bytes for inode in merged.live), "unpacking the image")
    wanted: defaultdict[int, dict[int, Inode]] = defaultdict(dict)
    for inode in merged.live:
        layer, index = inode.entries[0]
        wanted[layer][index] = inode
    try:
        with full_disk_is_told(root):
            _make_folders(root, merged)
            for number, inodes in sorted(wanted.items()):
                _write_layer(unpacked(blobs.reader(layers[number])), inodes, root, on_bytes)
            _make_links(root, merged)
    except OSError as error:
        raise InputError(
            "the image cannot be unpacked",
            why=str(error),
            way_out="Its paths may be too long or clash on this file system; try another TMPDIR.",
        ) from None
    stamps = {path: _stamp(root / path) for path, placed in merged.files.items() if placed.inode}
    return Tree(root, merged, stamps)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_ctime_ns


def _make_folders(root: Path, merged: Merged) -> None:
    for path, placed in merged.files.items():
        folder = root / path if placed.member.kind == "dir" else (root / path).parent
        folder.mkdir(parents=True, exist_ok=True)


def _write_layer(
    tar: Forward, inodes: dict[int, Inode], root: Path, on_bytes: Callable[[int], None]
) -> None:
    for index, (info, _) in enumerate(tar_members(tar)):
        inode = inodes.get(index)
        if inode:
            if info.sparse is not None:
                raise tar.damaged("it holds a sparse file, which cannot be edited")
            _write_file(root, inode, tar, on_bytes)
            os.utime(root / inode.paths[0], (info.mtime, info.mtime))


def _write_file(root: Path, inode: Inode, tar: Forward, on_bytes: Callable[[int], None]) -> None:
    first, *others = (root / path for path in inode.paths)
    with first.open("xb") as file:
        for piece in tar.pieces(inode.member.size_bytes):
            file.write(piece)
            on_bytes(len(piece))
    first.chmod(inode.member.mode & 0o777 | 0o600)
    for other in others:
        other.hardlink_to(first)


def _make_links(root: Path, merged: Merged) -> None:
    for path, placed in merged.files.items():
        if placed.member.kind == "symlink":
            (root / path).symlink_to(placed.member.target)
