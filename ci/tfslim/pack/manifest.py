"""What a packed tree says of itself: pieces and files with their digests, and what is refused.

The pieces, put together and decompressed, are one tar stream (POSIX.1-2001), so that `cat` with
`zstd -d` and `tar -x` does without tfslim. Each piece is a zstd frame of its own: any of them can
be made, checked and unpacked without the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from tfslim.errors import InputError

__all__ = [
    "MANIFEST",
    "MARKER",
    "PIECE_RAW_BYTES",
    "Entry",
    "ImageConfig",
    "Manifest",
    "Marker",
    "Piece",
    "read_manifest",
]

MANIFEST = "manifest.json"
MARKER = ".tfslim/pack.json"
"""Left in an unpacked tree: of which manifest it was made, and how the image wants to be run."""
# The window that `zstd -d` takes without being asked; a window spans a whole piece.
WINDOW_LOG = 27
PIECE_RAW_BYTES = 1 << WINDOW_LOG
PIECE_NAME = re.compile(r"\d{4}[ab]{0,8}-[0-9a-f]{16}\.tar\.zst")
_MANIFEST_BYTES = 256 << 20
_SHA256 = r"^[0-9a-f]{64}$"
_UNPACKED_BYTES = 1 << 40
_SHOWN = 5


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageConfig(_Data):
    """How an image wants to be run, as its own config says.

    Attributes:
        env: Variables.
        argv: What it starts (entrypoint and command).
        workdir: Where.
    """

    env: dict[str, str] = {}
    argv: tuple[str, ...] = ()
    workdir: str = "/"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ImageConfig:
        """Return what the `config` object of an image (OCI, Docker) says."""
        pairs = (pair.split("=", 1) for pair in config.get("Env") or () if "=" in pair)
        return cls(
            env=dict(pairs),
            argv=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
            workdir=config.get("WorkingDir") or "/",
        )


class Piece(_Data):
    """One file of the pack.

    Attributes:
        name: File name; in the order of their names pieces are the stream.
        bytes: Size as stored.
        sha256: Of it as stored.
        at: Where in the stream its content begins.
        raw_bytes: Bytes of the stream that it holds.
        raw_sha256: Of those.
    """

    name: str = Field(pattern=f"^{PIECE_NAME.pattern}$")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=_SHA256)
    at: NonNegativeInt
    raw_bytes: int = Field(gt=0, le=PIECE_RAW_BYTES)
    raw_sha256: str = Field(pattern=_SHA256)


class Entry(_Data):
    """One name in the tree.

    Attributes:
        path: Relative to the tree, with slashes.
        kind: A hard link names an earlier file in `target`.
        mode: Permission bits.
        mtime: Seconds since 1970.
        size: Of a file's content, in bytes.
        sha256: Of a file's content.
        target: Where a link leads.
        at: Where in the stream a file's content begins.
        holes: Offset and length of what is not stored on disk, for files with holes.
    """

    path: str = Field(min_length=1, max_length=4096)
    kind: Literal["dir", "file", "symlink", "hardlink"]
    mode: int = Field(ge=0, le=0o7777)
    mtime: int = 0
    size: NonNegativeInt = 0
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    target: str = Field(default="", max_length=4096)
    at: NonNegativeInt = 0
    holes: tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = ()


class Manifest(_Data):
    """All of a packed tree.

    Attributes:
        schema_version: Raised when a field changes its meaning.
        tfslim: Version that packed it.
        name: What was packed, as the user named it.
        raw_bytes: Length of the whole stream.
        raw_sha256: Of the whole stream.
        level: Of the compression.
        config: How the image wants to be run; None for a plain folder.
        pieces: In their order.
        entries: Every name; a folder before what is in it.
        left_out: What could not be packed (devices, sockets), by path.
    """

    schema_version: Literal[1] = 1
    tfslim: str
    name: str
    raw_bytes: int = Field(gt=0, le=_UNPACKED_BYTES)
    raw_sha256: str = Field(pattern=_SHA256)
    level: int
    config: ImageConfig | None = None
    pieces: tuple[Piece, ...]
    entries: tuple[Entry, ...]
    left_out: dict[str, str] = {}

    @property
    def packed_bytes(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def tree_bytes(self) -> int:
        """Bytes of all files' contents."""
        return sum(entry.size for entry in self.entries)


class Marker(_Data):
    """What an unpacked tree says of where it came from.

    Attributes:
        manifest: SHA-256 of the manifest.
        name: What was packed.
        config: How the image wants to be run.
    """

    manifest: str
    name: str
    config: ImageConfig | None = None


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read a pack's manifest as if anybody had written it.

    Returns:
        What it says, and its SHA-256, which thus names everything else.

    Raises:
        InputError: It is missing, damaged, of a newer version, or names what would leave the
            folder that it is unpacked into.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_BYTES:
            raise InputError(f"{path} is too large to be a manifest")
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no packed tree",
            why=f"There is no {path}. It is written last: packing may not be finished.",
            way_out="Run the same `tfslim pack` again: it goes on with the pieces that are there.",
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{path} is not a manifest that this tfslim reads", why=_first(error)
        ) from None
    problems = [*_stream_problems(manifest), *_path_problems(manifest.entries)]
    if problems:
        more = f"\nand {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"{path} is refused", why="\n".join(problems[:_SHOWN]) + more)
    return manifest, hashlib.sha256(content).hexdigest()


def _first(error: ValidationError) -> str:
    return "\n".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_SHOWN]
    )


def _stream_problems(manifest: Manifest) -> Iterator[str]:
    """Yield where pieces and files are not what one stream can be made of."""
    at = 0
    for piece in manifest.pieces:
        if piece.at != at:
            yield f"{piece.name} begins at byte {piece.at} of the stream, not at {at}"
        at = piece.at + piece.raw_bytes
    if at != manifest.raw_bytes:
        yield f"the pieces hold {at} bytes, the stream has {manifest.raw_bytes}"
    names = [piece.name for piece in manifest.pieces]
    if names != sorted(set(names)):
        yield "the pieces' names are not in the order of the stream"
    for entry in manifest.entries:
        if entry.kind == "file" and entry.at + entry.size > manifest.raw_bytes:
            yield f"{entry.path} lies beyond the stream's end"
        if any(offset + length > entry.size for offset, length in entry.holes):
            yield f"{entry.path} has a hole beyond its end"


def _path_problems(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield names that could lead out of the tree, or through a link: every parent is a folder."""
    kinds: dict[str, str] = {}
    for entry in entries:
        path = PurePosixPath(entry.path)
        if (
            path.is_absolute()
            or ".." in path.parts
            or str(path) != entry.path
            or "\0" in entry.path
        ):
            yield f"{entry.path!r} is no plain path within the tree"
        elif entry.path in kinds:
            yield f"{entry.path!r} is there twice"
        elif len(path.parts) > 1 and kinds.get(str(path.parent)) != "dir":
            yield f"{entry.path!r} lies in something that is no folder of the tree"
        elif path.parts[0] == MARKER.partition("/")[0]:
            yield f"{entry.path!r} is a name that tfslim keeps for itself"
        elif entry.kind == "hardlink" and kinds.get(entry.target) != "file":
            yield f"{entry.path!r} is a hard link to {entry.target!r}, which is no earlier file"
        kinds.setdefault(entry.path, entry.kind)
