"""Runs of bytes that make up a file which is being laid out. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tfslim.slim.elf import FormatRefusedError

__all__ = ["Piece", "overlay", "without"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of the edited file.

    Attributes:
        at: Offset in the edited file, before cuts.
        length: Bytes.
        source: Offset in the original to copy from; or the bytes themselves; None for zeros.
    """

    at: int
    length: int
    source: int | bytes | None

    @property
    def end(self) -> int:
        """Offset just after the piece."""
        return self.at + self.length

    def part(self, start: int, end: int) -> Piece:
        """Return the piece from `start` to `end`."""
        skip = start - self.at
        source = self.source
        if isinstance(source, bytes):
            return Piece(start, end - start, source[skip : end - self.at])
        return Piece(start, end - start, None if source is None else source + skip)


def overlay(under: Sequence[Piece], over: Iterable[Piece]) -> list[Piece]:
    """Return `under` with the pieces of `over` in place of what they cover.

    Raises:
        FormatRefusedError: Two pieces of `over` overlap, or one lies outside.
    """
    result: list[Piece] = []
    limit = under[-1].end if under else 0
    below = iter(under)
    current = next(below, None)
    for piece in sorted((p for p in over if p.length), key=lambda p: p.at):
        while current is not None and current.end <= piece.at:
            result.append(current)
            current = next(below, None)
        if current is None or current.at > piece.at or piece.end > limit:
            raise FormatRefusedError("two changes to a file overlap, or one lies outside it")
        if current.at < piece.at:
            result.append(current.part(current.at, piece.at))
        result.append(piece)
        while current is not None and current.end <= piece.end:
            current = next(below, None)
        if current is not None and current.at < piece.end:
            current = current.part(piece.end, current.end)
    if current is not None:
        result.append(current)
    result.extend(below)
    return result


def without(pieces: Sequence[Piece], holes: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    """Yield pieces (contiguous from 0) without the holes."""
    remaining = iter([*holes, (1 << 63, 1 << 63)])
    start, end = next(remaining)
    for piece in pieces:
        at = piece.at
        while at < piece.end:
            if at >= end:
                start, end = next(remaining)
            elif at >= start:
                at = min(end, piece.end)
            else:
                stop = min(start, piece.end)
                yield piece.part(at, stop)
                at = stop
