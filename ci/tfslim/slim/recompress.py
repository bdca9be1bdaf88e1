"""Store GPU code with zstd that NVIDIA's tools stored with LZ4. Pure: bytes in, bytes out.

The payload of an entry is one LZ4 block, or one zstd frame without a checksum; the header says
which, and how many bytes it becomes (docs/formats.md). NVIDIA ships entries of both kinds side by
side in the libraries of CUDA 12.8 and newer.
"""

from __future__ import annotations

from typing import Final

import lz4.block  # type: ignore[import-untyped]
import zstandard

from tfslim.slim import fatbin
from tfslim.slim.elf import FormatRefusedError
from tfslim.slim.fatbin import Buffer, Entry, EntryHeader, Kind

__all__ = ["expanded", "with_zstd"]

# Beyond this level, time grows much faster than files shrink.
_LEVEL: Final = 12
_KINDS: Final = (Kind.CUBIN, Kind.PTX)  # LTO-IR says LZ4 and is not plain LZ4
# More than any cubin that was seen; nothing larger is expanded.
_LARGEST_BYTES: Final = 256 << 20


def with_zstd(data: Buffer, entry: Entry) -> bytes | None:
    """Return an entry, header and padding included, with its payload stored with zstd.

    None where it is not stored with LZ4, would not be smaller, or cannot be expanded.
    """
    if entry.kind not in _KINDS or not entry.flags & fatbin.FLAG_LZ4:
        return None
    try:
        plain = expanded(data, entry)
    except FormatRefusedError:
        return None
    frame = zstandard.ZstdCompressor(
        level=_LEVEL, write_checksum=False, write_content_size=True
    ).compress(plain)
    padded = frame + bytes(-len(frame) % 8)
    if entry.header + len(padded) >= entry.size:
        return None
    header = EntryHeader.read(data, entry.offset)
    changed = header._replace(
        payload=len(padded),
        packed=len(frame),
        flags=header.flags & ~fatbin.FLAG_LZ4 | fatbin.FLAG_ZSTD,
    )
    rest = data[entry.offset + EntryHeader.size() : entry.offset + entry.header]
    return changed.pack() + rest + padded


def expanded(data: Buffer, entry: Entry) -> bytes:
    """Return an entry's code as the driver gets to see it.

    Raises:
        FormatRefusedError: It does not expand to exactly what its header announces.
    """
    header = EntryHeader.read(data, entry.offset)
    start = entry.offset + entry.header
    if not entry.flags & (fatbin.FLAG_LZ4 | fatbin.FLAG_ZSTD):
        return data[start : entry.end]
    if header.expanded > _LARGEST_BYTES:
        raise FormatRefusedError("an entry announces more than 256 MB")
    stored = data[start : start + header.packed]
    try:
        if entry.flags & fatbin.FLAG_LZ4:
            plain = lz4.block.decompress(stored, uncompressed_size=header.expanded)
        else:
            plain = zstandard.ZstdDecompressor().decompress(
                stored, max_output_size=header.expanded, allow_extra_data=False
            )
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise FormatRefusedError(f"an entry does not expand: {error}") from None
    if len(plain) != header.expanded:
        raise FormatRefusedError("an entry expands to another length than it announces")
    return bytes(plain)
