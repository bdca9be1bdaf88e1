"""Work out a library's loader tables without symbols that nobody else asks for. Pure: writes none.

A symbol that leaves the table can no longer be found from outside. The library's own references to
it, which the loader looked up by name, become plain addresses relative to where the library lies
(R_X86_64_RELATIVE): what the lookup would have answered. All tables stay where they are and get
shorter; the procedure linkage table's relocations follow the others, which get more. What is left
over becomes zero, which `layout` takes out of the file.

docs/formats.md ("Symbols") says which symbols can leave; whose they may be is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tfslim.slim.cuts import Run
from tfslim.slim.elf import (
    R_X86_64_64,
    R_X86_64_GLOB_DAT,
    R_X86_64_IRELATIVE,
    R_X86_64_JUMP_SLOT,
    R_X86_64_RELATIVE,
    Elf,
    FormatRefusedError,
    Relocations,
)
from tfslim.slim.pieces import Piece
from tfslim.slim.symbols import (
    DT,
    HASH_HEADER,
    SYMBOL,
    GnuHash,
    Symbols,
    gnu_hashes,
    read_gnu_hash,
    read_symbols,
    version_strings,
)

__all__ = ["Tables", "hideable", "rebuild"]

# Data, functions and names without a type; thread-local ones and IFUNCs are addressed otherwise.
_PLAIN_TYPES: Final = (0, 1, 2)
# Global and weak. Unique ones (10) must be one object in the whole process, whoever defines them.
_PLAIN_BINDINGS: Final = (1, 2)
# From here on section numbers are not sections: absolute and common symbols.
_RESERVED_SECTIONS: Final = 0xFF00
_BY_NAME: Final = (R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT)
_IN_PLT: Final = (R_X86_64_JUMP_SLOT, R_X86_64_IRELATIVE)
# Bits of the filter for each name, as lld has it: one miss in about 40 gets past it.
_FILTER_BITS: Final = 12

# Tags whose value is a name. Others with names (filters, auditors) are rare and not known here.
_STRING_TAGS: Final = tuple(DT[tag] for tag in ("NEEDED", "SONAME", "RPATH", "RUNPATH"))
# All tags known here: those above, sizes and places of the tables that are made anew, and those
# that neither hold a name nor depend on a symbol's index. Not among them: the older hash table (4),
# relocations without addends (17 to 19), extended section numbers (34), filters and auditors.
_KNOWN_TAGS: Final = frozenset(
    {*range(1, 38)} - {4, 17, 18, 19, 31, 34}
    | {0x6FFFFEF5, 0x6FFFFEF6, 0x6FFFFEF7, 0x6FFFFFF0, *range(0x6FFFFFF9, 0x70000000)}
)
# The code that an unused slot leads to: it pushes the index of the slot's relocation.
_LAZY_STUB: Final = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\x68(.{4})\xf2?\xe9", re.DOTALL)

_Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.intp]
_Rows = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Tables:
    """A library's new loader tables.

    Attributes:
        pieces: What changes in the file, before cuts, in no order.
        places: (address, bytes) of each table → the same afterwards.
    """

    pieces: tuple[Piece, ...]
    places: dict[tuple[int, int], tuple[int, int]]


def hideable(elf: Elf, symbols: Symbols) -> _Mask:
    """Return which symbols can leave the table, as far as the file's format goes.

    Raises:
        FormatRefusedError: The file's tables are of a form that is not known here.
    """
    _check_tags(elf)
    table = _hash_table(elf)
    entries = symbols.entries
    mask: _Mask = (
        np.isin(entries["info"] & 15, _PLAIN_TYPES)
        & np.isin(entries["info"] >> 4, _PLAIN_BINDINGS)
        & (entries["section"] != 0)
        & (entries["section"] < _RESERVED_SECTIONS)
        & (np.arange(len(entries)) >= table.first)
    )
    relocations = elf.relocations
    plain = np.isin(relocations.kind, _BY_NAME) & (
        (relocations.kind == R_X86_64_64) | (relocations.addend == 0)
    )
    mask[relocations.symbol[~plain]] = False
    return mask


def rebuild(
    elf: Elf, relocations: Relocations, hidden: Sequence[Run], names: Sequence[bytes] = ()
) -> Tables:
    """Return the tables of a library without some of its symbols.

    Args:
        elf: The library.
        relocations: Its relocations, with addends as they shall be.
        hidden: Runs of symbols that leave, as (index of the first, count).
        names: What the string table holds besides, for a later step.

    Raises:
        FormatRefusedError: A symbol cannot leave, or the tables are of an unknown form.
    """
    symbols = read_symbols(elf)
    if symbols is None:
        raise FormatRefusedError("it has no symbols")
    gone = np.zeros(len(symbols.entries), np.bool_)
    for first, count in hidden:
        if first < 0 or count < 1 or first + count > len(gone):
            raise FormatRefusedError("the plan hides a symbol that the file does not have")
        gone[first : first + count] = True
    if np.any(gone & ~hideable(elf, symbols)):
        raise FormatRefusedError("the plan hides a symbol that must stay")
    return _Rebuilt(elf, symbols, gone, relocations).tables(names)


def _check_tags(elf: Elf) -> None:
    unknown = sorted({tag for tag, _, _ in elf.dynamic_entries} - _KNOWN_TAGS)
    if unknown:
        raise FormatRefusedError(
            f"what tag {unknown[0]:#x} of its dynamic table means is not known"
        )


def _hash_table(elf: Elf) -> GnuHash:
    table = read_gnu_hash(elf)
    if table is None or not len(table.buckets):
        raise FormatRefusedError("it has no GNU hash table")
    return table


class _Rebuilt:
    """One library's tables as they become.

    Args:
        elf: The library.
        symbols: Its symbols.
        gone: Which of them leave.
        relocations: Its relocations.
    """

    def __init__(self, elf: Elf, symbols: Symbols, gone: _Mask, relocations: Relocations) -> None:
        self._elf = elf
        self._symbols = symbols
        self._gone = gone
        self._relocations = relocations
        self._hash = _hash_table(elf)
        self._strings = _Strings()
        self._pieces: list[Piece] = []
        self._places: dict[tuple[int, int], tuple[int, int]] = {}

    def tables(self, names: Sequence[bytes]) -> Tables:
        """Return all tables; the one of strings also holds some more."""
        order = self._write_symbols()
        values = self._write_relocations(order)
        self._write_versions(order)
        for name in names:
            self._strings.add(name)
        self._write_dynamic(values)
        return Tables(tuple(self._pieces), self._places)

    def _replace(self, address: int, size: int, content: bytes) -> None:
        """Put a shorter table in the place of one; the rest becomes zero."""
        at = self._elf.to_offset(address)
        if at is None or len(content) > size:
            raise FormatRefusedError("a table without the symbols would not be shorter")
        self._pieces.append(Piece(at, len(content), content))
        self._pieces.append(Piece(at + len(content), size - len(content), None))
        self._places[address, size] = address, len(content)

    def _set(self, at: int, value: int, size: int) -> None:
        self._pieces.append(Piece(at, size, value.to_bytes(size, "little")))

    def _write_symbols(self) -> _Indices:
        """Write the symbol and the hash table; return the old indices in their new order.

        Symbols that can be found stand last, those of one bucket together.
        """
        kept = np.flatnonzero(~self._gone)
        found = kept[kept >= self._hash.first]
        hashes = gnu_hashes(self._symbols.names(found))
        buckets = np.uint64(min(len(self._hash.buckets), max(len(found) // 4, 1)))
        by_bucket = np.argsort(hashes % buckets, kind="stable")
        order = np.concatenate([kept[kept < self._hash.first], found[by_bucket]])
        table = self._symbols.entries[order]
        table["name"] = [self._strings.add(name) for name in self._symbols.names(order)]
        self._replace(self._at("SYMTAB"), len(self._gone) * SYMBOL.itemsize, table.tobytes())
        first = len(order) - len(found)
        content = _packed_hash(hashes[by_bucket], int(buckets), first, self._hash)
        self._replace(self._at("GNU_HASH"), self._hash.size, content)
        return order

    def _write_versions(self, order: _Indices) -> None:
        """Write the version of each symbol, and where the names of versions lie."""
        if DT["VERSYM"] in self._elf.dynamic:
            start = self._elf.to_offset(self._at("VERSYM"))
            size = 2 * len(self._gone)
            versions = np.frombuffer(self._elf.read(start or 0, size), "<u2")
            self._replace(self._at("VERSYM"), size, versions[order].tobytes())
        for at, string in sorted(set(version_strings(self._elf))):  # versions may share a name
            self._set(at, self._strings.add(self._symbols.string(string)), 4)

    def _write_dynamic(self, values: dict[int, int]) -> None:
        """Write the string table, which is complete by then, and what the dynamic table says."""
        entries = self._elf.dynamic_entries
        for tag, value, at in entries:
            if tag in _STRING_TAGS:
                self._set(at, self._strings.add(self._symbols.string(value)), 8)
            elif tag in values:
                self._set(at, values[tag], 8)
        content = self._strings.content()
        for tag, _, at in entries:
            if tag == DT["STRSZ"]:
                self._set(at, len(content), 8)
        self._replace(self._at("STRTAB"), len(self._symbols.strings), content)

    def _write_relocations(self, order: _Indices) -> dict[int, int]:
        """Write both relocation tables; return new values of the dynamic table by tag."""
        self._check_relocations()
        plain, rows = self._rows(order)
        in_plt = np.arange(len(plain)) >= self._relocations.plt
        relative = np.flatnonzero(plain)
        relative = relative[np.argsort(rows[relative, 0], kind="stable")]
        stubs = np.flatnonzero(~plain & in_plt)
        first = np.concatenate([rows[relative], rows[~plain & ~in_plt]]).tobytes()
        second = rows[stubs].tobytes()
        start, old_size = self._at("RELA"), self._at("RELASZ")
        old_second = self._elf.dynamic.get(DT["PLTRELSZ"], 0)
        at = self._elf.to_offset(start)
        if at is None:
            raise FormatRefusedError("a relocation table lies outside the file")
        self._pieces.append(Piece(at, len(first) + len(second), first + second))
        self._places[start, old_size] = start, len(first)
        if old_second:
            self._places[start + old_size, old_second] = start + len(first), len(second)
        self._renumber(stubs)
        return {
            DT["RELASZ"]: len(first),
            DT["RELACOUNT"]: len(relative),
            DT["JMPREL"]: start + len(first),
            DT["PLTRELSZ"]: len(second),
        }

    def _rows(self, order: _Indices) -> tuple[_Mask, _Rows]:
        """Return which relocations need no name (any more), and the new rows of all of them."""
        old = self._relocations
        number = np.zeros(len(self._gone), np.uint64)
        number[order] = np.arange(len(order), dtype=np.uint64)
        bound = self._gone[old.symbol]
        added = np.where(old.kind == R_X86_64_64, old.addend, np.uint64(0))
        target = self._symbols.entries["value"][old.symbol] + added
        plain = bound | (old.kind == R_X86_64_RELATIVE)
        named = old.kind.astype(np.uint64) | number[old.symbol] << np.uint64(32)
        info = np.where(plain, np.uint64(R_X86_64_RELATIVE), named)
        return plain, np.stack([old.where, info, np.where(bound, target, old.addend)], axis=1)

    def _check_relocations(self) -> None:
        """Refuse tables that do not lie one after the other, or whose order could matter."""
        old = self._relocations
        end = self._at("RELA") + self._at("RELASZ")
        if end != self._elf.dynamic.get(DT["JMPREL"], end):
            raise FormatRefusedError("its relocation tables do not follow each other")
        if not np.all(np.isin(old.kind[old.plt :], _IN_PLT)):
            raise FormatRefusedError("its procedure linkage table has relocations not known here")
        if np.any(np.diff(np.sort(old.where)) < 8):
            raise FormatRefusedError("two of its relocations write the same place")

    def _renumber(self, stubs: _Indices) -> None:
        """Let the stub of each function that is still bound when first called push its new index.

        The slot of such a function holds, in the file, the address of the code that pushes the
        index of the slot's relocation for the loader.
        """
        old = self._relocations
        lazy = old.kind[stubs] == R_X86_64_JUMP_SLOT
        numbered = zip(stubs[lazy].tolist(), np.flatnonzero(lazy).tolist(), strict=True)
        for index, new in numbered:
            at = self._pushed(int(old.where[index]), index - old.plt)
            if index - old.plt != new:
                self._set(at, new, 4)

    def _pushed(self, slot: int, expected: int) -> int:
        """Return the file offset of the index that a slot's stub pushes."""
        at = self._elf.to_offset(slot)
        held = int.from_bytes(self._elf.data[at : at + 8], "little") if at is not None else 0
        stub = self._elf.to_offset(held)
        match = _LAZY_STUB.match(self._elf.data, stub) if stub is not None else None
        if match is None or int.from_bytes(match[1], "little") != expected:
            raise FormatRefusedError("its procedure linkage table is of a form not known here")
        return match.start(1)

    def _at(self, tag: str) -> int:
        """Return a value of the dynamic table that must be there."""
        if DT[tag] not in self._elf.dynamic:
            raise FormatRefusedError(f"its dynamic table has no {tag}")
        return self._elf.dynamic[DT[tag]]


