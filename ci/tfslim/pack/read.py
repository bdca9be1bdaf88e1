"""Unpack a tree: nothing is believed before its digest fits, nothing half-done takes its place.

Everything is written below DEST.partial, which takes DEST's name in one step when every file has
its digest. An interrupted run goes on with the pieces that are not unpacked yet.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard
from pydantic import ValidationError

from tfslim.errors import InputError
from tfslim.images.disk import full_disk_is_told, need_free
from tfslim.pack.manifest import (
    MARKER,
    WINDOW_LOG,
    Entry,
    Manifest,
    Marker,
    Piece,
    read_manifest,
)
from tfslim.ui import Ui, human_bytes

__all__ = ["Unpacked", "read_marker", "unpack_tree"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_JOURNAL = "done"
_TREE = "tree"
_LISTED = 40
_WORKERS = 4
# A packed tree may come from anywhere: what is unpacked gets nobody's rights but the caller's.
_MODE_BITS = 0o1777


@dataclass(frozen=True)
class Unpacked:
    """What came of it.

    Attributes:
        already: It was there, unpacked from this very manifest.
        reused: Pieces that an interrupted run had unpacked.
    """

    manifest: Manifest
    digest: str
    already: bool = False
    reused: int = 0


def read_marker(tree: Path) -> Marker | None:
    """Return what an unpacked tree says of where it came from; None for any other."""
    try:
        return Marker.model_validate_json((tree / MARKER).read_bytes())
    except (OSError, ValidationError):
        return None


def unpack_tree(folder: Path, dest: Path, *, expected: str = "", ui: Ui) -> Unpacked:
    """Put a packed tree back.

    Args:
        folder: The pack.
        dest: New folder for the tree.
        expected: SHA-256 that the manifest must have, as `tfslim pack` printed it; empty: any.
        ui: Shows progress.

    Raises:
        InputError: A piece is missing or damaged (each is named), the manifest is refused, or
            something else is at `dest`.
        DiskError: There is not enough room.
    """
    manifest, digest = read_manifest(folder)
    if expected and digest != expected.removeprefix("sha256:"):
        raise InputError(
            f"{folder} is not the pack that was expected",
            why=f"Its manifest has SHA-256 {digest}, not {expected}.",
        )
    if os.path.lexists(dest):
        return _already(manifest, digest, dest)
    with full_disk_is_told(dest.parent if dest.parent.is_dir() else Path()):
        dest.parent.mkdir(parents=True, exist_ok=True)
        _check_pieces(folder, manifest, ui)
        partial = dest.with_name(f"{dest.name}.partial")
        journal = _Journal.open(partial, digest)
        if not journal.done:
            need_free(dest.parent, manifest.tree_bytes, "the unpacked tree")
        tree = partial / _TREE
        _make_files(tree, manifest)
        _fill(folder, tree, manifest, journal, ui)
        _check_files(tree, manifest, ui)
        _finish(tree, manifest, digest)
        tree.rename(dest)
        shutil.rmtree(partial)
    return Unpacked(manifest, digest, reused=journal.reused)


def _already(manifest: Manifest, digest: str, dest: Path) -> Unpacked:
    marker = read_marker(dest)
    if marker is not None and marker.manifest == digest:
        return Unpacked(manifest, digest, already=True)
    raise InputError(
        f"{dest} exists, and is not this tree",
        way_out="Name a new folder, or delete that one first.",
    )


@dataclass
class _Journal:
    """Which pieces are unpacked: kept in a file, so that an interrupted run goes on."""

    path: Path
    done: set[str]
    reused: int
    lock: threading.Lock

    @classmethod
    def open(cls, partial: Path, digest: str) -> _Journal:
        """Read the journal of an interrupted run; begin anew where it was of another manifest."""
        path = partial / _JOURNAL
        lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
        if not lines or lines[0] != digest:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / _TREE).mkdir(parents=True)
            path.write_text(f"{digest}\n", encoding="ascii")
            lines = [digest]
        return cls(path, set(lines[1:]), len(lines) - 1, threading.Lock())

    def add(self, piece: Piece) -> None:
        with self.lock, self.path.open("a", encoding="ascii") as file:
            file.write(f"{piece.name}\n")


def _check_pieces(folder: Path, manifest: Manifest, ui: Ui) -> None:
    """Compare every piece with its digest before anything is unpacked.

    Raises:
        InputError: Some are missing or damaged; all of them are named.
    """
    with ui.step(f"Checking {len(manifest.pieces)} pieces", total=manifest.packed_bytes) as step:

        def check(piece: Piece) -> str:
            problem = _problem(folder / piece.name, piece)
            step.advance(piece.bytes)
            return problem

        problems = [found for found in _side_by_side(check, manifest.pieces) if found]
    if problems:
        more = f"\nand {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise InputError(
            f"{len(problems)} of {len(manifest.pieces)} pieces of {folder} cannot be used",
            why="\n".join(problems[:_LISTED]) + more,
            way_out="Bring these files again (they come from `tfslim pack`), and repeat this.",
        )


def _problem(path: Path, piece: Piece) -> str:
    try:
        size = path.stat().st_size
        if size != piece.bytes:
            return f"{path.name}: {size} bytes of {piece.bytes}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path.name}: missing"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return "" if found == piece.sha256 else f"{path.name}: damaged (its SHA-256 is {found})"


def _make_files(tree: Path, manifest: Manifest) -> None:
    """Make folders, and files of their size without content; links come last."""
    for entry in manifest.entries:
        path = tree / entry.path
        if entry.kind == "dir":
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
        elif entry.kind == "file" and not path.exists():
            with path.open("xb") as file:
                file.truncate(entry.size)


def _fill(folder: Path, tree: Path, manifest: Manifest, journal: _Journal, ui: Ui) -> None:
    """Write what pieces hold into the files."""
    files = sorted((e for e in manifest.entries if e.kind == "file" and e.size), key=_at)
    left = [piece for piece in manifest.pieces if piece.name not in journal.done]
    total = sum(piece.raw_bytes for piece in left)
    if journal.reused:
        ui.note(f"going on with an interrupted run: {journal.reused} pieces are unpacked")
    with ui.step(f"Unpacking {human_bytes(total)}", total=total) as step:

        def put(piece: Piece) -> None:
            raw = _content(folder / piece.name, piece)
            for entry in _overlapping(files, piece):
                _put(tree / entry.path, entry, piece.at, raw)
            journal.add(piece)
            step.advance(piece.raw_bytes)
            step.update(piece.name)

        for _ in _side_by_side(put, left):
            pass


def _at(entry: Entry) -> int:
    return entry.at


def _content(path: Path, piece: Piece) -> bytes:
    """Decompress a piece, never to more than it says, and compare it with its digest."""
    stored = path.read_bytes()
    try:
        if zstandard.frame_content_size(stored) != piece.raw_bytes:
            raise InputError(f"{path} does not hold what the manifest says")
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        raw = decompressor.decompress(stored, max_output_size=piece.raw_bytes)
    except zstandard.ZstdError as error:
        raise InputError(f"{path} cannot be decompressed", why=str(error)) from None
    if hashlib.sha256(raw).hexdigest() != piece.raw_sha256:
        raise InputError(f"{path} does not hold what the manifest says")
    return raw


def _overlapping(files: Sequence[Entry], piece: Piece) -> Iterator[Entry]:
    """Yield the files of which a piece holds a part."""
    first = max(0, bisect.bisect_right(files, piece.at, key=_at) - 1)
    end = piece.at + piece.raw_bytes
    for entry in files[first:]:
        if entry.at >= end:
            return
        if entry.at + entry.size > piece.at:
            yield entry


def _put(path: Path, entry: Entry, at: int, raw: bytes) -> None:
    """Write a file's share of a piece; what was a hole stays one."""
    view = memoryview(raw)
    begin, end = max(entry.at, at), min(entry.at + entry.size, at + len(raw))
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        for start, stop in _stored(entry, begin - entry.at, end - entry.at):
            done = start
            while done < stop:
                done += os.pwrite(file, view[done + entry.at - at : stop + entry.at - at], done)
    finally:
        os.close(file)


