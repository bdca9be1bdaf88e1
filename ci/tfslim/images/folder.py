"""Read a folder the way `archive.py` reads a layer, so that both are measured alike."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tfslim.errors import InputError
from tfslim.images.layer_table import HEAD_BYTES, Layer, Look, Member

__all__ = ["DUPLICATE_MIN_BYTES", "folder_layer"]

DUPLICATE_MIN_BYTES = 4096
_HASH_PIECE_BYTES = 1 << 20
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own


def folder_layer(root: Path, look: Look) -> tuple[Layer, int]:
    """Read a folder as one layer; return it with the bytes of disk blocks behind its files.

    Raises:
        InputError: Something in it cannot be read.
    """
    members: list[Member] = []
    kept: dict[str, bytes] = {}
    first: dict[tuple[int, int], str] = {}
    allocated = 0
    try:
        for path, status in _walk(root, root.stat().st_dev):
            member = _dir_member(root, path, status, first)
            if member.kind == "file":
                allocated += status.st_blocks * _BLOCK_BYTES
                member = _looked_into(root / path, member, look, kept)
                if look.on_bytes:
                    look.on_bytes(status.st_size)
            members.append(member)
        if look.checksums:
            members = _with_checksums(root, members)
    except OSError as error:
        raise InputError(
            f"{root} cannot be read",
            why=str(error),
            way_out="Run as a user who may read all of it, and while nobody changes it.",
        ) from None
    return Layer("", "none", 0, 0, None, tuple(members), kept), allocated


def _walk(root: Path, device: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all paths below a folder, sorted, links not followed, other file systems left out."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat(follow_symlinks=False)
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False) and status.st_dev == device:
                    pending.append(path)
                yield path, status


def _dir_member(
    root: Path, path: str, status: os.stat_result, first: dict[tuple[int, int], str]
) -> Member:
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Member(path, "symlink", 0, mode, str((root / path).readlink()))
    if not stat.S_ISREG(status.st_mode):
        return Member(path, "dir" if stat.S_ISDIR(status.st_mode) else "other", 0, mode)
    known = first.setdefault((status.st_dev, status.st_ino), path)
    if known != path:
        return Member(path, "hardlink", 0, mode, known)
    return Member(path, "file", status.st_size, mode)


def _looked_into(path: Path, member: Member, look: Look, kept: dict[str, bytes]) -> Member:
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
        if look.keep(member.path):
            kept[member.path] = head + file.read()
    finding: object = None
    if look.probe and look.probe_wanted(member.path, member.size_bytes, head):
        finding = look.probe(path)
    return replace(member, head=head, finding=finding)


def _with_checksums(root: Path, members: list[Member]) -> list[Member]:
    """Take checksums where a file of the same size exists: only those can be duplicates."""
    sizes = Counter(member.size_bytes for member in members if member.kind == "file")
    return [
        replace(member, sha256=_sha256(root / member.path))
        if member.size_bytes >= DUPLICATE_MIN_BYTES and sizes[member.size_bytes] > 1
        else member
        for member in members
    ]


def _sha256(path: Path) -> bytes:
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASH_PIECE_BYTES):
            hasher.update(piece)
    return hasher.digest()
