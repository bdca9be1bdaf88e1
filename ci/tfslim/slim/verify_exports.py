"""Prove that a library links as before, but for names that nobody finds any more. Reads only.

Written against the formats and the plan, not against `exports`: it asks what the loader would find
in the new tables, and compares that with what it found in the old ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from tfslim.slim.cuts import Run
from tfslim.slim.elf import (
    R_X86_64_64,
    R_X86_64_GLOB_DAT,
    R_X86_64_JUMP_SLOT,
    R_X86_64_RELATIVE,
    Elf,
    FormatRefusedError,
    Relocations,
)
from tfslim.slim.symbols import (
    DT,
    SYMBOL,
    GnuHash,
    Symbols,
    gnu_hashes,
    read_gnu_hash,
    read_symbols,
    version_strings,
)

__all__ = ["LinkProof"]

Range = tuple[int, int]
_SymbolKey = tuple[bytes, int, int, int, int, int, int]

_NAMES: Final = tuple(DT[tag] for tag in ("NEEDED", "SONAME", "RPATH", "RUNPATH"))
_SIZES: Final = tuple(DT[tag] for tag in ("RELASZ", "RELACOUNT", "JMPREL", "PLTRELSZ", "STRSZ"))
_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
_PUSH: Final = b"\x68"


class LinkProof:
    """One library before and after symbols left its table.

    Args:
        old: The original.
        new: The same without the symbols.
        hidden: Which symbols were to leave, as runs of indices.

    Raises:
        FormatRefusedError: The tables of one of them cannot be read.
    """

    def __init__(self, old: Elf, new: Elf, hidden: Sequence[Run]) -> None:
        self._before = _Side(old)
        self._after = _Side(new)
        count = len(self._before.symbols.entries)
        self._gone = np.zeros(count, np.bool_)
        for first, length in hidden:
            if first < 1 or length < 1 or first + length > count:
                raise FormatRefusedError("the plan hides a symbol that the file does not have")
            self._gone[first : first + length] = True

    def problems(self) -> Iterator[str]:
        """Yield every problem found, except with relocations (see `relocations`)."""
        yield from self._dynamic()
        yield from self._versions()
        yield from self._hidden()
        yield from self._kept()
        yield from self._found()
        yield from self._order()
        yield from self._stubs()
        yield from self._places()

    def relocations(self) -> tuple[Relocations, Relocations]:
        """Return what the loader must do and what it will do, both in order of address.

        Symbols are those of the new file. A reference to a hidden symbol must have become the
        address that the file's own definition had.
        """
        old = self._before.elf.relocations
        entries = self._before.symbols.entries
        own = self._gone[old.symbol]
        plus = np.where(old.kind == R_X86_64_64, old.addend, np.uint64(0))
        must = replace(
            old,
            kind=np.where(own, np.uint32(R_X86_64_RELATIVE), old.kind),
            symbol=np.where(own, 0, self._number[old.symbol]).astype(np.uint32),
            addend=np.where(own, entries["value"][old.symbol] + plus, old.addend),
        )
        return _by_address(must), _by_address(self._after.elf.relocations)

    def areas(self) -> list[Range]:
        """Return the addresses that the old tables took up; the new ones lie there, and zeros."""
        return self._before.tables

    def tables(self) -> list[Range]:
        """Return the addresses of the new tables."""
        return self._after.tables

    def sections(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Return what section headers must say of the tables: old (address, size) → new."""
        return {
            (start, end - start): (new_start, new_end - new_start)
            for (start, end), (new_start, new_end) in zip(self.areas(), self.tables(), strict=True)
            if end > start
        }

    def fields(self) -> Iterator[Range]:
        """Yield the addresses of everything else that could change: sizes, indices, offsets."""
        elf = self._before.elf
        for tag, _, at in elf.dynamic_entries:
            if tag in (*_NAMES, *_SIZES):
                yield _span(elf, at, 8)
        for at, _ in version_strings(elf):
            yield _span(elf, at, 4)
        for address in self._pushes.values():
            yield address, address + 4

    @cached_property
    def _number(self) -> npt.NDArray[np.int64]:
        """The new index of each symbol; -1 for one that is gone, or should not be."""
        places: defaultdict[_SymbolKey, list[int]] = defaultdict(list)
        for index, key in enumerate(self._after.keys(None)):
            places[key].append(index)
        number = np.full(len(self._gone), -1, np.int64)
        kept = np.flatnonzero(~self._gone)
        for index, key in zip(kept.tolist(), self._before.keys(kept), strict=True):
            if places[key]:
                number[index] = places[key].pop(0)
        return number

    def _dynamic(self) -> Iterator[str]:
        old, new = self._before, self._after
        entries = list(zip(old.elf.dynamic_entries, new.elf.dynamic_entries, strict=False))
        if len(old.elf.dynamic_entries) != len(new.elf.dynamic_entries):
            yield "the dynamic table has another length"
        for (tag, before, _), (new_tag, after, _) in entries:
            if tag != new_tag:
                yield f"tag {tag:#x} of the dynamic table became {new_tag:#x}"
            elif tag in _NAMES:
                if old.symbols.string(before) != new.symbols.string(after):
                    yield f"a name in the dynamic table changed (tag {tag:#x})"
            elif tag not in _SIZES and before != after:
                yield f"tag {tag:#x} of the dynamic table has another value"

    def _versions(self) -> Iterator[str]:
        """The names of versions are the same, at the same addresses."""
        named = [
            [
                (side.elf.to_address(at), side.symbols.string(name))
                for at, name in version_strings(side.elf)
            ]
            for side in (self._before, self._after)
        ]
        if named[0] != named[1]:
            yield "the names of symbol versions changed"

    def _hidden(self) -> Iterator[str]:
        """Only plain symbols of the library itself left, which only plain references reach."""
        entries = self._before.symbols.entries[self._gone]
        defined = (entries["section"] > 0) & (entries["section"] < 0xFF00)
        plain = np.isin(entries["info"], [0x10, 0x11, 0x12, 0x20, 0x21, 0x22])
        if not np.all(defined & plain):
            yield "a symbol left that others may need in another way than by its address"
        old = self._before.elf.relocations
        own = self._gone[old.symbol]
        addressed = np.isin(old.kind, [R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT])
        added = (old.kind != R_X86_64_64) & (old.addend != 0)
        if np.any(own & (~addressed | added)):
            yield "a reference to a symbol that left is more than its address"

    def _kept(self) -> Iterator[str]:
        """All others are there: same name, version, value, size, type, binding, visibility."""
        lost = int(np.count_nonzero((self._number < 0) & ~self._gone))
        if lost:
            yield f"{lost} symbols that were to stay are not there as they were"
        more = len(self._after.symbols.entries) - int(np.count_nonzero(self._number >= 0))
        if more:
            yield f"there are {more} symbols that were not there"

    def _found(self) -> Iterator[str]:
        """Looked up as the loader does it, each name leads to the symbol it led to.

        The same look-up in the original shows that this is how the loader does it.
        """
        kept = np.flatnonzero(~self._gone)
        kept = kept[kept >= self._before.hash.first]
        names = self._before.symbols.names(kept)
        numbers, hashes = self._number[kept].tolist(), gnu_hashes(names).tolist()
        for index, number, name, value in zip(kept.tolist(), numbers, names, hashes, strict=True):
            if index not in self._before.find(name, value):
                yield f"{name.decode(errors='replace')} is not found in the original"
                return
            if number not in self._after.find(name, value):
                yield f"{name.decode(errors='replace')} is not found any more"
                return

    def _order(self) -> Iterator[str]:
        """The relocations are in the tables, and in the order, that the loader expects."""
        old, new = self._before.elf.relocations, self._after.elf.relocations
        count = self._after.elf.dynamic.get(DT["RELACOUNT"], 0)
        if count > new.plt or np.any(new.kind[:count] != R_X86_64_RELATIVE):
            yield "not all of the relocations are relative that are said to be"
        lazy = old.where[old.plt :][~self._gone[old.symbol[old.plt :]]]
        if not np.array_equal(lazy, new.where[new.plt :]):
            yield "the relocations of the procedure linkage table are not the ones that stay"
        if np.any(np.diff(np.sort(old.where)) == 0):
            yield "two relocations write the same place"

    def _stubs(self) -> Iterator[str]:
        """What is called before it is bound tells the loader the index of its relocation."""
        for index, address in self._pushes.items():
            pushed = self._after.read(address, 4)
            if int.from_bytes(pushed, "little") != index:
                yield f"the stub at {address:#x} asks for another function"

    @cached_property
    def _pushes(self) -> dict[int, int]:
        """Where each function's stub holds the index that it pushes (index → address)."""
        new = self._after.elf.relocations
        wheres, kinds = new.where[new.plt :].tolist(), new.kind[new.plt :].tolist()
        return {
            index: self._push(where)
            for index, (where, kind) in enumerate(zip(wheres, kinds, strict=True))
            if kind == R_X86_64_JUMP_SLOT
        }

    def _push(self, slot: int) -> int:
        stub = int.from_bytes(self._before.read(slot, 8), "little")
        code = self._before.read(stub, 5)
        if code[:4] == _ENDBR64:
            stub += 4
            code = self._before.read(stub, 5)
        if code[:1] != _PUSH:
            raise FormatRefusedError(f"the slot at {slot:#x} leads to code that is not known")
        return stub + 1

    def _places(self) -> Iterator[str]:
        """Each table starts where it did and is not longer; those of relocations share a place."""
        *old, first, second = self._before.tables
        *new, new_first, new_second = self._after.tables
        for (start, end), (new_start, new_end) in zip(old, new, strict=True):
            if new_start != start or new_end > end:
                yield f"the table at {start:#x} grew, or lies elsewhere"
        if (new_first[0], new_second[1]) != (first[0], second[1]) or new_first[1] != new_second[0]:
            yield "the relocation tables do not lie where they did, one after the other"