def _stored(entry: Entry, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a range of a file that are not in its holes."""
    for offset, length in sorted(entry.holes):
        if offset >= end:
            break
        if offset > begin:
            yield begin, offset
        begin = max(begin, offset + length)
    if begin < end:
        yield begin, end


def _check_files(tree: Path, manifest: Manifest, ui: Ui) -> None:
    """Read every file again and compare it with its digest.

    Raises:
        InputError: One differs: the disk, or the manifest, is at fault.
    """
    files = [entry for entry in manifest.entries if entry.kind == "file"]
    with ui.step(f"Checking {len(files)} files", total=manifest.tree_bytes) as step:

        def check(entry: Entry) -> str:
            with (tree / entry.path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            step.advance(entry.size)
            return "" if found == entry.sha256 else entry.path

        wrong = [path for path in _side_by_side(check, files) if path]
    if wrong:
        shutil.rmtree(tree.parent)
        raise InputError(
            f"{len(wrong)} unpacked files do not have their digests",
            why="\n".join(wrong[:_LISTED]),
            way_out="Everything unpacked was deleted; pack the tree again, or check the disk.",
        )


def _finish(tree: Path, manifest: Manifest, digest: str) -> None:
    """Make links, then set rights and times, folders last and from the inside out."""
    for entry in manifest.entries:
        path = tree / entry.path
        if entry.kind == "symlink" and not os.path.lexists(path):
            path.symlink_to(entry.target)
        elif entry.kind == "hardlink" and not path.exists():
            path.hardlink_to(tree / entry.target)
    for entry in reversed(manifest.entries):
        path = tree / entry.path
        if entry.kind in ("file", "dir"):
            path.chmod(entry.mode & _MODE_BITS)
        os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
    marker = Marker(manifest=digest, name=manifest.name, config=manifest.config)
    place = tree / MARKER
    place.parent.mkdir(exist_ok=True)
    place.write_text(marker.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _side_by_side(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield what `work` makes of each item, in order; a few at the same time."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        yield from pool.map(work, items)
