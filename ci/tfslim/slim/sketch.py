"""The size of a library that is packed after all else, told before any of it is written.

Relocations are packed in the file that the other cuts make (`apply`): its tables are shorter and
lie elsewhere. Here that file is sketched in memory, as far as its layout depends on it, and laid
out as `apply` will do it. What a page of zeros more or less costs need not be guessed then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import PAGE, SHT_PROGBITS, Elf
from tfslim.slim.layout import Layout, lay_out

__all__ = ["packed_size"]

_CHUNK: Final = 16 << 20

# Bytes of a file, as (start, end) offsets.
_Range = tuple[int, int]


def packed_size(elf: Elf, first: Layout) -> int:
    """Return the bytes of a library whose relative relocations are packed after its other cuts.

    Args:
        elf: The library as it is.
        first: What the other cuts make of it.

    Raises:
        FormatRefusedError: Its relocations cannot be packed.
    """
    number = os.memfd_create("tfslim-sketch")
    try:
        _draw(elf, first, number)
        with Elf(Path(f"/proc/self/fd/{number}")) as sketch:
            return lay_out(sketch, FileCuts(packed=True)).size
    finally:
        os.close(number)


def _draw(elf: Elf, first: Layout, number: int) -> None:
    """Write the file that a layout makes; what no layout depends on stays zero and costs nothing.

    Raises:
        OSError: There is no memory.
    """
    os.ftruncate(number, first.size)
    bulk = _bulk(elf)
    at = 0
    for piece in first.pieces:
        if isinstance(piece.source, bytes):
            _write(number, at, piece.source)
        elif piece.source is not None:
            for start, end in _outside(bulk, piece.source, piece.source + piece.length):
                for low in range(start, end, _CHUNK):
                    content = elf.read(low, min(_CHUNK, end - low))
                    _write(number, at + low - piece.source, content)
        at += piece.length


def _write(number: int, at: int, content: bytes) -> None:
    while content:
        done = os.pwrite(number, content, at)
        at, content = at + done, content[done:]


def _bulk(elf: Elf) -> list[_Range]:
    """Return code and data: no table of the loader, and too long to be padding between two.

    A table of program headers may lie there, where an earlier run put it.
    """
    large = (s for s in elf.sections if s.type == SHT_PROGBITS and s.size > PAGE)
    return sorted((s.offset, s.file_end) for s in large if s != elf.section_of(elf.phoff))


def _outside(bulk: list[_Range], start: int, end: int) -> Iterator[_Range]:
    """Yield what of [start, end) lies in none of the ranges."""
    for low, high in bulk:
        if start < min(low, end):
            yield start, min(low, end)
        start = max(start, high)
    if start < end:
        yield start, end
