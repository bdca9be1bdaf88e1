"""Pack a library's relative relocations (DT_RELR). Pure: says which bytes change, writes none.

A relative relocation says "add where the library lies to these 8 bytes". As R_X86_64_RELATIVE it
takes 24 bytes: place, kind, addend. Packed, the addend stands in the place itself, and one word
says of 63 places which of them follow each other (gABI, "Relative Relocation Table"). The table
lies in the room that the records leave; no address of code or data moves. With it come what glibc
asks for before it loads such a file: three entries of the dynamic table, and the version
GLIBC_ABI_DT_RELR among those needed of libc.so.6, which makes an older glibc say why it refuses.

docs/formats.md ("Packed relative relocations") has the details.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from tfslim.slim.cuts import Run
from tfslim.slim.elf import (
    PF_W,
    PT_DYNAMIC,
    R_X86_64_64,
    R_X86_64_GLOB_DAT,
    R_X86_64_JUMP_SLOT,
    R_X86_64_RELATIVE,
    Elf,
    FormatRefusedError,
    Relocations,
)
from tfslim.slim.exports import Tables
from tfslim.slim.pieces import Piece
from tfslim.slim.symbols import DT, Need, NeededVersion, defined_versions, elf_hash, read_needs

__all__ = ["VERSION", "pack", "refusal", "saving"]

# What a file with packed relocations must need of libc.so.6; glibc has it from 2.36 on.
VERSION: Final = b"GLIBC_ABI_DT_RELR"
_LIBC: Final = b"libc.so."
_WORD: Final = 8
_BITS: Final = 63
_RECORD: Final = 24
_ENTRY: Final = struct.Struct("<qQ")
_NEED: Final = struct.Struct("<HHIII")
_AUX: Final = struct.Struct("<IHHII")
# Bit 15 of a version's index marks a symbol as hidden; glibc masks it.
_MAX_INDEX: Final = 0x7FFF
# Entries that glibc never needs, because other things in the file say the same: the chains of
# version tables end by themselves, a symbol of a 64-bit file has 24 bytes, and each record says of
# itself that it is relative. They make room where a linker left none (lld does not, GNU ld leaves
# four entries). The last is the one that `slim.cold` puts to use; it goes where nothing else does.
_REDUNDANT: Final = tuple(DT[tag] for tag in ("VERNEEDNUM", "VERDEFNUM", "SYMENT", "RELACOUNT"))
# Entries that change, or that say where something lies that does.
_ONCE: Final = frozenset(
    DT[tag]
    for tag in (
        "RELA",
        "RELASZ",
        "RELACOUNT",
        "JMPREL",
        "PLTRELSZ",
        "STRTAB",
        "STRSZ",
        "VERNEED",
        *("VERNEEDNUM", "VERDEFNUM", "SYMENT"),
    )
)
# Places that lie no further apart are written in one piece (bytes).
_NEAR: Final = 4096

_Mask = npt.NDArray[np.bool_]
_Places = npt.NDArray[np.uint64]


def refusal(elf: Elf, hidden: Sequence[Run] = ()) -> str:
    """Return why a library's relative relocations cannot be packed; empty where they can.

    Args:
        elf: The library.
        hidden: Runs of symbols that leave it first: its string table then gets the one name more.
    """
    try:
        packing = _Packing(elf)
        if not hidden:
            packing.tables()
    except FormatRefusedError as error:
        return str(error)
    return ""


def saving(elf: Elf, hidden: Sequence[Run] = ()) -> tuple[int, int]:
    """Return about how many relocations of a library can be packed, and the bytes that saves.

    Args:
        elf: The library.
        hidden: Runs of symbols that leave it: references to them become relative, too.
    """
    old = elf.relocations
    gone = np.zeros(int(old.symbol.max(initial=0)) + 1, np.bool_)
    for first, count in hidden:
        gone[first : first + count] = True
    named = np.isin(old.kind, (R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT))
    places = old.where[_packable(elf, old, (named & gone[old.symbol]))]
    return len(places), max(_RECORD * len(places) - _WORD * len(_encoded(places)), 0)


def pack(elf: Elf) -> Tables:
    """Return what changes in a library when its relative relocations are packed.

    Raises:
        FormatRefusedError: Its tables are of a form that is not known, or have no room.
    """
    return _Packing(elf).tables()


def _packable(elf: Elf, relocations: Relocations, also: _Mask | None = None) -> _Mask:
    """Return which relocations can be packed: aligned, in memory that is written, in the file."""
    relative = relocations.kind == R_X86_64_RELATIVE
    relative &= np.arange(len(relative)) < relocations.plt
    if also is not None:
        relative |= also
    where = relocations.where
    written = np.zeros(len(where), np.bool_)
    for load in elf.loads:
        if load.flags & PF_W and load.filesz >= _WORD:
            start, end = np.uint64(load.vaddr), np.uint64(load.vaddr + load.filesz - _WORD)
            written |= (where >= start) & (where <= end)
    mask: _Mask = relative & written & (where % np.uint64(_WORD) == 0)
    return mask


def _encoded(places: _Places) -> npt.NDArray[np.uint64]:
    """Return the words for places: an address, then bitmaps of the 63 words after the last."""
    at = np.sort(places).tolist()
    words: list[int] = []
    index, count = 0, len(at)
    while index < count:
        words.append(at[index])
        base = at[index] + _WORD
        index += 1
        while True:
            bits = 0
            while index < count and at[index] - base < _BITS * _WORD:
                bits |= 1 << (at[index] - base) // _WORD
                index += 1
            if not bits:
                break
            words.append(bits << 1 | 1)
            base += _BITS * _WORD
    return np.array(words, np.uint64)


@dataclass(frozen=True)
class _Room:
    """Bytes that the relocation tables take up, and what lies there afterwards.

    Attributes:
        start: Address.
        at: File offset.
        size: Bytes.
        plt: Whether the procedure linkage table's relocations lie there, after the others.
    """

    start: int
    at: int
    size: int
    plt: bool


class _Packing:
    """One library's tables as they become.

    Args:
        elf: The library.

    Raises:
        FormatRefusedError: They are of a form that is not known here.
    """

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._old = elf.relocations
        self._pieces: list[Piece] = []
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        self._values: dict[int, int] = {}
        self._check()
        self._room = self._find_room()
        self._needs = read_needs(elf)
        self._libc = self._find_libc()
        self._free = self._find_entries()

    def tables(self) -> Tables:
        """Return all that changes."""
        packed = _packable(self._elf, self._old)
        places = self._old.where[packed]
        content = self._records(packed)
        content += bytes(-len(content) % _WORD)
        words = _encoded(places).astype("<u8").tobytes()
        self._values[DT["RELR"]] = self._room.start + len(content)
        self._values[DT["RELRSZ"]] = len(words)
        self._values[DT["RELRENT"]] = _WORD
        content += words
        content += self._versions(self._room.start + len(content), len(content))
        if len(content) > self._room.size:
            raise FormatRefusedError("packed, its relocations and what they need are not smaller")
        self._pieces.append(Piece(self._room.at, len(content), content))
        rest = self._room.size - len(content)
        self._pieces.append(Piece(self._room.at + len(content), rest, None))
        self._pieces += _addends(self._elf, places, self._old.addend[packed])
        self._pieces += self._dynamic()
        return Tables(tuple(self._pieces), self._places)

    def _check(self) -> None:
        tags = self._elf.dynamic
        if DT["RELR"] in tags:
            raise FormatRefusedError("they are packed already")
        if DT["TEXTREL"] in tags:
            raise FormatRefusedError("its relocations write into code")
        repeated = [tag for tag, _, _ in self._elf.dynamic_entries if tag in _ONCE]
        if len(repeated) != len(set(repeated)):
            raise FormatRefusedError("an entry of its dynamic table stands there twice")
        if np.any(np.diff(np.sort(self._old.where)) < _WORD):
            raise FormatRefusedError("two of its relocations write the same place")

    def _find_room(self) -> _Room:
        """Return where the relocation tables lie; the second one too where it follows the first."""
        tags = self._elf.dynamic
        start, size = tags.get(DT["RELA"], 0), tags.get(DT["RELASZ"], 0)
        second, second_size = tags.get(DT["JMPREL"], 0), tags.get(DT["PLTRELSZ"], 0)
        if second_size and start < second + second_size and second < start + size:
            raise FormatRefusedError("its relocation tables overlap")
        plt = bool(second_size) and second == start + size
        size += second_size if plt else 0
        at = self._elf.to_offset(start)
        load = None if at is None else self._elf.load_of(at)
        if at is None or load is None or at + size > load.file_end or load.flags & PF_W:
            raise FormatRefusedError("its relocation table is not in memory that is only read")
        return _Room(start, at, size, plt)

    def _find_libc(self) -> Need:
        libc = next((need for need in self._needs if need.file.startswith(_LIBC)), None)
        if libc is None:
            raise FormatRefusedError("it does not say which version of glibc it needs")
        return libc

    def _find_entries(self) -> list[int]:
        """Return file offsets of three entries of the dynamic table that can be used."""
        entries = self._elf.dynamic_entries
        table = next(s for s in self._elf.segments if s.type == PT_DYNAMIC)
        first = entries[-1][2] + _ENTRY.size - 8
        if first + _ENTRY.size > table.file_end or not self._elf.is_zero(first, first + 8):
            raise FormatRefusedError("its dynamic table has no end")
        spare = range(first, table.file_end - 2 * _ENTRY.size + 1, _ENTRY.size)
        free = [at for at in spare if self._elf.is_zero(first, at + 2 * _ENTRY.size)]
        for wanted in _REDUNDANT:
            free += [at - 8 for tag, _, at in entries if tag == wanted]
        if len(free) < 3:
            raise FormatRefusedError("its dynamic table has no room for three entries more")
        return free[:3]

    def _records(self, packed: _Mask) -> bytes:
        """Return the records that are left, in their order; the second table follows if it did."""
        old, tags = self._old, self._elf.dynamic
        rows = np.stack(
            [old.where, old.kind | old.symbol.astype(np.uint64) << np.uint64(32), old.addend],
            axis=1,
        )
        first = rows[: old.plt][~packed[: old.plt]].astype("<u8").tobytes()
        second = rows[old.plt :].astype("<u8").tobytes() if self._room.plt else b""
        start, size = self._room.start, tags[DT["RELASZ"]]
        self._values[DT["RELASZ"]] = len(first)
        self._places[start, size] = start, len(first)
        if DT["RELACOUNT"] in tags:
            counted = min(tags[DT["RELACOUNT"]], old.plt)
            self._values[DT["RELACOUNT"]] = int(np.count_nonzero(~packed[:counted]))
        if second:
            self._values[DT["JMPREL"]] = start + len(first)
            self._places[start + size, len(second)] = start + len(first), len(second)
        return first + second

    def _versions(self, address: int, used: int) -> bytes:
        """Return the versions needed, and the strings where those have no room for one more.

        Args:
            address: Where this will lie.
            used: Bytes of the room before it.
        """
        tags, size = self._elf.dynamic, sum(need.size for need in self._needs)
        strings = self._elf.to_offset(tags[DT["STRTAB"]]) or 0
        length = tags[DT["STRSZ"]]
        name = self._elf.data.find(b"\0" + VERSION + b"\0", strings, strings + length)
        offset = name + 1 - strings if name >= 0 else length
        table = _packed_needs(self._with_version(offset))
        old = self._needs[0].at
        if max(need.end for need in self._needs) != old + size:
            raise FormatRefusedError("its table of needed versions is laid out in an unusual way")
        self._values[DT["VERNEED"]] = address
        self._places[self._elf.to_address(old) or 0, size] = address, len(table)
        self._pieces.append(Piece(old, size, None))
        if name >= 0:
            return table
        if used + len(table) + length + len(VERSION) + 1 > self._room.size:
            raise FormatRefusedError("its string table has no room for the name of a version")
        self._values[DT["STRTAB"]] = address + len(table)
        self._values[DT["STRSZ"]] = length + len(VERSION) + 1
        self._pieces.append(Piece(strings, length, None))
        self._places[tags[DT["STRTAB"]], length] = (
            address + len(table),
            length + len(VERSION) + 1,
        )
        return table + self._elf.read(strings, length) + VERSION + b"\0"

    def _with_version(self, offset: int) -> list[Need]:
        """Return the versions needed, with the one for packed relocations."""
        needed = [version.number & _MAX_INDEX for need in self._needs for version in need.versions]
        index = max(1, *needed, *self._defined()) + 1
        if index > _MAX_INDEX:
            raise FormatRefusedError("it has too many versions")
        added = NeededVersion(elf_hash(VERSION), 0, index, offset)
        return [
            need if need is not self._libc else need.with_version(added) for need in self._needs
        ]

    def _defined(self) -> Iterator[int]:
        """Yield the indices of the versions that the file itself defines."""
        for index in defined_versions(self._elf):
            yield index & _MAX_INDEX

    def _dynamic(self) -> Iterator[Piece]:
        """Yield the changed entries of the dynamic table, then those that are new."""
        for tag, _, at in self._elf.dynamic_entries:
            if tag in self._values and at - 8 not in self._free:
                yield Piece(at, 8, self._values[tag].to_bytes(8, "little"))
        for at, name in zip(self._free, ("RELR", "RELRSZ", "RELRENT"), strict=True):
            yield Piece(at, _ENTRY.size, _ENTRY.pack(DT[name], self._values[DT[name]]))


def _addends(elf: Elf, places: _Places, addends: npt.NDArray[np.uint64]) -> Iterator[Piece]:
    """Yield the memory that relocations write, with their addends; what lies near in one piece."""
    at = elf.to_offsets(places)
    order = np.argsort(at, kind="stable")
    at, values = at[order], addends[order]
    apart = (np.flatnonzero(np.diff(at) > _NEAR) + 1).tolist()
    # The dynamic table has changes of its own.
    apart += [int(np.searchsorted(at, s.offset)) for s in elf.segments if s.type == PT_DYNAMIC]
    for low, high in pairwise(sorted({0, *apart, len(at)})):
        start, end = int(at[low]), int(at[high - 1]) + _WORD
        content = np.frombuffer(elf.read(start, end - start), np.uint8).copy()
        index = (at[low:high] - start)[:, None] + np.arange(_WORD)
        content[index] = values[low:high].astype("<u8").view(np.uint8).reshape(-1, _WORD)
        yield Piece(start, end - start, content.tobytes())


def _packed_needs(needs: Sequence[Need]) -> bytes:
    """Return the table of needed versions, each file followed by its versions."""
    table = b""
    for number, need in enumerate(needs):
        last = number == len(needs) - 1
        table += _NEED.pack(1, len(need.versions), need.name, _NEED.size, 0 if last else need.size)
        for place, version in enumerate(need.versions):
            following = 0 if place == len(need.versions) - 1 else _AUX.size
            table += _AUX.pack(version.hash, version.flags, version.number, version.name, following)
    return table
