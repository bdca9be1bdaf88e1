"""A tree as one tar stream whose every byte has a known place before anything is read."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfslim.errors import InputError
from tfslim.pack.manifest import MARKER, Entry

__all__ = ["Span", "Stream", "plan_stream", "read_spans"]

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)
_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class Span:
    """A run of bytes of the stream: literal ones, or a file's content.

    Attributes:
        entry: Index of the file whose content it is; None for literal bytes.
    """

    at: int
    size: int
    literal: bytes = b""
    entry: int | None = None


@dataclass(frozen=True)
class Stream:
    """What is to be packed.

    Attributes:
        root: The tree.
        entries: Every name in it, without digests yet.
        spans: The stream, in order, without gaps.
        size: Its length in bytes.
        left_out: What cannot be packed, by path.
    """

    root: Path
    entries: tuple[Entry, ...]
    spans: tuple[Span, ...]
    size: int
    left_out: dict[str, str]


def plan_stream(root: Path) -> Stream:
    """Lay a tree out as a stream; its files are not read.

    Raises:
        InputError: A name is no UTF-8, or something cannot be looked at.
    """
    entries: list[Entry] = []
    spans: list[Span] = []
    left_out: dict[str, str] = {}
    firsts: dict[tuple[int, int], str] = {}
    at = 0
    for path, status in _walk(root):
        name = path.relative_to(root).as_posix()
        what = _KINDS.get(stat.S_IFMT(status.st_mode))
        if what is not None:
            left_out[name] = what
            continue
        header, entry = _entry(path, name, status, firsts)
        spans.append(Span(at, len(header), header))
        at += len(header)
        if entry.kind == "file" and entry.size:
            entry = entry.model_copy(update={"at": at})
            spans.append(Span(at, entry.size, entry=len(entries)))
            at += entry.size
            if entry.size % _BLOCK:
                padding = b"\0" * (_BLOCK - entry.size % _BLOCK)
                spans.append(Span(at, len(padding), padding))
                at += len(padding)
        entries.append(entry)
    spans.append(Span(at, len(_END), _END))
    return Stream(root, tuple(entries), tuple(spans), at + len(_END), left_out)


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder in a fixed order, a folder before what is in it."""
    try:
        found = sorted(os.scandir(root), key=lambda item: item.name)
        for item in found:
            path = root / item.name
            if item.name == MARKER.partition("/")[0]:
                continue
            status = item.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(path)
    except PermissionError as error:
        raise InputError(
            f"{error.filename} cannot be read", way_out="Pack as the user who owns the tree."
        ) from None


def _entry(
    path: Path, name: str, status: os.stat_result, firsts: dict[tuple[int, int], str]
) -> tuple[bytes, Entry]:
    """Return the tar header and the entry of a name."""
    mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, mtime
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        entry = Entry(path=name, kind="dir", mode=mode, mtime=mtime)
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        entry = Entry(path=name, kind="symlink", mode=mode, mtime=mtime, target=info.linkname)
    elif (first := firsts.setdefault((status.st_dev, status.st_ino), name)) != name:
        info.type, info.linkname = tarfile.LNKTYPE, first
        entry = Entry(path=name, kind="hardlink", mode=mode, mtime=mtime, target=first)
    else:
        info.size = status.st_size
        holes = tuple(_holes(path, status))
        entry = Entry(
            path=name, kind="file", mode=mode, mtime=mtime, size=status.st_size, holes=holes
        )
    try:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"), entry
    except UnicodeEncodeError:
        raise InputError(f"the name {name!r} is no UTF-8 text and cannot be packed") from None


def _holes(path: Path, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """Yield what of a file takes no room on disk (lseek(2), SEEK_HOLE)."""
    if status.st_blocks * 512 >= status.st_size:
        return
    file, at = os.open(path, os.O_RDONLY | os.O_NOFOLLOW), 0
    try:
        while at < status.st_size:
            hole = os.lseek(file, at, os.SEEK_HOLE)
            if hole >= status.st_size:
                return
            try:
                at = os.lseek(file, hole, os.SEEK_DATA)
            except OSError:  # ENXIO: no data up to the end
                at = status.st_size
            yield hole, at - hole
    finally:
        os.close(file)


def read_spans(stream: Stream) -> Iterator[tuple[Span, bytes]]:
    """Yield the stream's bytes in order, in chunks, each with the span that it is of.

    Raises:
        InputError: A file is no longer of the size that it had.
    """
    for span in stream.spans:
        if span.entry is None:
            yield span, span.literal
            continue
        path = stream.root / stream.entries[span.entry].path
        left = span.size
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:  # noqa: PTH123
            while left and (chunk := file.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield span, chunk
            if left or file.read(1):
                raise InputError(f"{path} changed while it was packed", way_out="Pack again.")