class _Side:
    """One of the two files: its symbols, how they are found, and where its tables lie."""

    def __init__(self, elf: Elf) -> None:
        symbols, table = read_symbols(elf), read_gnu_hash(elf)
        if symbols is None or table is None:
            raise FormatRefusedError("it has no symbols that can be found")
        self.elf = elf
        self.symbols: Symbols = symbols
        self.hash: GnuHash = table
        self._buckets = table.buckets.tolist()
        self._chains = table.chains.tolist()
        self._bloom = table.bloom.tolist()

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the file by their address."""
        at = self.elf.to_offset(address)
        if at is None:
            raise FormatRefusedError(f"nothing of the file lies at {address:#x}")
        return self.elf.data[at : at + size]

    def keys(self, indices: npt.NDArray[np.intp] | None) -> Iterator[_SymbolKey]:
        """Yield all that is said of symbols: of some, or of all."""
        chosen = np.arange(len(self.symbols.entries)) if indices is None else indices
        rows = self.symbols.entries[chosen]
        columns = [rows[name].tolist() for name in ("info", "other", "section", "value", "size")]
        versions = self._versions[chosen].tolist()
        yield from zip(self.symbols.names(chosen), *columns, versions, strict=True)

    @cached_property
    def _versions(self) -> npt.NDArray[np.uint16]:
        count = len(self.symbols.entries)
        if DT["VERSYM"] not in self.elf.dynamic:
            return np.zeros(count, np.uint16)
        return np.frombuffer(self.read(self.elf.dynamic[DT["VERSYM"]], 2 * count), "<u2")

    def find(self, name: bytes, wanted: int) -> list[int]:
        """Return the symbols of a name, whose hash is `wanted`, as glibc's do_lookup_x does."""
        word = self._bloom[wanted // 64 % len(self._bloom)]
        if not word >> wanted % 64 & word >> (wanted >> self.hash.shift) % 64 & 1:
            return []
        index = self._buckets[wanted % len(self._buckets)] if self._buckets else 0
        found: list[int] = []
        while index:
            held = self._chains[index - self.hash.first]
            if held | 1 == wanted | 1 and self._name(index) == name:
                found.append(index)
            index = 0 if held & 1 else index + 1
        return found

    def _name(self, index: int) -> bytes:
        return self.symbols.string(int(self.symbols.entries["name"][index]))

    @cached_property
    def tables(self) -> list[Range]:
        """The addresses of all tables; those of relocations last."""
        tags = self.elf.dynamic
        count = len(self.symbols.entries)
        first = tags.get(DT["RELA"], 0), tags.get(DT["RELASZ"], 0)
        second = tags.get(DT["PLTRELSZ"], 0)
        places = [
            (tags[DT["SYMTAB"]], count * SYMBOL.itemsize),
            (tags[DT["STRTAB"]], len(self.symbols.strings)),
            (tags[DT["GNU_HASH"]], self.hash.size),
            *([(tags[DT["VERSYM"]], 2 * count)] if DT["VERSYM"] in tags else []),
            first,
            (sum(first) if not second else tags[DT["JMPREL"]], second),
        ]
        return [(start, start + size) for start, size in places]


def _span(elf: Elf, at: int, size: int) -> Range:
    """Return the addresses of bytes of a file."""
    address = elf.to_address(at) or 0
    return address, address + size


def _by_address(relocations: Relocations) -> Relocations:
    order = np.argsort(relocations.where, kind="stable")
    return Relocations(
        where=relocations.where[order],
        kind=relocations.kind[order],
        symbol=relocations.symbol[order],
        addend=relocations.addend[order],
        record=relocations.record[order],
        plt=len(order),
    )
