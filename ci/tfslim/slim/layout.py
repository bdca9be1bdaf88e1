"""Lay out a smaller file without moving an address. Pure: says which bytes go where, writes none.

Three steps. *Edit*: in the file as it is, containers are shortened in place, or packed together
where wrappers lead to them, and what was there becomes zero. *Cut*: whole pages of zeros leave the
file, and the segment around them is split so that the loader supplies the zeros (memsz > filesz).
*Tail*: sections that are not loaded move up or are dropped. docs/slimming.md draws it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from tfslim.slim import fatbin, relr
from tfslim.slim.aot.entry import entry_of
from tfslim.slim.cuts import ContainerCut, FileCuts, NewCode
from tfslim.slim.elf import (
    FILE_HEADER,
    PAGE,
    PF_W,
    PT_INTERP,
    PT_LOAD,
    PT_PHDR,
    R_X86_64_RELATIVE,
    SECTION_HEADER,
    SEGMENT_HEADER,
    SHT_NOBITS,
    Elf,
    FormatRefusedError,
    Section,
    Segment,
)
from tfslim.slim.exports import Tables, rebuild
from tfslim.slim.fatbin import Container, Entry
from tfslim.slim.pieces import Piece, overlay, without
from tfslim.slim.recompress import with_zstd

__all__ = [
    "MAX_HOLES",
    "MIN_HOLE",
    "Code",
    "Layout",
    "Piece",
    "Zone",
    "lay_out",
    "strip_refusal",
    "zones",
]

# A hole costs the loader two mappings (some microseconds); smaller ones are not worth it.
MIN_HOLE: Final = 16 * 1024
# Far below the 65530 mappings that Linux allows a process, with hundreds of libraries in it.
MAX_HOLES: Final = 256
# Zero bytes between two removed pieces (alignment) that count as part of the removed run.
_GAP: Final = PAGE

_SHF_INFO_LINK: Final = 0x40
_SHT_RELOCATIONS: Final = (4, 9)


@dataclass(frozen=True, slots=True)
class _Stored:
    """An entry as it will be stored: its bytes, or where the original has them."""

    size: int
    source: int | bytes


_Kept = tuple[Container, ContainerCut, tuple[_Stored, ...]]
# Gives the cubin that a plan names.
Code = Callable[[NewCode], bytes]


def _no_code(new: NewCode) -> bytes:
    raise FormatRefusedError(f"the code compiled for {new.arch} is not at hand")


@dataclass(frozen=True)
class Zone:
    """Containers that are packed together.

    Attributes:
        containers: Their offsets.
        free: Bytes that are left over when what stays is packed.
    """

    containers: frozenset[int]
    free: int


@dataclass(frozen=True)
class Layout:
    """The new file, as pieces in output order, and what became of it.

    Attributes:
        pieces: Written one after the other they are the file.
        size: Bytes of the new file.
        holes: Pages that left the file, as (start, end) offsets in the original.
        moved: Old address → new address of containers.
    """

    pieces: tuple[Piece, ...]
    size: int
    holes: tuple[tuple[int, int], ...]
    moved: dict[int, int]


def lay_out(elf: Elf, cuts: FileCuts, code: Code = _no_code) -> Layout:
    """Work out the new file.

    Args:
        elf: The original.
        cuts: What is taken out of it.
        code: Gives the code that was compiled ahead of time.

    Raises:
        FormatRefusedError: The cuts do not fit the file, or its layout does not allow them.
    """
    if cuts.sections and (refusal := strip_refusal(elf, cuts.sections)):
        raise FormatRefusedError(refusal)
    if cuts.packed and cuts != FileCuts(packed=True):
        raise FormatRefusedError("relocations are packed after all else, by themselves")
    edits, moved = _edit(elf, cuts, code)
    led = _led_elsewhere(elf, moved)
    tables = _tables(elf, cuts, led)
    edited = overlay([Piece(0, elf.loaded_end, 0)], [*edits, *tables.pieces])
    runs = list(_zero_runs(elf, edited))
    shape = _Shape(elf, _holes(elf, runs), runs, [span.offset for span in cuts.aside])
    tail = _Tail(elf, cuts.sections, shape, tables)
    patches = [*_slots(elf, led), *shape.patches(), *tail.patches()]
    if not cuts.hidden:  # otherwise the new tables have them already
        patches += _addends(elf, led)
    patches.append(Piece(0, FILE_HEADER.size, _file_header(elf, shape, tail)))
    body = without(overlay(edited, patches), shape.holes)
    pieces = (*body, *tail.pieces)
    size = sum(piece.length for piece in pieces)
    return Layout(pieces, size, shape.holes, moved)


# --- edit -------------------------------------------------------------------------------------


def zones(elf: Elf, cuts: FileCuts) -> tuple[Zone, ...]:
    """Return which containers are packed together, and how much room is left there.

    Raises:
        FormatRefusedError: The cuts do not fit the file.
    """
    found = []
    for zone in _zones(elf, _chosen(elf, cuts, _no_code)):
        used = sum(_container_size(entries) for _, _, entries in zone)
        whole = zone[-1][0].end - zone[0][0].offset
        found.append(Zone(frozenset(container.offset for container, _, _ in zone), whole - used))
    return tuple(found)


def _container_size(entries: Sequence[_Stored]) -> int:
    return fatbin.CONTAINER_HEADER.size + sum(e.size for e in entries) if entries else 0


def _chosen(elf: Elf, cuts: FileCuts, code: Code) -> list[_Kept]:
    """Return the containers that are edited, with what each will hold."""
    chosen = [(_parse(elf, cut), cut) for cut in cuts.containers]
    for (before, _), (after, _) in pairwise(chosen):
        if before.end > after.offset:
            raise FormatRefusedError("containers overlap or are not in order")
    placeholder = _placeholder(elf, cuts)
    return [
        (
            container,
            cut,
            (
                *_stored(elf, cuts, cut, _kept(container, cut, placeholder)),
                *_compiled(cuts, cut, code),
            ),
        )
        for container, cut in chosen
    ]


def _edit(elf: Elf, cuts: FileCuts, code: Code) -> tuple[list[Piece], dict[int, int]]:
    """Return the changed pieces in order, and where containers moved (address → address)."""
    if cuts.containers and any(segment.type == PT_INTERP for segment in elf.segments):
        raise FormatRefusedError("a program that the kernel maps by itself")
    kept = _chosen(elf, cuts, code)
    edits: list[Piece] = []
    placed: dict[int, int] = {}
    for zone in _zones(elf, kept):
        edits += _pack(zone, placed)
    for container, cut, entries in kept:
        if not cut.movable:
            edits += _filled(
                container.offset, container.end, _written_at(container.offset, entries)
            )
    for span in (*cuts.spans, *cuts.aside):
        edits += _filled(span.offset, span.offset + span.size, [])
    return sorted(edits, key=lambda piece: piece.at), _moves(elf, kept, placed, cuts.host)


def _placeholder(elf: Elf, cuts: FileCuts) -> Entry | None:
    if cuts.placeholder is None:
        return None
    taken = ContainerCut(offset=cuts.placeholder.container, keep=(cuts.placeholder.entry,))
    return _parse(elf, taken).entries[cuts.placeholder.entry]


def _parse(elf: Elf, cut: ContainerCut) -> Container:
    section = elf.section_of(cut.offset)
    if section is None:
        raise FormatRefusedError("a container lies outside every section")
    container = fatbin.parse_container(elf.data, cut.offset, section.file_end)
    if any(index >= len(container.entries) for index in cut.keep):
        raise FormatRefusedError("the plan names an entry that the container does not have")
    return container


def _kept(container: Container, cut: ContainerCut, placeholder: Entry | None) -> tuple[Entry, ...]:
    """Return the entries that a container will hold; none where it is shared or becomes zero."""
    if cut.empty != "copy":
        return tuple(container.entries[index] for index in cut.keep)
    if placeholder is None or container.header + placeholder.size > container.size:
        raise FormatRefusedError("the placeholder does not fit a container")
    return (placeholder,)


def _stored(
    elf: Elf, cuts: FileCuts, cut: ContainerCut, entries: Iterable[Entry]
) -> Iterator[_Stored]:
    """Yield entries as they will be stored: where containers are packed, with zstd if asked."""
    for entry in entries:
        smaller = with_zstd(elf.data, entry) if cuts.zstd and cut.movable else None
        yield (
            _Stored(entry.size, entry.offset) if smaller is None else _Stored(len(smaller), smaller)
        )


def _compiled(cuts: FileCuts, cut: ContainerCut, code: Code) -> Iterator[_Stored]:
    """Yield entries for code that was compiled ahead of time."""
    for new in cut.new:
        entry = entry_of(code(new), new)
        whole = fatbin.pack_container_header(len(entry)) + entry
        parsed = fatbin.parse_container(whole, 0, len(whole)).entries[0]
        smaller = with_zstd(whole, parsed) if cuts.zstd and cut.movable else None
        yield _Stored(len(smaller or entry), smaller or entry)


def _written_at(at: int, entries: Sequence[_Stored]) -> list[Piece]:
    """Return a container of the entries, at an offset."""
    if not entries:
        return []
    header = fatbin.pack_container_header(sum(entry.size for entry in entries))
    pieces = [Piece(at, len(header), header)]
    for entry in entries:
        pieces.append(Piece(pieces[-1].end, entry.size, entry.source))
    return pieces


def _filled(start: int, end: int, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces, and zeros for the rest of [start, end)."""
    for piece in pieces:
        if piece.at > start:
            yield Piece(start, piece.at - start, None)
        yield piece
        start = piece.end
    if start > end:
        raise FormatRefusedError("what a container will hold does not fit its place")
    if end > start:
        yield Piece(start, end - start, None)


