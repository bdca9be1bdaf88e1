"""Prove that a rewritten file is the original minus what its plan named. Reads only.

Written against the formats and the plan, not against `layout`: it does not know how the new file
was made, and asks only what a program, the loader and the driver would see. A file passes when
nothing is left to say against it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tfslim.slim import fatbin
from tfslim.slim.cuts import ContainerCut, FileCuts, NewCode
from tfslim.slim.elf import (
    FILE_HEADER,
    PAGE,
    PT_LOAD,
    PT_PHDR,
    R_X86_64_RELATIVE,
    SEGMENT_HEADER,
    SHT_NOBITS,
    Elf,
    FormatRefusedError,
    Segment,
    all_zero,
)
from tfslim.slim.fatbin import Container, Entry, EntryHeader
from tfslim.slim.recompress import expanded
from tfslim.slim.verify_exports import LinkProof
from tfslim.slim.verify_relr import RelrProof

__all__ = ["verify_file"]

_CHUNK: Final = 4 << 20

Range = tuple[int, int]


@dataclass(frozen=True)
class _Placed:
    """Where a container's remains must be found in the new file's memory, and what they are.

    Attributes:
        address: Address of its header in the new file.
        end: Address just after its last entry there.
        entries: Expected entries, as the original has them.
        new: Code that was compiled ahead of time, expected after these.
    """

    address: int
    end: int
    entries: tuple[Entry, ...]
    new: tuple[NewCode, ...]


def verify_file(original: Path, candidate: Path, cuts: FileCuts) -> list[str]:
    """Return everything that speaks against a rewritten file; nothing means it is proved.

    Args:
        original: The file as it was.
        candidate: The file as it shall be.
        cuts: What was to be taken out.
    """
    try:
        with Elf(original) as old, Elf(candidate) as new:
            return list(_Proof(old, new, cuts).problems())
    except FormatRefusedError as refusal:
        return [f"the new file cannot be read: {refusal}"]


class _Proof:
    """One comparison of two files, by address."""

    def __init__(self, old: Elf, new: Elf, cuts: FileCuts) -> None:
        self._old = old
        self._new = new
        self._cuts = cuts
        self._link: LinkProof | RelrProof | None = None
        if cuts.packed:
            self._link = RelrProof(old, new)
        elif cuts.hidden:
            self._link = LinkProof(old, new, cuts.hidden)
        self._before, self._after = old.relocations, new.relocations
        if self._link is not None:
            self._before, self._after = self._link.relocations()

    def problems(self) -> Iterator[str]:
        """Yield every problem found."""
        yield from self._header()
        yield from self._segments()
        yield from self._sections()
        if self._link is not None:
            yield from self._link.problems()
        moved = dict[int, int]()
        yield from self._relocations(moved)
        placed = [item for item in self._placements(moved) if item is not None]
        edited = _merged([*self._edited(), *((item.address, item.end) for item in placed)])
        yield from self._containers(placed)
        yield from self._emptied(edited, placed)
        fields = self._link.fields() if self._link is not None else ()
        yield from self._untouched([*edited, *self._redirected(moved), *fields])

    def _header(self) -> Iterator[str]:
        changeable = {5, 6, 10, 12, 13}  # e_phoff, e_shoff, e_phnum, e_shnum, e_shstrndx
        old, new = (FILE_HEADER.unpack_from(elf.data) for elf in (self._old, self._new))
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after and index not in changeable:
                yield f"field {index} of the ELF header changed"

    def _segments(self) -> Iterator[str]:
        """The same memory with the same rights; all else in the program headers the same."""
        old = [s for s in self._old.segments if s.type != PT_LOAD]
        new = [s for s in self._new.segments if s.type != PT_LOAD]
        if [_shape(s) for s in old] != [_shape(s) for s in new]:
            yield "a program header changed that is not for loading"
        parts = iter(self._new.loads)
        for load in self._old.loads:
            at = load.vaddr
            while at < load.vaddr + load.memsz:
                part = next(parts, None)
                if part is None or part.vaddr != at or not _is_part(part, load):
                    yield f"the memory at {at:#x} is not mapped as before"
                    return
                at += part.memsz
            if at != load.vaddr + load.memsz:
                yield f"the memory of the segment at {load.vaddr:#x} has another size"
        if next(parts, None) is not None:
            yield "there is a segment more"
        yield from self._table()

    def _table(self) -> Iterator[str]:
        """PT_PHDR, where there is one, is where the program headers are."""
        for segment in self._new.segments:
            if segment.type == PT_PHDR and (
                segment.offset != self._new.phoff
                or self._new.to_offset(segment.vaddr) != self._new.phoff
                or segment.filesz != self._new.phnum * SEGMENT_HEADER.size
            ):
                yield "PT_PHDR does not describe the program header table"

    def _sections(self) -> Iterator[str]:
        gone = set(self._cuts.sections)
        old = [s for index, s in enumerate(self._old.sections) if index not in gone]
        new = list(self._new.sections)
        tables = self._link.sections() if self._link is not None else {}
        described = [(s.name, s.type, s.flags, s.addr) for s in new]
        expected = [
            (s.name, s.type, s.flags, tables.get((s.addr, s.size), (s.addr, 0))[0]) for s in old
        ]
        if described != expected:
            yield "the sections are not the same ones"
            return
        for before, after in zip(old, new, strict=True):
            place = tables.get((before.addr, before.size))
            if before.alloc and place is not None and (after.addr, after.size) != place:
                yield f"section {before.name} does not describe its table"
        for before, after in zip(old, new, strict=True):
            if before.alloc or before.type in (0, SHT_NOBITS):
                continue
            if not _same_bytes(
                (self._old, before.offset, before.size), (self._new, after.offset, after.size)
            ):
                yield f"section {before.name} changed"

    def _relocations(self, moved: dict[int, int]) -> Iterator[str]:
        """Only pointers to containers that may move differ; fill `moved` with where they lead."""
        old, new = self._before, self._after
        if not (
            np.array_equal(old.where, new.where)
            and np.array_equal(old.kind, new.kind)
            and np.array_equal(old.symbol, new.symbol)
        ):
            yield "the relocations are not the same ones"
            return
        movable = {
            self._old.to_address(cut.offset): cut for cut in self._cuts.containers if cut.movable
        }
        for index in np.flatnonzero(old.addend != new.addend).tolist():
            before, after = int(old.addend[index]), int(new.addend[index])
            if old.kind[index] != R_X86_64_RELATIVE or before not in movable:
                yield f"the relocation at {int(old.where[index]):#x} leads elsewhere"
            elif moved.setdefault(before, after) != after:
                yield f"two wrappers of the container at {before:#x} now disagree"
        for index in self._pointing_to(moved).tolist():
            if int(new.addend[index]) != moved[int(old.addend[index])]:
                yield f"the wrapper at {int(old.where[index]):#x} leads to what is no longer there"
            elif not self._slot_agrees(int(old.where[index]), int(new.addend[index])):
                yield f"the bytes of the wrapper at {int(old.where[index]):#x} are unknown"

    def _slot_agrees(self, address: int, target: int) -> bool:
        """True when the bytes that a relocation fills are as before, or what it fills in."""
        before = b"".join(_memory(self._old, address, address + 8))
        after = b"".join(_memory(self._new, address, address + 8))
        return after in (before, target.to_bytes(8, "little"))

    def _pointing_to(self, moved: dict[int, int]) -> npt.NDArray[np.intp]:
        """Return the indices of relocations that pointed to moved containers."""
        relocations = self._before
        return np.flatnonzero(
            (relocations.kind == R_X86_64_RELATIVE)
            & np.isin(relocations.addend, np.array(list(moved), np.uint64))
        )

    def _placements(self, moved: dict[int, int]) -> Iterator[_Placed | None]:
        for cut in self._cuts.containers:
            address = self._old.to_address(cut.offset) or 0
            entries = self._expected(cut)
            if entries or cut.new:
                place = moved.get(address, address)
                yield _Placed(place, place + self._size_at(place), entries, cut.new)

    def _size_at(self, address: int) -> int:
        """Return the bytes of the new file's container at an address; 0 where there is none."""
        try:
            return self._read_new(address).size
        except FormatRefusedError:
            return 0

    def _container(self, offset: int) -> Container:
        section = self._old.section_of(offset)
        limit = section.file_end if section else self._old.size
        return fatbin.parse_container(self._old.data, offset, limit)

    def _expected(self, cut: ContainerCut) -> tuple[Entry, ...]:
        """Return where the original has the entries that a container's users must now find."""
        if cut.empty == "zero":
            return ()
        source = cut
        if cut.empty and self._cuts.placeholder is not None:
            held = self._cuts.placeholder
            source = ContainerCut(offset=held.container, keep=(held.entry,))
        entries = self._container(source.offset).entries
        return tuple(entries[index] for index in source.keep)

    def _containers(self, placed: Iterable[_Placed]) -> Iterator[str]:
        """Every container reads, as the driver would read it, as exactly what was to stay."""
        for item in placed:
            try:
                found = self._read_new(item.address).entries
            except FormatRefusedError as refusal:
                yield f"the container at {item.address:#x}: {refusal}"
                continue
            kept, added = found[: len(item.entries)], found[len(item.entries) :]
            if len(found) != len(item.entries) + len(item.new) or not all(
                self._is_same(before, after)
                for before, after in zip(item.entries, kept, strict=True)
            ):
                yield f"the container at {item.address:#x} holds something else"
            elif not all(map(self._is_new, added, item.new)):
                yield f"the container at {item.address:#x} holds other compiled code"

    def _is_same(self, before: Entry, after: Entry) -> bool:
        """True for the same bytes; or, with zstd, for the same code under the same header."""
        if _same_bytes(
            (self._old, before.offset, before.size), (self._new, after.offset, after.size)
        ):
            return True
        if not self._cuts.zstd or not after.flags & fatbin.FLAG_ZSTD:
            return False
        heads = (
            EntryHeader.read(elf.data, entry.offset)._replace(payload=0, packed=0, flags=0)
            for elf, entry in ((self._old, before), (self._new, after))
        )
        rests = (
            elf.data[entry.offset + EntryHeader.size() : entry.offset + entry.header]
            for elf, entry in ((self._old, before), (self._new, after))
        )
        compression = fatbin.FLAG_LZ4 | fatbin.FLAG_ZSTD
        return (
            before.flags & ~compression == after.flags & ~compression
            and len({*heads}) == 1
            and len({*rests}) == 1
            and expanded(self._old.data, before) == expanded(self._new.data, after)
        )

    def _is_new(self, after: Entry, new: NewCode) -> bool:
        """True for the cubin that the plan names, under a header that says what it is."""
        try:
            plain = expanded(self._new.data, after)
            code, rest = plain[: new.cubin], plain[new.cubin :]
            sm = fatbin.cubin_sm(code)
        except FormatRefusedError:
            return False
        said = "a" if after.specific else "f" if after.family else ""
        return (
            after.kind is fatbin.Kind.CUBIN
            and after.sm == sm == new.sm
            and said == new.suffix
            and hashlib.sha256(code).hexdigest() == new.sha256
            and not any(rest)
        )

    def _read_new(self, address: int) -> Container:
        offset = self._new.to_offset(address)
        load = None if offset is None else self._new.load_of(offset)
        if offset is None or load is None:
            raise FormatRefusedError("nothing of the file lies there")
        return fatbin.parse_container(self._new.data, offset, load.file_end)

    def _edited(self) -> Iterator[Range]:
        """Yield the addresses of all code that the plan names, and of tables that get shorter."""
        if self._link is not None:
            yield from self._link.areas()
        for cut in self._cuts.containers:
            address = self._old.to_address(cut.offset) or 0
            yield address, address + self._container(cut.offset).size
        for span in (*self._cuts.spans, *self._cuts.aside):
            address = self._old.to_address(span.offset) or 0
            yield address, address + span.size

    def _emptied(self, edited: Sequence[Range], placed: Sequence[_Placed]) -> Iterator[str]:
        """What was edited holds containers, tables, the program headers, and else zeros."""
        used = [(item.address, item.end) for item in placed]
        used += self._link.tables() if self._link is not None else []
        table = self._new.to_address(self._new.phoff)
        if table is not None:
            used.append((table, table + self._new.phnum * SEGMENT_HEADER.size))
        used = _merged(used)
        for start, end in edited:
            for low, high in _gaps(start, end, used):
                if not all(all_zero(chunk) for chunk in _memory(self._new, low, high)):
                    yield f"removed code is still there between {low:#x} and {high:#x}"
        # Padding that a moved container now covers must have been padding.
        names = _merged(self._edited())
        for start, end in edited:
            for low, high in _gaps(start, end, names):
                if not all(all_zero(chunk) for chunk in _memory(self._old, low, high)):
                    yield f"bytes that were not GPU code were overwritten at {low:#x}"

    def _redirected(self, moved: dict[int, int]) -> Iterator[Range]:
        """Yield the addresses of relocation addends and pointers that follow moved containers."""
        relocations = self._before
        for index in self._pointing_to(moved).tolist():
            record = self._old.to_address(int(relocations.record[index])) or 0
            yield record + 16, record + 24
            yield int(relocations.where[index]), int(relocations.where[index]) + 8

    def _untouched(self, changed: Iterable[Range]) -> Iterator[str]:
        """Every other byte is the same at the same address."""
        ranges = _merged([*changed, *self._file_header(), *self._grown_table()])
        for load in self._old.loads:
            for low, high in _gaps(load.vaddr, load.vaddr + load.filesz, ranges):
                before = _memory(self._old, low, high)
                after = _memory(self._new, low, high)
                if any(a != b for a, b in zip(before, after, strict=True)):
                    yield f"a byte between {low:#x} and {high:#x} changed"

    def _file_header(self) -> Iterator[Range]:
        address = self._old.to_address(0)
        if address is not None:
            yield address, address + FILE_HEADER.size

    def _grown_table(self) -> Iterator[Range]:
        """Yield the program headers' place, where they grew in it over nothing but zeros."""
        (start, end), (new_start, new_end) = (
            (elf.phoff, elf.phoff + elf.phnum * SEGMENT_HEADER.size)
            for elf in (self._old, self._new)
        )
        address = self._old.to_address(start)
        size = new_end - new_start
        if address is None or address != self._new.to_address(new_start) or size < end - start:
            return
        if self._old.is_zero(end, start + size):
            yield address, address + size


