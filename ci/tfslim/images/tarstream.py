"""Tar, gzip and zstd read forward only: from a pipe, a socket or inside another tar.

`Forward` is the one reader: exact reads, a look ahead, skipping, a position. Python's `tarfile`
parses the headers on top of it (ustar, pax, GNU long names), but it never seeks back and never
asks for more than a header's worth, so a length that lies cannot take the memory.
"""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, cast

import zstandard

from tfslim.errors import InputError

__all__ = ["Forward", "compression_of", "from_chunks", "safe_path", "tar_members", "unpacked"]

PIECE_BYTES = 1 << 20
# pax and GNU long-name headers are read whole; real ones hold a path or a few attributes.
_MAX_HEADER_BYTES = 8 << 20
_MAX_DEPTH = 300
_ZSTD_MAX_WINDOW_BYTES = 1 << 27
_GZIP_WBITS = 31
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Forward:
    """Bytes that are read once, in order.

    Args:
        read: Returns up to the given number of bytes, and nothing only at the end.
        name: What is being read, for messages.
        limit_bytes: Most bytes that may be taken; more is refused (an unpacking bomb).
    """

    def __init__(
        self, read: Callable[[int], bytes], name: str, *, limit_bytes: int | None = None
    ) -> None:
        self.name = name
        self.last = b""
        self.recorded: bytearray | None = None
        self._read = read
        self._limit = limit_bytes
        self._buffer = b""
        self._at = 0
        self._base = 0

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        return self._base + self._at

    def peek(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end, and stay in front of them."""
        while len(self._buffer) - self._at < count and self._refill():
            pass
        return self._buffer[self._at : self._at + count]

    def some(self, count: int) -> bytes:
        """Take up to `count` bytes, whatever is at hand; nothing only at the end."""
        if self._at == len(self._buffer) and not self._refill():
            return b""
        data = self._buffer[self._at : self._at + count]
        self._at += len(data)
        return data

    def read(self, count: int = -1) -> bytes:
        """Take `count` bytes of a header, fewer only at the end (what `tarfile` calls)."""
        if not 0 <= count <= _MAX_HEADER_BYTES:
            raise self.damaged(f"a header claims {count} bytes")
        self.last = self.peek(count)
        self._at += len(self.last)
        if self.recorded is not None:
            self.recorded += self.last
        return self.last

    def pieces(self, count: int) -> Iterator[bytes]:
        """Take exactly `count` bytes, in pieces."""
        while count:
            piece = self.some(min(count, PIECE_BYTES))
            if not piece:
                raise self.ended()
            count -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Take what is left, in pieces."""
        while piece := self.some(PIECE_BYTES):
            yield piece

    def seek(self, position: int, whence: int = 0) -> int:
        """Skip forward to a position."""
        skip = position - self.tell()
        if whence or skip < 0:
            raise self.damaged("a header points backwards")
        for _ in self.pieces(skip):
            pass
        return position

    def section(self, count: int, seen: Callable[[bytes], object]) -> Forward:
        """Return a reader of the next `count` bytes; `seen` is called with all that is taken."""
        left = count

        def read(wanted: int) -> bytes:
            nonlocal left
            piece = self.some(min(left, wanted))
            if left and wanted and not piece:
                raise self.ended()
            left -= len(piece)
            seen(piece)
            return piece

        return Forward(read, self.name)

    def damaged(self, why: str) -> InputError:
        """Return the error for bytes that make no sense."""
        return InputError(
            f"{self.name} is damaged or not an image archive",
            why=f"{why} (at byte {self.tell()})",
            way_out="Save it again (docker save IMAGE -o FILE) and check its digest after copying.",
        )

    def ended(self) -> InputError:
        """Return the error for an end where more was promised."""
        return InputError(
            f"{self.name} ends too early",
            why=f"it stops at byte {self.tell()}, in the middle of a file",
            way_out="The copy or download was cut off: make it again, and check the free disk.",
        )

    def _refill(self) -> bool:
        more = self._read(PIECE_BYTES)
        self._base += self._at
        self._buffer = self._buffer[self._at :] + more if self._at < len(self._buffer) else more
        self._at = 0
        if self._limit is not None and self._base + len(self._buffer) > self._limit:
            raise InputError(
                f"{self.name} unpacks to more than {self._limit} bytes",
                why="this is far beyond any real layer: it may be an unpacking bomb",
                way_out="Look at where it comes from before you use it.",
            )
        return bool(more)


def from_chunks(chunks: Iterable[bytes], name: str) -> Forward:
    """Return a reader over chunks of any length, such as an engine's answer."""
    iterator = iter(chunks)
    kept = b""

    def read(count: int) -> bytes:
        nonlocal kept
        while not kept:
            chunk = next(iterator, None)
            if chunk is None:
                return b""
            kept = chunk
        piece, kept = kept[:count], kept[count:]
        return piece

    return Forward(read, name)


def compression_of(head: bytes) -> str:
    """Return "gzip", "zstd" or "none" from a blob's first bytes."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD_MAGIC) else "none"


def unpacked(source: Forward, *, limit_bytes: int | None = None) -> Forward:
    """Return a reader of a blob's content: gzip and zstd are found by their magic."""
    compression = compression_of(source.peek(4))
    if compression == "gzip":
        chunks = from_chunks(_gunzip(source), source.name)
        return Forward(chunks.some, source.name, limit_bytes=limit_bytes)
    if compression == "zstd":
        return Forward(_zstd_read(source), source.name, limit_bytes=limit_bytes)
    return Forward(source.some, source.name, limit_bytes=limit_bytes)


def _zstd_read(source: Forward) -> Callable[[int], bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
    readable = cast("IO[bytes]", _Readable(source))
    stream = decompressor.stream_reader(readable, read_across_frames=True)

    def read(count: int) -> bytes:
        try:
            return stream.read(count)
        except zstandard.ZstdError as error:
            raise source.damaged(f"zstd: {error}") from None

    return read


class _Readable:
    """The `read` that zstandard asks for: up to `count` bytes, whatever is at hand."""

    def __init__(self, source: Forward) -> None:
        self.read = source.some


def _gunzip(source: Forward) -> Iterator[bytes]:
    """Yield the content of one or many gzip members; bounded whatever the ratio."""
    machine = zlib.decompressobj(_GZIP_WBITS)
    try:
        for chunk in source.rest():
            data = chunk
            while data:
                yield machine.decompress(data, PIECE_BYTES)
                data = machine.unconsumed_tail
                if machine.eof:
                    # eStargz and pigz write many members; some tools pad the end with zeros.
                    data = machine.unused_data.lstrip(b"\0")
                    machine = zlib.decompressobj(_GZIP_WBITS)
        yield machine.flush()
    except zlib.error as error:
        raise source.damaged(f"gzip: {error}") from None


def tar_members(source: Forward) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield each header of a tar with the position where its entry ends, padding included.

    The content lies next in `source` until the next step, which skips what is left of it.

    Python's reader takes a broken header after the first for the end of the archive; here it is
    an error, because a table with a silent hole would be wrong.
    """
    try:
        tar = tarfile.TarFile(fileobj=cast("IO[bytes]", source), errorlevel=2)
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            end = tar.offset
            yield info, end
            source.seek(end)
    except (tarfile.TarError, UnicodeError, ValueError) as error:
        raise source.damaged(f"tar: {error}") from None
    if any(source.last):
        raise source.damaged("tar: a header's checksum is wrong")


def safe_path(name: str, source: Forward) -> str:
    """Return a member's path without leading `/` or `./` ("" for the root).

    Raises:
        InputError: The path leads out of the archive.
    """
    path = posixpath.normpath("/" + name).lstrip("/")
    if path.count("/") > _MAX_DEPTH:
        raise source.damaged(f"a path has more than {_MAX_DEPTH} folders")
    if ".." in name.split("/") or "\0" in name:
        raise InputError(
            f"{source.name} holds the path {name!r}, which leads out of the image",
            why="no honest tool writes such a path into a layer",
            way_out="Do not unpack it; look at where it comes from.",
        )
    return path
