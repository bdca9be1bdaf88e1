"""Prove that a library with packed relative relocations is loaded as before. Reads only.

Written against the formats, not against `relr`: it asks what the loader would write where, and what
it would find of names and versions, in the old file and in the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from tfslim.slim.elf import (
    PF_W,
    PT_DYNAMIC,
    R_X86_64_RELATIVE,
    Elf,
    FormatRefusedError,
    Relocations,
)
from tfslim.slim.symbols import DT, defined_versions, elf_hash, read_needs

__all__ = ["RelrProof"]

Range = tuple[int, int]

_ADDED: Final = Counter(DT[tag] for tag in ("RELR", "RELRSZ", "RELRENT"))
# What glibc never needs, and may leave.
_REDUNDANT: Final = {DT[tag] for tag in ("VERNEEDNUM", "VERDEFNUM", "SYMENT", "RELACOUNT")}
_CHANGING: Final = {
    DT[tag] for tag in ("RELASZ", "RELACOUNT", "JMPREL", "VERNEED", "STRTAB", "STRSZ")
}
_VERSION: Final = b"GLIBC_ABI_DT_RELR"
_WORD: Final = 8


class RelrProof:
    """One library before and after its relative relocations were packed.

    Args:
        old: Before.
        new: After.

    Raises:
        FormatRefusedError: The tables of one of them cannot be read.
    """

    def __init__(self, old: Elf, new: Elf) -> None:
        self._old, self._new = old, new
        self._where, self._addends = new.packed

    def problems(self) -> Iterator[str]:
        """Yield every problem found, except with relocations (see `relocations`)."""
        yield from self._packed()
        yield from self._order()
        yield from self._dynamic()
        yield from self._versions()
        yield from self._strings()

    def relocations(self) -> tuple[Relocations, Relocations]:
        """Return all that the loader writes before and after, both in order of address."""
        new = self._new.relocations
        count = len(self._where)
        both = Relocations(
            where=np.concatenate([new.where, self._where]),
            kind=np.concatenate([new.kind, np.full(count, R_X86_64_RELATIVE, np.uint32)]),
            symbol=np.concatenate([new.symbol, np.zeros(count, np.uint32)]),
            addend=np.concatenate([new.addend, self._addends]),
            record=np.concatenate([new.record, np.zeros(count, np.uint64)]),
            plt=len(new.where) + count,
        )
        return _by_address(self._old.relocations), _by_address(both)

    def areas(self) -> list[Range]:
        """Return the addresses of the old tables: what is new of them lies there, and zeros."""
        tags = self._old.dynamic
        found = [_table(tags, "RELA", "RELASZ"), _table(tags, "JMPREL", "PLTRELSZ")]
        found.append(_needs(self._old))
        if tags[DT["STRTAB"]] != self._new.dynamic[DT["STRTAB"]]:
            found.append(_table(tags, "STRTAB", "STRSZ"))
        return [(start, end) for start, end in found if end > start]

    def tables(self) -> list[Range]:
        """Return the addresses of the new tables."""
        tags = self._new.dynamic
        names = [("RELA", "RELASZ"), ("JMPREL", "PLTRELSZ"), ("RELR", "RELRSZ")]
        names.append(("STRTAB", "STRSZ"))
        return [*(_table(tags, *pair) for pair in names), _needs(self._new)]

    def sections(self) -> dict[Range, Range]:
        """Return what section headers must say of the tables: old (address, size) → new."""
        pairs = [
            *(
                (_table(self._old.dynamic, *names), _table(self._new.dynamic, *names))
                for names in (("RELA", "RELASZ"), ("JMPREL", "PLTRELSZ"), ("STRTAB", "STRSZ"))
            ),
            (_needs(self._old), _needs(self._new)),
        ]
        return {
            (start, end - start): (new_start, new_end - new_start)
            for (start, end), (new_start, new_end) in pairs
            if end > start
        }

    def fields(self) -> Iterator[Range]:
        """Yield the addresses of what else may change: packed places, the dynamic table."""
        breaks = np.flatnonzero(np.diff(self._where) != _WORD) + 1
        starts = np.concatenate([self._where[:1], self._where[breaks]])
        ends = np.concatenate([self._where[breaks - 1], self._where[-1:]]) + np.uint64(_WORD)
        yield from zip(starts.tolist(), ends.tolist(), strict=True)
        yield from self._dynamic_table()

    def _dynamic_table(self) -> Iterator[Range]:
        for segment in self._old.segments:
            if segment.type == PT_DYNAMIC:
                yield segment.vaddr, segment.vaddr + segment.filesz

    def _packed(self) -> Iterator[str]:
        """Every packed place was that of a relative relocation, is aligned, and can be written."""
        old = self._old.relocations
        relative = np.sort(old.where[old.kind == R_X86_64_RELATIVE])
        if not len(self._where):
            yield "no relocation is packed"
            return
        if not np.all(np.isin(self._where, relative)) or np.any(np.diff(self._where) < _WORD):
            yield "a packed relocation is not one that there was"
        written = np.zeros(len(self._where), np.bool_)
        for load in self._new.loads:
            if load.flags & PF_W:
                end = load.vaddr + load.filesz
                written |= (self._where >= load.vaddr) & (self._where + np.uint64(_WORD) <= end)
        if not np.all(written) or np.any(self._where % np.uint64(_WORD)):
            yield "a packed relocation writes where the loader cannot"
        for start, end in [*self._dynamic_table(), *self.tables()]:
            low, high = np.searchsorted(
                self._where, np.array([max(start - _WORD + 1, 0), end], np.uint64)
            )
            if low != high:
                yield "a packed relocation writes into what the loader reads"

    def _order(self) -> Iterator[str]:
        """What is not packed stands in its order; the count of relative ones first is true."""
        old, new = self._old.relocations, self._new.relocations
        left = ~np.isin(old.where, self._where)
        first = left & (np.arange(len(left)) < old.plt)
        for before, after in (
            (old.where[left], new.where),
            (old.kind[left], new.kind),
            (old.symbol[left], new.symbol),
            (old.addend[left], new.addend),
        ):
            if not np.array_equal(before, after):
                yield "the relocations that are left are others, or in another order"
        if int(np.count_nonzero(first)) != new.plt:
            yield "the relocations of the procedure linkage table are others"
        count = self._new.dynamic.get(DT["RELACOUNT"], 0)
        if count > new.plt or np.any(new.kind[:count] != R_X86_64_RELATIVE):
            yield "not all of the relocations are relative that are said to be"

    def _dynamic(self) -> Iterator[str]:
        """The same entries but for those that change, three more, and what nobody reads."""
        old, new = self._old.dynamic_entries, self._new.dynamic_entries
        before, after = Counter(tag for tag, _, _ in old), Counter(tag for tag, _, _ in new)
        gone = before - after
        if after - before != _ADDED or not set(gone) <= _REDUNDANT:
            yield "the entries of the dynamic table are not the same ones"
        same = {tag for tag in before if tag not in _CHANGING and tag not in gone}
        if [(t, v) for t, v, _ in old if t in same] != [(t, v) for t, v, _ in new if t in same]:
            yield "an entry of the dynamic table changed"
        if self._new.dynamic.get(DT["RELRENT"]) != _WORD:
            yield "the dynamic table says that packed words have another size"
        end = next((s.file_end for s in self._new.segments if s.type == PT_DYNAMIC), 0)
        if not new or not self._new.is_zero(new[-1][2] + 8, end) or new[-1][2] + 24 > end:
            yield "the dynamic table has no end"

    def _versions(self) -> Iterator[str]:
        """The same versions are needed, and of the C library the one for packed relocations."""
        old, new = read_needs(self._old), read_needs(self._new)
        if [need.file for need in old] != [need.file for need in new]:
            yield "other libraries are needed"
            return
        taken = {version.number for need in old for version in need.versions}
        taken |= set(defined_versions(self._old))
        for before, after in zip(old, new, strict=True):
            added = after.versions[len(before.versions) :]
            if after.versions[: len(before.versions)] != before.versions:
                yield f"other versions of {before.file.decode()} are needed"
            for version in added:
                if (
                    not before.file.startswith(b"libc.so.")
                    or version.hash != elf_hash(_VERSION)
                    or version.flags
                    or version.number in {0, 1, *taken}
                    or self._new_string(version.name) != _VERSION
                ):
                    yield f"a version of {before.file.decode()} is needed that is not known"
        if sum(len(need.versions) for need in new) != sum(len(n.versions) for n in old) + 1:
            yield "the version for packed relocations is not needed"

    def _new_string(self, offset: int) -> bytes:
        start, end = _table(self._new.dynamic, "STRTAB", "STRSZ")
        at = self._new.to_offset(start + offset)
        if at is None or start + offset >= end:
            raise FormatRefusedError("a name lies outside the string table")
        return self._new.data[at : self._new.data.find(b"\0", at)]

    def _strings(self) -> Iterator[str]:
        """All names are found where they were."""
        (start, end), (new_start, new_end) = (
            _table(elf.dynamic, "STRTAB", "STRSZ") for elf in (self._old, self._new)
        )
        at, new_at = self._old.to_offset(start), self._new.to_offset(new_start)
        size = end - start
        if at is None or new_at is None or new_end - new_start < size:
            yield "the string table lies outside the file"
        elif self._old.read(at, size) != self._new.read(new_at, size):
            yield "the string table changed"


def _table(tags: dict[int, int], place: str, size: str) -> Range:
    start = tags.get(DT[place], 0)
    return start, start + tags.get(DT[size], 0)


def _needs(elf: Elf) -> Range:
    """Return the addresses of the table of needed versions."""
    needs = read_needs(elf)
    if not needs:
        raise FormatRefusedError("it has no table of needed versions")
    start = elf.to_address(needs[0].at) or 0
    return start, start + max(need.end for need in needs) - needs[0].at


def _by_address(relocations: Relocations) -> Relocations:
    order = np.argsort(relocations.where, kind="stable")
    return replace(
        relocations,
        where=relocations.where[order],
        kind=relocations.kind[order],
        symbol=relocations.symbol[order],
        addend=relocations.addend[order],
        record=relocations.record[order],
        plt=len(order),
    )