def _is_part(part: Segment, load: Segment) -> bool:
    """True when a new segment may stand for a part of an old one: same rights, known alignment."""
    return (
        part.memsz > 0
        and part.flags == load.flags
        and part.paddr - part.vaddr == load.paddr - load.vaddr
        and part.align in (load.align, PAGE)
    )


def _shape(segment: Segment) -> tuple[int, ...]:
    """What must stay the same of a program header that is not for loading."""
    if segment.type == PT_PHDR:
        return (segment.type, segment.flags)
    return (
        segment.type,
        segment.flags,
        segment.vaddr,
        segment.paddr,
        segment.filesz,
        segment.memsz,
        segment.align,
    )


def _same_bytes(a: tuple[Elf, int, int], b: tuple[Elf, int, int]) -> bool:
    """Compare two runs of bytes, each given as (file, offset, size)."""
    (left, left_at, size), (right, right_at, right_size) = a, b
    if size != right_size:
        return False
    return all(
        left.read(left_at + at, min(_CHUNK, size - at))
        == right.read(right_at + at, min(_CHUNK, size - at))
        for at in range(0, size, _CHUNK)
    )


def _memory(elf: Elf, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes at [start, end) as the loader would show them, in pieces of equal bounds."""
    while start < end:
        stop = min(end, (start // _CHUNK + 1) * _CHUNK)
        yield b"".join(_mapped(elf, start, stop))
        start = stop


def _mapped(elf: Elf, start: int, end: int) -> Iterator[bytes]:
    for load in elf.loads_from(start):
        if load.vaddr >= end:
            break
        low, high = max(start, load.vaddr), min(end, load.vaddr + load.memsz)
        if low >= high:
            continue
        in_file = min(high, load.vaddr + load.filesz)
        if in_file > low:
            at = low - load.vaddr + load.offset
            yield elf.read(at, in_file - low)
            low = in_file
        yield bytes(high - low)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _gaps(start: int, end: int, ranges: Sequence[Range]) -> Iterator[Range]:
    """Yield what [start, end) has outside the ranges, which are merged and ascending."""
    first = bisect.bisect_right(ranges, start, key=lambda r: r[1])
    for low, high in itertools.islice(ranges, first, None):
        if low >= end:
            break
        if low > start:
            yield start, low
        start = max(start, high)
    if start < end:
        yield start, end
