"""Pack a tree: pieces made side by side, each written in one step, the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from tfslim import __version__
from tfslim.errors import InputError
from tfslim.images.disk import full_disk_is_told
from tfslim.pack.manifest import (
    MANIFEST,
    PIECE_NAME,
    PIECE_RAW_BYTES,
    WINDOW_LOG,
    Entry,
    ImageConfig,
    Manifest,
    Piece,
)
from tfslim.pack.stream import Stream, plan_stream, read_spans
from tfslim.ui import Ui, human_bytes

__all__ = ["LEVEL", "PIECE_BYTES", "Packed", "pack_tree"]

LEVEL = 12
PIECE_BYTES = 60 * 10**6
_LEAST_PIECE_BYTES = 10**5
_MOST_WORKERS = 8  # each holds a piece, its window and its tables: some 0.5 GB


@dataclass(frozen=True)
class Packed:
    """What came of it.

    Attributes:
        reused: Pieces that were there already, and right.
    """

    manifest: Manifest
    digest: str
    reused: int


@dataclass
class _Writer:
    """Makes pieces in a folder, or finds them there."""

    folder: Path
    limit: int
    level: int
    reused: int = 0

    def pieces(self, number: str, at: int, raw: bytes) -> list[Piece]:
        """Return the piece for a range of the stream; two halves where it would be too large."""
        digest = hashlib.sha256(raw).hexdigest()
        path = self.folder / f"{number}-{digest[:16]}.tar.zst"
        known = self._known(path, raw)
        if known is None and not self._halved(number, raw):
            known = _compressed(raw, self.level)
            if len(known) <= self.limit:
                _write(path, known)
            else:
                known = None
        if known is None:
            half = len(raw) // 2
            first = self.pieces(f"{number}a", at, raw[:half])
            return [*first, *self.pieces(f"{number}b", at + half, raw[half:])]
        stored = hashlib.sha256(known).hexdigest()
        return [
            Piece(
                name=path.name,
                bytes=len(known),
                sha256=stored,
                at=at,
                raw_bytes=len(raw),
                raw_sha256=digest,
            )
        ]

    def _known(self, path: Path, raw: bytes) -> bytes | None:
        """Return a piece that an earlier run wrote, if it holds just this."""
        try:
            stored = path.read_bytes()
            found = _decompressor().decompress(stored, max_output_size=len(raw))
        except (OSError, zstandard.ZstdError):
            return None
        if found != raw or len(stored) > self.limit:
            return None
        self.reused += 1
        return stored

    def _halved(self, number: str, raw: bytes) -> bool:
        """True where an earlier run found that this range takes two pieces."""
        digest = hashlib.sha256(raw[: len(raw) // 2]).hexdigest()
        return (self.folder / f"{number}a-{digest[:16]}.tar.zst").is_file()


@dataclass
class _Digests:
    """Digests of the whole stream and of every file in it, as it goes by."""

    whole: hashlib._Hash = field(default_factory=hashlib.sha256)
    files: dict[int, hashlib._Hash] = field(default_factory=dict)

    def add(self, entry: int | None, chunk: bytes) -> None:
        self.whole.update(chunk)
        if entry is not None:
            self.files.setdefault(entry, hashlib.sha256()).update(chunk)

    def into(self, entries: tuple[Entry, ...]) -> Iterator[Entry]:
        empty = hashlib.sha256().hexdigest()
        for index, entry in enumerate(entries):
            if entry.kind != "file":
                yield entry
                continue
            digest = self.files[index].hexdigest() if index in self.files else empty
            yield entry.model_copy(update={"sha256": digest})


def pack_tree(
    tree: Path,
    folder: Path,
    *,
    name: str,
    piece_bytes: int = PIECE_BYTES,
    level: int = LEVEL,
    config: ImageConfig | None = None,
    ui: Ui,
) -> Packed:
    """Pack a tree into pieces; those that are there already and right are left as they are.

    Args:
        tree: What to pack: a virtual environment or an unpacked image.
        folder: Where the pieces go; made where it is missing.
        name: What the manifest calls it.
        piece_bytes: Largest size of a piece.
        level: Of zstd, 1 to 22.
        config: How the image wants to be run.
        ui: Shows progress.

    Raises:
        InputError: The tree cannot be read, or changes meanwhile; or the folder holds other things.
        DiskError: The disk is full.
    """
    if piece_bytes < _LEAST_PIECE_BYTES:
        raise InputError(f"pieces of {piece_bytes} bytes are too small to be carried in number")
    stream = plan_stream(tree)
    if not stream.entries:
        raise InputError(f"{tree} is empty")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_strangers(folder)
    # Packing again may change pieces: until it is done there is no manifest to believe.
    (folder / MANIFEST).unlink(missing_ok=True)
    writer, digests = _Writer(folder, piece_bytes, level), _Digests()
    with full_disk_is_told(folder):
        pieces = _pieces(stream, writer, digests, ui)
        manifest = Manifest(
            tfslim=__version__,
            name=name,
            raw_bytes=stream.size,
            raw_sha256=digests.whole.hexdigest(),
            level=level,
            config=config,
            pieces=tuple(pieces),
            entries=tuple(digests.into(stream.entries)),
            left_out=stream.left_out,
        )
        text = _text(manifest)
        _forget_old(folder, {piece.name for piece in pieces})
        _write(folder / MANIFEST, text)
    return Packed(manifest, hashlib.sha256(text).hexdigest(), writer.reused)


def _pieces(stream: Stream, writer: _Writer, digests: _Digests, ui: Ui) -> list[Piece]:
    """Read the stream once, in order, and have its pieces made side by side."""
    raw_bytes = min(PIECE_RAW_BYTES, 2 * writer.limit)
    workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    done: list[Piece] = []
    under_way: deque[Future[list[Piece]]] = deque()
    title = f"Packing {human_bytes(stream.size)}"
    with ui.step(title, total=stream.size) as step, ThreadPoolExecutor(workers) as pool:

        def take() -> None:
            made = under_way.popleft().result()
            done.extend(made)
            step.advance(sum(piece.raw_bytes for piece in made))
            step.update(f"{len(done)} pieces, {human_bytes(sum(p.bytes for p in done))}")

        for number, (at, raw) in enumerate(_ranges(stream, raw_bytes, digests)):
            under_way.append(pool.submit(writer.pieces, f"{number:04d}", at, raw))
            if len(under_way) > workers:
                take()
        while under_way:
            take()
    return done


def _ranges(stream: Stream, size: int, digests: _Digests) -> Iterator[tuple[int, bytes]]:
    """Yield the stream in ranges of a size, each with where it begins."""
    at, held = 0, bytearray()
    for span, chunk in read_spans(stream):
        digests.add(span.entry, chunk)
        held += chunk
        while len(held) >= size:
            yield at, bytes(held[:size])
            at += size
            del held[:size]
    if held:
        yield at, bytes(held)


def _compressed(raw: bytes, level: int) -> bytes:
    """Compress one piece: a frame with its own checksum, whose window spans all of it."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(raw),
        window_log=WINDOW_LOG,
        enable_ldm=True,
        write_checksum=True,
        write_content_size=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)


def _text(manifest: Manifest) -> bytes:
    """Return the manifest's document, without the many fields that are as usual."""
    data = manifest.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"schema_version": manifest.schema_version, **data}).encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: another program sees all of it or nothing."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _refuse_strangers(folder: Path) -> None:
    """Refuse a folder that holds anything but a pack: what is old in it will be deleted."""
    for path in folder.iterdir():
        plain = path.name.removeprefix(".").removesuffix(".new")
        if plain != MANIFEST and not PIECE_NAME.fullmatch(plain):
            raise InputError(
                f"{folder} holds something else than a packed tree: {path.name}",
                way_out="Name a folder of its own with --output.",
            )


def _forget_old(folder: Path, wanted: set[str]) -> None:
    """Delete pieces of an earlier content, and what an interrupted run left half-written."""
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
