"""Rewrite layers so that edited files are really smaller in them: decide per entry, then stream.

A layer without edits is not touched and keeps its digest. In an edited one, every other entry is
copied with its header as it stands; a removed file is left out (or becomes a whiteout where a
lower layer still has it), a replaced one gets the new content under its old header, and contents
that a higher layer overrides are dropped, since the layer is pulled anew anyway. Files at new paths
become one more layer on top.
"""

from __future__ import annotations

import copy
import os
import posixpath
import tarfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfslim.images.layers import Inode, Merged, Placed
from tfslim.images.tarstream import Forward, tar_members
from tfslim.images.unpack import Changes

__all__ = ["Drop", "LayerEdit", "Put", "layer_edits", "rewrite_layer", "write_new_layer"]

_BLOCK_BYTES = 512
_GLOBAL_HEADER = b"g"
_TYPE_OFFSET = 156
_STALE_PAX = ("size", "path", "linkpath")


@dataclass(frozen=True)
class Drop:
    """Leave an entry out; a whiteout takes its place where a lower layer has the path too."""

    whiteout: bool = False


@dataclass(frozen=True)
class Put:
    """Write an entry as a file with other content, or as a hard link to an earlier entry."""

    content: Path | None = None
    link_to: int | None = None


@dataclass
class LayerEdit:
    """What happens to entries of one layer, by their index; all others are copied."""

    actions: dict[int, Drop | Put] = field(default_factory=dict)


def layer_edits(merged: Merged, changes: Changes, root: Path) -> dict[int, LayerEdit]:
    """Return what to do in which layer so that the image becomes the changed tree.

    Args:
        merged: The image's file system.
        changes: What was changed in it, by final path.
        root: The tree, which also holds the content of unchanged hard links.
    """
    edits: defaultdict[int, LayerEdit] = defaultdict(LayerEdit)
    for path in changes.removed:
        placed = merged.files[path]
        if placed.inode is None:
            edits[placed.layer].actions[placed.index] = _drop(merged, path, placed)
    for inode in merged.live:
        if any(path in changes.removed or path in changes.replaced for path in inode.paths):
            _dissolve(inode, merged, changes, root, edits)
    for inode in merged.wasted:
        for layer, index in inode.entries:
            if layer in edits:
                edits[layer].actions.setdefault(index, Drop())
    return dict(edits)


def _drop(merged: Merged, path: str, placed: Placed) -> Drop:
    return Drop(whiteout=merged.lowest[path] < placed.layer)


def _dissolve(
    inode: Inode,
    merged: Merged,
    changes: Changes,
    root: Path,
    edits: dict[int, LayerEdit],
) -> None:
    """Decide for every name of an edited content; names still linked on disk stay linked."""
    for layer, index in inode.entries:
        edits[layer].actions[index] = Drop()
    first: dict[tuple[int, int], int] = {}
    names = sorted(inode.paths, key=lambda path: merged.files[path].index)
    for path in names:
        placed = merged.files[path]
        actions = edits[placed.layer].actions
        if path in changes.removed:
            actions[placed.index] = _drop(merged, path, placed)
            continue
        number = (root / path).lstat().st_ino
        earlier = first.setdefault((placed.layer, number), placed.index)
        if earlier == placed.index:
            actions[placed.index] = Put(content=root / path)
        else:
            actions[placed.index] = Put(link_to=earlier)


def rewrite_layer(source: Forward, edit: LayerEdit, write: Callable[[bytes], None]) -> None:
    """Stream a layer's tar through its edit.

    Args:
        source: The layer's tar, unpacked.
        edit: What to do.
        write: Takes the new tar.

    Raises:
        InputError: The layer is damaged.
    """
    source.recorded = bytearray()
    names: dict[int, str] = {}
    for index, (info, end) in enumerate(tar_members(source)):
        header = bytes(source.recorded)
        source.recorded.clear()
        action = edit.actions.get(index)
        if action is None:
            write(header)
            for piece in source.pieces(end - source.tell()):
                write(piece)
            continue
        if header[_TYPE_OFFSET : _TYPE_OFFSET + 1] == _GLOBAL_HEADER:
            raise source.damaged("an edited file carries a header for all files after it")
        names[index] = info.name
        if isinstance(action, Put):
            _put(info, action, names, write)
        elif action.whiteout:
            write(_whiteout(info))
    write(bytes(2 * _BLOCK_BYTES))


def _put(
    info: tarfile.TarInfo, action: Put, names: dict[int, str], write: Callable[[bytes], None]
) -> None:
    new = copy.copy(info)
    new.pax_headers = {k: v for k, v in info.pax_headers.items() if k not in _STALE_PAX}
    if action.content is None:
        assert action.link_to is not None  # noqa: S101 (one of the two is always set)
        new.type, new.size, new.linkname = tarfile.LNKTYPE, 0, names[action.link_to]
        write(_header(new))
        return
    new.type, new.linkname = tarfile.REGTYPE, ""
    _write_file(new, action.content, write)


def _write_file(info: tarfile.TarInfo, content: Path, write: Callable[[bytes], None]) -> None:
    with content.open("rb", buffering=0) as file:
        info.size = os.fstat(file.fileno()).st_size
        write(_header(info))
        reader = Forward(file.read, str(content))
        for piece in reader.pieces(info.size):
            write(piece)
    write(bytes(-info.size % _BLOCK_BYTES))


def write_new_layer(added: Mapping[str, Path], write: Callable[[bytes], None]) -> None:
    """Write the tar of a layer with files at new paths, which belong to root.

    Args:
        added: Where each file's content lies, by its path in the image.
        write: Takes the tar.
    """
    for path, content in sorted(added.items()):
        status = content.lstat()
        info = tarfile.TarInfo(path)
        info.mode, info.mtime = status.st_mode & 0o777, int(status.st_mtime)
        _write_file(info, content, write)
    write(bytes(2 * _BLOCK_BYTES))


def _whiteout(info: tarfile.TarInfo) -> bytes:
    folder, base = posixpath.split(info.name)
    mark = tarfile.TarInfo(posixpath.join(folder, f".wh.{base}"))
    mark.mtime = info.mtime
    return _header(mark)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