class _Strings:
    """A string table that is being made: each string once."""

    def __init__(self) -> None:
        self._places = {b"": 0}
        self._parts = [b""]
        self._size = 1

    def add(self, string: bytes) -> int:
        """Return the offset of a string."""
        place = self._places.get(string)
        if place is None:
            place = self._places[string] = self._size
            self._parts.append(string)
            self._size += len(string) + 1
        return place

    def content(self) -> bytes:
        """Return the table."""
        return b"\0".join([*self._parts, b""])


def _packed_hash(hashes: npt.NDArray[np.uint64], buckets: int, first: int, old: GnuHash) -> bytes:
    """Return a GNU hash table.

    Args:
        hashes: Of the symbols from `first` on, those of one bucket together.
        buckets: How many buckets.
        first: Index of the first symbol in the table.
        old: The table it stands for; the filter is not larger and shifts as there.
    """
    of = hashes % np.uint64(buckets)
    ends = np.append(of[1:] != of[:-1], True)[: len(of)]
    chains = (hashes & ~np.uint64(1) | ends.astype(np.uint64)).astype("<u4")
    heads = np.zeros(buckets, "<u4")
    used, starts = np.unique(of, return_index=True)
    heads[used.astype(np.intp)] = starts + first
    words = min(len(old.bloom), 1 << (len(hashes) * _FILTER_BITS // 64).bit_length())
    bloom = np.zeros(words, "<u8")
    word = (hashes // np.uint64(64) % np.uint64(words)).astype(np.intp)
    for bits in (hashes, hashes >> np.uint64(old.shift)):
        np.bitwise_or.at(bloom, word, np.uint64(1) << bits % np.uint64(64))
    head = HASH_HEADER.pack(buckets, first, words, old.shift)
    return head + bloom.tobytes() + heads.tobytes() + chains.tobytes()
