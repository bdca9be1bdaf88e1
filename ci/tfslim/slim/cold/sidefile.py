"""The side file: a library's code, the part that models run as it is, the rest compressed.

    header   9 numbers: magic, code's address and bytes, bytes of the library's file, bytes of a
             chunk, lengths of the two tables, offset of the hot code, bytes of the dictionary
    runs     of cold pages, ascending: address, bytes, bytes of cold code before this run
    chunks   of the cold code, all runs put together: offset and bytes of a zstd frame
    frames   one for each chunk, with checksum; the dictionary is how the hot code begins
    hot      what lies between the runs, put together, from a whole page on

All numbers are unsigned 64-bit little-endian; addresses are the library's own. runtime.c reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import zstandard

from tfslim.slim.elf import PAGE, FormatRefusedError

__all__ = ["PAGE_CHUNK", "Sized", "cold_runs", "read_code", "write"]

_HEADER: Final = struct.Struct("<8s8Q")
_MAGIC: Final = b"TFSCOLD2"
_RUN: Final = struct.Struct("<3Q")
_CHUNK: Final = struct.Struct("<2Q")
# Larger chunks compress better (these a tenth better than a quarter of them), and each first touch
# of one costs more.
_CHUNK_BYTES: Final = 1 << 20
PAGE_CHUNK: Final = PAGE
"""Bytes of a chunk where every touched page is to be seen by itself."""
# From this level on zstd searches a large dictionary well; higher ones take many times as long.
_LEVEL: Final = 12
# Code resembles other code: with 32 MB of hot code for a dictionary chunks are a tenth smaller.
_DICTIONARY_BYTES: Final = 32 << 20
_FAST_LEVEL: Final = 1
_THREADS: Final = 8
# Cold pages between hot ones that are fewer than these are hot, too: a run costs a mapping.
_MIN_RUN: Final = 2 * PAGE

Run = tuple[int, int]


@dataclass(frozen=True)
class Sized:
    """Bytes of a side file: all of it, the code in it as it is, and the code compressed."""

    total: int
    hot: int
    cold: int
    packed: int


def cold_runs(address: int, size: int, hot: Iterable[int]) -> tuple[Run, ...]:
    """Return the runs of pages that stay cold, as (address, bytes).

    Args:
        address: Of the code; a whole page.
        size: Bytes of it; whole pages.
        hot: Addresses of pages that were touched; others are left out of account.
    """
    runs: list[Run] = []
    at, end = address, address + size
    for page in [*sorted({page for page in hot if address <= page < end}), end]:
        if page - at >= _MIN_RUN or (page > at and page == end):
            runs.append((at, page - at))
        at = page + PAGE
    return tuple(runs)


def write(
    place: Path,
    code: bytes,
    address: int,
    runs: Sequence[Run],
    *,
    library_size: int,
    chunk: int = _CHUNK_BYTES,
) -> Sized:
    """Write a side file.

    Args:
        place: The new file.
        code: The library's code, whole pages of it.
        address: Where it belongs.
        runs: Cold pages, from `cold_runs`.
        library_size: Bytes of the library's file, by which the two know each other.
        chunk: Bytes of cold code in a chunk.
    """
    view = memoryview(code)
    cold = b"".join(view[at - address : at - address + size] for at, size in runs)
    hot = [view[start - address : end - address] for start, end in _between(runs, address, code)]
    level = _FAST_LEVEL if chunk == PAGE_CHUNK else _LEVEL
    known = b"" if chunk == PAGE_CHUNK else b"".join(hot)[:_DICTIONARY_BYTES]
    dictionary = _dictionary(known)
    if dictionary:
        dictionary.precompute_compress(level=level)
    with ThreadPoolExecutor(_THREADS) as threads:
        frames = list(
            threads.map(
                lambda at: _packed(cold[at : at + chunk], level, dictionary),
                range(0, len(cold), chunk),
            )
        )
    streams = accumulate((size for _, size in runs), initial=0)
    at = _HEADER.size + _RUN.size * len(runs) + _CHUNK.size * len(frames)
    offsets = list(accumulate(map(len, frames), initial=at))
    hot_at = -(-offsets[-1] // PAGE) * PAGE
    with place.open("wb") as file:
        lengths = (len(runs), len(frames), hot_at, len(known))
        file.write(_HEADER.pack(_MAGIC, address, len(code), library_size, chunk, *lengths))
        file.writelines(_RUN.pack(*run, stream) for run, stream in zip(runs, streams, strict=False))
        file.writelines(
            _CHUNK.pack(offset, len(frame)) for offset, frame in zip(offsets, frames, strict=False)
        )
        file.writelines(frames)
        file.seek(hot_at)
        file.writelines(hot)
        file.truncate(hot_at + sum(map(len, hot)))
        total = file.seek(0, 2)
    return Sized(total, sum(map(len, hot)), len(cold), sum(map(len, frames)))


def read_code(place: Path) -> tuple[int, bytes]:
    """Return the address of the code in a side file, and all of the code.

    Raises:
        FormatRefusedError: It is damaged, or no side file.
    """
    data = place.read_bytes()
    try:
        magic, address, size, _, _, count, chunks, hot_at, known = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise FormatRefusedError("not a side file")
        at = _HEADER.size
        runs = [_RUN.unpack_from(data, at + i * _RUN.size) for i in range(count)]
        at += count * _RUN.size
        places = [_CHUNK.unpack_from(data, at + i * _CHUNK.size) for i in range(chunks)]
        dictionary = _dictionary(data[hot_at : hot_at + known])
        unpack = zstandard.ZstdDecompressor(dict_data=dictionary).decompress
        cold = b"".join(unpack(data[offset : offset + length]) for offset, length in places)
        code = bytearray(size)
        for start, length, stream in runs:
            code[start - address : start - address + length] = cold[stream : stream + length]
        for start, end in _between([run[:2] for run in runs], address, code):
            code[start - address : end - address] = data[hot_at : hot_at + end - start]
            hot_at += end - start
    except (struct.error, zstandard.ZstdError) as error:
        raise FormatRefusedError(f"the side file is damaged: {error}") from error
    if len(code) != size:
        raise FormatRefusedError("the side file is too short")
    return address, bytes(code)


def _between(runs: Sequence[Run], address: int, code: bytes | bytearray) -> list[Run]:
    """Return (start, end) of what lies before, between and after runs, where there is anything."""
    starts = [address, *(at + size for at, size in runs)]
    ends = [*(at for at, _ in runs), address + len(code)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def _dictionary(known: bytes) -> zstandard.ZstdCompressionDict | None:
    return (
        zstandard.ZstdCompressionDict(known, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if known
        else None
    )


def _packed(code: bytes, level: int, dictionary: zstandard.ZstdCompressionDict | None) -> bytes:
    # A compressor for each chunk: they are not made for several threads.
    with_all = zstandard.ZstdCompressor(level=level, write_checksum=True, dict_data=dictionary)
    return with_all.compress(code)