def _zones(elf: Elf, kept: Sequence[_Kept]) -> Iterator[list[_Kept]]:
    """Yield runs of movable containers with nothing but padding between them, in one section."""
    zone: list[_Kept] = []
    for item in kept:
        container, cut, _ = item
        if zone and not (cut.movable and _is_padding(elf, zone[-1][0].end, container.offset)):
            yield zone
            zone = []
        if cut.movable:
            zone.append(item)
    if zone:
        yield zone


def _is_padding(elf: Elf, start: int, end: int) -> bool:
    """True when bytes are few, zero, within one section, and no relocation writes them."""
    if start == end:
        return elf.section_of(start - 1) == elf.section_of(start)
    if end - start >= _GAP or not elf.is_zero(start, end):
        return False
    address = elf.to_address(start)
    if address is None or elf.section_of(start - 1) != elf.section_of(end):
        return False
    return not len(_written(elf, address, end - start))


def _written(elf: Elf, address: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the addresses of 8-byte relocation targets that touch [address, address + size)."""
    bounds = np.array([max(address - 7, 0), address + size], np.uint64)
    low, high = np.searchsorted(elf.written_addresses, bounds)
    return elf.written_addresses[low:high]


def _pack(zone: Sequence[_Kept], placed: dict[int, int]) -> Iterator[Piece]:
    """Yield a zone with what it keeps packed to its start; note in `placed` where each one went."""
    start, end = zone[0][0].offset, zone[-1][0].end
    pieces: list[Piece] = []
    at = start
    for container, _, entries in zone:
        if entries:
            placed[container.offset] = at
            pieces += _written_at(at, entries)
            at = pieces[-1].end
    return _filled(start, end, pieces)


def _moves(
    elf: Elf, kept: Sequence[_Kept], placed: dict[int, int], host: int | None
) -> dict[int, int]:
    """Return old address → new address of each container that wrappers must be told about."""
    moves: dict[int, int] = {}
    for container, cut, _ in kept:
        if not cut.movable:
            continue
        leads_to = host if cut.empty == "shared" else container.offset
        new = None if leads_to is None else placed.get(leads_to)
        old_address = elf.to_address(container.offset)
        new_address = None if new is None else elf.to_address(new)
        if old_address is None or new_address is None:
            raise FormatRefusedError("a wrapper would lead nowhere")
        if old_address != new_address:
            moves[old_address] = new_address
    return moves


def _led_elsewhere(elf: Elf, moved: dict[int, int]) -> dict[int, int]:
    """Return the relocations to moved containers: their index → where they lead now."""
    if not moved:
        return {}
    relocations = elf.relocations
    hits = np.flatnonzero(
        (relocations.kind == R_X86_64_RELATIVE)
        & np.isin(relocations.addend, np.array(list(moved), np.uint64))
    )
    return {index: moved[int(relocations.addend[index])] for index in hits.tolist()}


def _addends(elf: Elf, led: dict[int, int]) -> Iterator[Piece]:
    """Yield the new addends of relocations."""
    for index, new in led.items():
        yield Piece(int(elf.relocations.record[index]) + 16, 8, new.to_bytes(8, "little"))


def _slots(elf: Elf, led: dict[int, int]) -> Iterator[Piece]:
    """Yield the 8 bytes that such a relocation fills, where they hold the old address.

    The loader ignores them, tools read them.
    """
    relocations = elf.relocations
    for index, new in led.items():
        old = int(relocations.addend[index]).to_bytes(8, "little")
        slot = elf.to_offset(int(relocations.where[index]))
        if slot is not None and elf.data[slot : slot + 8] == old:
            yield Piece(slot, 8, new.to_bytes(8, "little"))


def _tables(elf: Elf, cuts: FileCuts, led: dict[int, int]) -> Tables:
    """Return the loader's tables where they change."""
    if not cuts.hidden and not cuts.packed:
        return Tables((), {})
    if any(segment.type == PT_INTERP for segment in elf.segments):
        raise FormatRefusedError("a program that the kernel maps by itself")
    if cuts.packed:
        return relr.pack(elf)
    addend = elf.relocations.addend.copy()
    addend[list(led)] = list(led.values())
    return rebuild(elf, replace(elf.relocations, addend=addend), cuts.hidden, [relr.VERSION])


# --- cut --------------------------------------------------------------------------------------


def _holes(elf: Elf, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the page runs that may leave the file, the largest ones if there are too many."""
    holes: list[tuple[int, int]] = []
    for start, end in runs:
        for load in elf.loads:
            low = _up(max(start, load.offset + 1))
            high = _down(min(end, load.file_end))
            if high - low >= MIN_HOLE:
                holes += _between_relocations(elf, low, high)
    big = sorted(
        (h for h in holes if h[1] - h[0] >= MIN_HOLE), key=lambda hole: (hole[0] - hole[1], hole[0])
    )
    return sorted(big[:MAX_HOLES])


def _zero_runs(elf: Elf, edited: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """Yield runs of zeros that edits made, padding between them included."""
    start: int | None = None
    end = 0
    for piece in edited:
        if piece.source is None:
            start = piece.at if start is None else start
            end = piece.end
        elif start is not None and not (
            piece.source == piece.at and _is_padding(elf, piece.at, piece.end)
        ):
            yield start, end
            start = None
    if start is not None:
        yield start, end


def _between_relocations(elf: Elf, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield [low, high) without the pages that a relocation writes."""
    address = elf.to_address(low)
    if address is None:
        return
    written = _written(elf, address, high - low).astype(np.int64)
    pages = np.unique(np.concatenate([written, written + 7]) // PAGE * PAGE) - address + low
    for page in pages[(pages >= low) & (pages < high)].tolist():
        if page > low:
            yield low, page
        low = page + PAGE
    if high > low:
        yield low, high


class _Shape:
    """The file's new program headers and how offsets change.

    Args:
        elf: The original.
        holes: Candidate page runs, ascending.
        runs: All runs of zeros that edits made, ascending.
        aside: Starts of runs that nothing may be put into.
    """

    def __init__(
        self,
        elf: Elf,
        holes: Sequence[tuple[int, int]],
        runs: Sequence[tuple[int, int]],
        aside: Sequence[int],
    ) -> None:
        self._elf = elf
        self._runs = runs
        self._aside = set(aside)
        self.table_at: int | None = None
        self.holes = tuple(self._reserve_table(list(holes)))
        self._starts = [start for start, _ in self.holes]
        self._removed = [0]
        for start, end in self.holes:
            self._removed.append(self._removed[-1] + end - start)
        self.removed = self._removed[-1]
        self.segments = [new for old in elf.segments for new in self._split(old)]
        if self.table_at is not None:
            self.segments = [self._with_table(segment) for segment in self.segments]

    def _reserve_table(self, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Keep room for the longer program header table at the start of one hole.

        The largest hole of memory that stays read-only is preferred: nothing can then write there.
        A table that was put into a hole before stays where it is if it has room to grow.
        """
        if not holes:
            return []
        need = _up((self._elf.phnum + len(holes)) * SEGMENT_HEADER.size)
        if self._has_room(need):
            self.table_at = self._elf.phoff
            return holes

        def worth(hole: tuple[int, int]) -> tuple[bool, int]:
            load = self._elf.load_of(hole[0])
            return load is not None and not load.flags & PF_W, hole[1] - hole[0]

        free = [index for index, hole in enumerate(holes) if hole[0] not in self._aside]
        if not free:
            return []
        index = max(free, key=lambda i: worth(holes[i]))
        start, end = holes[index]
        if end - start < need + PAGE:
            return []
        self.table_at = start
        holes[index] = (start + need, end)
        return holes

    def _has_room(self, need: int) -> bool:
        """True when the table has whole pages to itself, with `need` bytes in them."""
        elf, start = self._elf, self._elf.phoff
        end = start + elf.phnum * SEGMENT_HEADER.size
        return not start % PAGE and need <= _up(end - start) and elf.is_zero(end, start + need)

    def offset(self, old: int) -> int:
        """Return where a byte of the original lies now; within a hole, where the hole was."""
        index = bisect.bisect_right(self._starts, old)
        if index and old < self.holes[index - 1][1]:
            return self.holes[index - 1][0] - self._removed[index - 1]
        return old - self._removed[index]

    def _split(self, old: Segment) -> Iterator[Segment]:
        inner = [h for h in self.holes if old.offset <= h[0] and h[1] <= old.file_end]
        if old.type != PT_LOAD or not inner:
            moved = self.offset(old.offset) if old.filesz else old.offset
            yield _congruent(replace(old, offset=moved))
            return
        starts = [old.offset, *(end for _, end in inner)]
        ends = [*(start for start, _ in inner), old.file_end]
        memory_ends = [*starts[1:], old.offset + old.memsz]
        if starts[-1] == old.file_end:  # nothing of the file follows the last hole
            starts.pop()
            ends.pop()
            memory_ends = [*memory_ends[:-2], memory_ends[-1]]
        for start, end, memory_end in zip(starts, ends, memory_ends, strict=True):
            shift = start - old.offset
            yield _congruent(
                replace(
                    old,
                    offset=self.offset(start),
                    vaddr=old.vaddr + shift,
                    paddr=old.paddr + shift,
                    filesz=end - start,
                    memsz=memory_end - start,
                )
            )

    def _with_table(self, segment: Segment) -> Segment:
        """Return the segment; PT_PHDR with the place and size of the new table."""
        if segment.type != PT_PHDR or self.table_at is None:
            return segment
        address = self._elf.to_address(self.table_at) or 0
        return replace(
            segment,
            offset=self.offset(self.table_at),
            vaddr=address,
            paddr=address,
            filesz=len(self.segments) * SEGMENT_HEADER.size,
            memsz=len(self.segments) * SEGMENT_HEADER.size,
        )

    def section_size(self, section: Section) -> int:
        """Return the bytes of a loaded section that are still in the file.

        Zeros that edits left at its end do not count, so that tools which walk the section (as
        cuobjdump does) find only what was kept.
        """
        end = section.file_end
        index = bisect.bisect_left(self._runs, end, key=lambda run: run[0]) - 1
        if index >= 0 and end <= self._runs[index][1]:
            end = self._runs[index][0]
        return max(self.offset(end) - self.offset(section.offset), 0)

    def patches(self) -> Iterator[Piece]:
        """Yield the new program header table, where there is one."""
        if self.table_at is not None:
            table = b"".join(segment.pack() for segment in self.segments)
            yield Piece(self.table_at, len(table), table)


def _congruent(segment: Segment) -> Segment:
    """Return the segment with an alignment that its new offset satisfies (a page always does)."""
    if segment.type == PT_LOAD and (segment.vaddr - segment.offset) % max(segment.align, 1):
        return replace(segment, align=PAGE)
    return segment


def _up(offset: int) -> int:
    return (offset + PAGE - 1) // PAGE * PAGE


def _down(offset: int) -> int:
    return offset // PAGE * PAGE


# --- tail -------------------------------------------------------------------------------------


def strip_refusal(elf: Elf, dropped: Sequence[int]) -> str:
    """Return why sections cannot be dropped without touching what is loaded; empty if they can."""
    if any(index >= len(elf.sections) for index in dropped):
        return "the plan names a section that the file does not have"
    gone = set(dropped)
    kept = [section for index, section in enumerate(elf.sections) if index not in gone]
    last_loaded = max((i for i, s in enumerate(elf.sections) if s.alloc), default=0)
    if elf.shoff < elf.loaded_end or min(gone) < last_loaded or elf.shstrndx in gone:
        return "its section table is laid out in an unusual way"
    if any(elf.sections[i].alloc or elf.sections[i].offset < elf.loaded_end for i in gone):
        return "its symbol table lies between loaded parts"
    if any(s.align > PAGE for s in kept if s.offset >= elf.loaded_end):
        return "a section wants an alignment beyond a page"
    if any(s.link in gone or (_info_is_section(s) and s.info in gone) for s in kept):
        return "other sections depend on its symbol table"
    return "" if _tail_is_known(elf) else "bytes after its sections belong to nothing known"


def _info_is_section(section: Section) -> bool:
    return bool(section.flags & _SHF_INFO_LINK) or section.type in _SHT_RELOCATIONS


def _tail_is_known(elf: Elf) -> bool:
    """True when the file after its loaded part is sections, the section table and padding only."""
    known = [(s.offset, s.file_end) for s in elf.sections if s.type not in (0, SHT_NOBITS)]
    known.append((elf.shoff, elf.shoff + elf.shnum * SECTION_HEADER.size))
    at = elf.loaded_end
    for start, end in [*sorted(known), (elf.size, elf.size)]:
        if start > at and not elf.is_zero(at, start):
            return False
        at = max(at, end)
    return True


class _Tail:
    """What follows the loaded part of the new file: sections that are not loaded, section table.

    Args:
        elf: The original.
        dropped: Indices of sections that go.
        shape: The new layout of the loaded part.
        tables: The loader's tables that became shorter.
    """

    def __init__(self, elf: Elf, dropped: Sequence[int], shape: _Shape, tables: Tables) -> None:
        self._elf = elf
        self._shape = shape
        self._places = tables.places
        self.pieces: list[Piece] = []
        self.shnum = elf.shnum
        self.shstrndx = elf.shstrndx
        self.shoff = 0
        self._patches: list[Piece] = []
        if dropped:
            self._rebuild(set(dropped))
        else:
            self._copy()

    def patches(self) -> Sequence[Piece]:
        """Return changes to the loaded part (a section table that lies within it)."""
        return self._patches

    def _copy(self) -> None:
        """Take everything after the loaded part as it is, with a corrected section table."""
        elf = self._elf
        start = elf.loaded_end
        self.shoff = self._shape.offset(elf.shoff) if elf.shoff else 0
        table: list[Piece] = []
        if elf.shoff:
            headers = b"".join(self._header(section) for section in elf.sections)
            table = [Piece(elf.shoff, len(headers), headers)]
        if elf.shoff >= start:
            self.pieces = overlay([Piece(start, elf.size - start, start)], table)
        else:
            self._patches = table
            self.pieces = [Piece(start, elf.size - start, start)] if elf.size > start else []

    def _rebuild(self, gone: set[int]) -> None:
        """Write the kept sections one after the other, then a shorter section table."""
        elf = self._elf
        kept = [index for index in range(elf.shnum) if index not in gone]
        number = {old: new for new, old in enumerate(kept)}
        at = elf.loaded_end - self._shape.removed
        places: dict[int, int] = {}
        for index in sorted(kept, key=lambda i: elf.sections[i].offset):
            section = elf.sections[index]
            if section.offset < elf.loaded_end or section.type in (0, SHT_NOBITS):
                continue
            at = self._append(at, section.align, section.size, section.offset)
            places[index] = at
            at += section.size
        headers = b"".join(
            self._header(elf.sections[index], places.get(index), number) for index in kept
        )
        self.shoff = self._append(at, 8, len(headers), headers)
        self.shnum, self.shstrndx = len(kept), number[elf.shstrndx]

    def _append(self, at: int, align: int, size: int, source: int | bytes) -> int:
        place = -(-at // max(align, 1)) * max(align, 1)
        if place > at:
            self.pieces.append(Piece(at, place - at, None))
        if size:
            self.pieces.append(Piece(place, size, source))
        return place

    def _header(
        self, section: Section, place: int | None = None, number: dict[int, int] | None = None
    ) -> bytes:
        """Return a section header with its new offset, size and links."""
        start = self._shape.offset(section.offset) if place is None else place
        address, size = section.addr, section.size
        if section.alloc and (address, size) in self._places:
            address, size = self._places[address, size]
            start = self._shape.offset(self._elf.to_offset(address) or section.offset)
        elif section.alloc and section.type != SHT_NOBITS:
            size = self._shape.section_size(section)
        link, info = section.link, section.info
        if number is not None:
            link = number.get(link, link)
            info = number.get(info, info) if _info_is_section(section) else info
        return SECTION_HEADER.pack(
            section.name_offset,
            section.type,
            section.flags,
            address,
            start,
            size,
            link,
            info,
            section.align,
            section.entsize,
        )


def _file_header(elf: Elf, shape: _Shape, tail: _Tail) -> bytes:
    fields = list(FILE_HEADER.unpack_from(elf.data))
    if shape.table_at is not None:
        fields[5] = shape.offset(shape.table_at)
        fields[10] = len(shape.segments)
    fields[6], fields[12], fields[13] = tail.shoff, tail.shnum, tail.shstrndx
    return FILE_HEADER.pack(*fields)
