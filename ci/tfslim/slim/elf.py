"""Read ELF64 little-endian x86-64 files: segments, sections, relocations. Nothing here writes.

The structures are those of the System V gABI (ELF-64) and its x86-64 supplement. Whatever does not
fit is refused with a reason, so that a caller can leave the file as it is and say why.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "ET_DYN",
    "ET_EXEC",
    "FILE_HEADER",
    "PAGE",
    "PF_W",
    "PT_DYNAMIC",
    "PT_INTERP",
    "PT_LOAD",
    "PT_PHDR",
    "R_X86_64_64",
    "R_X86_64_GLOB_DAT",
    "R_X86_64_IRELATIVE",
    "R_X86_64_JUMP_SLOT",
    "R_X86_64_RELATIVE",
    "SECTION_HEADER",
    "SEGMENT_HEADER",
    "SHT_NOBITS",
    "SHT_PROGBITS",
    "SHT_SYMTAB",
    "Elf",
    "FormatRefusedError",
    "OtherMachineError",
    "Relocations",
    "Section",
    "Segment",
    "all_zero",
]

PAGE: Final = 4096

ET_EXEC: Final = 2
ET_DYN: Final = 3
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_PHDR: Final = 6
PF_X: Final = 1
PF_W: Final = 2
SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_NOBITS: Final = 8
SHF_ALLOC: Final = 0x2
SHF_EXECINSTR: Final = 0x4
SHN_XINDEX: Final = 0xFFFF
PN_XNUM: Final = 0xFFFF

R_X86_64_64: Final = 1
R_X86_64_GLOB_DAT: Final = 6
R_X86_64_JUMP_SLOT: Final = 7
R_X86_64_RELATIVE: Final = 8
R_X86_64_IRELATIVE: Final = 37

_EM_X86_64: Final = 62
_DT = {"RELA": 7, "RELASZ": 8, "RELAENT": 9, "REL": 17}
_DT |= {"PLTRELSZ": 2, "PLTREL": 20, "JMPREL": 23, "RELRSZ": 35, "RELR": 36}

FILE_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT_HEADER: Final = struct.Struct("<IIQQQQQQ")
SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC_ENTRY: Final = struct.Struct("<qQ")
_RELA_SIZE: Final = 24
_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(4 * _CHUNK)
_SYMBOL_SIZE: Final = 24

# A shared library has some tens of each; hundreds of thousands are a lie or an attack.
_MAX_SEGMENTS: Final = 4096
_MAX_SECTIONS: Final = 16384


class FormatRefusedError(ValueError):
    """A file or structure is not one that this reader knows; nothing is guessed about it."""


class OtherMachineError(FormatRefusedError):
    """A file is not for x86-64 at all: nothing in it can meet anything that is."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header: what the loader maps. Offsets and sizes are bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    @property
    def file_end(self) -> int:
        """File offset just after the segment's last byte in the file."""
        return self.offset + self.filesz

    def pack(self) -> bytes:
        """Return the 56 bytes of the header."""
        return SEGMENT_HEADER.pack(
            self.type,
            self.flags,
            self.offset,
            self.vaddr,
            self.paddr,
            self.filesz,
            self.memsz,
            self.align,
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A section header with its name resolved. Offsets and sizes are bytes."""

    name: str
    name_offset: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int

    @property
    def alloc(self) -> bool:
        """True when the section is part of the loaded program."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def executable(self) -> bool:
        """True when the section holds machine code."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def file_end(self) -> int:
        """File offset just after the section; its start where it occupies no file bytes."""
        return self.offset + (0 if self.type == SHT_NOBITS else self.size)


@dataclass(frozen=True)
class Relocations:
    """What the loader writes, as parallel arrays (one element per relocation).

    Attributes:
        where: Addresses written.
        kind: Relocation types (`R_X86_64_*`).
        symbol: Indices of the dynamic symbols they refer to; 0 for none.
        addend: Addends, as unsigned 64-bit numbers.
        record: File offset of each 24-byte record.
        plt: Index of the first one that belongs to the procedure linkage table (DT_JMPREL).
    """

    where: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint32]
    symbol: npt.NDArray[np.uint32]
    addend: npt.NDArray[np.uint64]
    record: npt.NDArray[np.uint64]
    plt: int


def all_zero(data: bytes) -> bool:
    """True when all bytes are zero."""
    return data == _ZEROS[: len(data)] if len(data) <= len(_ZEROS) else not any(data)


class Elf:
    """A parsed ELF file, mapped read-only.

    Args:
        path: The file.

    Raises:
        FormatRefusedError: It is not an ELF64 little-endian x86-64 executable or library, or its
            tables lie.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self.size = self._file.seek(0, 2)
        if self.size < FILE_HEADER.size:
            self._file.close()
            raise OtherMachineError("too short for an ELF header")
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._read_header()
            self.segments = tuple(self._segments())
            self.loads = self._loads()
            self.sections = tuple(self._sections())
        except FormatRefusedError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self.data.close()

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file without mapping them, so that resident memory stays small."""
        return os.pread(self._file.fileno(), size, offset)

    def is_zero(self, start: int, end: int) -> bool:
        """True when all bytes of the file in [start, end) are zero."""
        return all(
            all_zero(self.read(at, min(_CHUNK, end - at))) for at in range(start, end, _CHUNK)
        )

    def release(self, start: int, end: int) -> None:
        """Tell the kernel that mapped pages within [start, end) are not needed now."""
        first = (start + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self.data.madvise(mmap.MADV_DONTNEED, first, length)

    def _read_header(self) -> None:
        ident = self.data[:16]
        if ident[:4] != b"\x7fELF":
            raise OtherMachineError("not an ELF file")
        if ident[4] != 2:
            raise OtherMachineError("32-bit ELF; only 64-bit is known")
        if ident[5] != 1:
            raise OtherMachineError("big-endian ELF; only little-endian is known")
        fields = FILE_HEADER.unpack_from(self.data)
        (_, self.type, machine, _, _, self.phoff, self.shoff, _) = fields[:8]
        (ehsize, phentsize, self.phnum, shentsize, self.shnum, self.shstrndx) = fields[8:]
        if machine != _EM_X86_64:
            raise OtherMachineError(f"machine {machine}; only x86-64 (62) is known")
        if ehsize != FILE_HEADER.size or (self.phnum and phentsize != SEGMENT_HEADER.size):
            raise FormatRefusedError("header sizes are not those of ELF64")
        if self.shoff and shentsize != SECTION_HEADER.size:
            raise FormatRefusedError("section headers are not 64 bytes")
        self._check_table("program header", self.phoff, self.phnum, SEGMENT_HEADER, _MAX_SEGMENTS)
        self._check_table("section header", self.shoff, self.shnum, SECTION_HEADER, _MAX_SECTIONS)
        if self.shoff and (not self.shnum or self.shstrndx >= self.shnum):
            raise FormatRefusedError("extended section numbering is not supported")

    def _check_table(self, what: str, at: int, count: int, item: struct.Struct, limit: int) -> None:
        if count > limit:
            raise FormatRefusedError(f"{count} {what}s; more than {limit} are not believed")
        if count and (at < FILE_HEADER.size or at + count * item.size > self.size):
            raise FormatRefusedError(f"{what} table lies outside the file")

    def _segments(self) -> Iterator[Segment]:
        for index in range(self.phnum):
            segment = Segment(
                *SEGMENT_HEADER.unpack_from(self.data, self.phoff + index * SEGMENT_HEADER.size)
            )
            if segment.filesz and segment.file_end > self.size:
                raise FormatRefusedError(f"program header {index} reaches past the end of the file")
            yield segment

    def _loads(self) -> tuple[Segment, ...]:
        loads = tuple(s for s in self.segments if s.type == PT_LOAD)
        for load in loads:
            if load.filesz > load.memsz or load.vaddr + load.memsz >= 1 << 63:
                raise FormatRefusedError("a loadable segment's sizes contradict each other")
            if (load.vaddr - load.offset) % PAGE:
                raise FormatRefusedError("a loadable segment is not page-congruent")
        for before, after in pairwise(loads):
            if before.vaddr + before.memsz > after.vaddr:
                raise FormatRefusedError("loadable segments overlap or are not in order")
        in_file = sorted((s.offset, s.file_end) for s in loads if s.filesz)
        for (_, end), (start, _) in pairwise(in_file):
            if end > start:
                raise FormatRefusedError("loadable segments share bytes of the file")
        return loads

    def _sections(self) -> Iterator[Section]:
        if not self.shoff:
            return
        headers = [
            SECTION_HEADER.unpack_from(self.data, self.shoff + index * SECTION_HEADER.size)
            for index in range(self.shnum)
        ]
        names_at, names_size = headers[self.shstrndx][4:6]
        if names_at + names_size > self.size:
            raise FormatRefusedError("section name table lies outside the file")
        names = self.data[names_at : names_at + names_size]
        for index, (name, kind, flags, addr, offset, size, *rest) in enumerate(headers):
            if kind not in (0, SHT_NOBITS) and offset + size > self.size:
                raise FormatRefusedError(f"section {index} reaches past the end of the file")
            text = names[name : names.find(b"\0", name)].decode("ascii", "replace")
            yield Section(text, name, kind, flags, addr, offset, size, *rest)

    def to_offset(self, address: int) -> int | None:
        """Return the file offset of an address, or None where no file byte lies behind it."""
        index = bisect.bisect_right(self._load_addresses, address) - 1
        if index < 0:
            return None
        load = self.loads[index]
        return address - load.vaddr + load.offset if address < load.vaddr + load.filesz else None

    def to_offsets(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the file offset of each address, or -1 where no file byte lies behind it."""
        wanted = addresses.astype(np.int64)
        index = np.searchsorted(np.array(self._load_addresses, np.int64), wanted, "right") - 1
        loads = np.array([(s.vaddr, s.offset, s.filesz) for s in self.loads], np.int64)
        if not len(loads):
            return np.full(len(wanted), -1, np.int64)
        start, offset, size = loads[index].T
        within = (index >= 0) & (wanted >= 0) & (wanted - start < size)
        return np.where(within, wanted - start + offset, -1)

    def to_address(self, offset: int) -> int | None:
        """Return the address at which a byte of the file is mapped, or None."""
        load = self.load_of(offset)
        return None if load is None else offset - load.offset + load.vaddr

    def load_of(self, offset: int) -> Segment | None:
        """Return the loadable segment that holds a byte of the file."""
        index = bisect.bisect_right(self._loads_in_file, offset, key=lambda s: s.offset) - 1
        if index < 0 or offset >= self._loads_in_file[index].file_end:
            return None
        return self._loads_in_file[index]

    def loads_from(self, address: int) -> Iterator[Segment]:
        """Yield the loadable segments that end after an address, in order of address."""
        index = bisect.bisect_right(self._load_addresses, address) - 1
        yield from self.loads[max(index, 0) :]

    def section_of(self, offset: int) -> Section | None:
        """Return the section that holds a byte of the file."""
        index = bisect.bisect_right(self._sections_in_file, offset, key=lambda s: s.offset) - 1
        if index < 0 or offset >= self._sections_in_file[index].file_end:
            return None
        return self._sections_in_file[index]

    @cached_property
    def _load_addresses(self) -> list[int]:
        return [load.vaddr for load in self.loads]

    @cached_property
    def _loads_in_file(self) -> list[Segment]:
        return sorted((load for load in self.loads if load.filesz), key=lambda s: s.offset)

    @cached_property
    def _sections_in_file(self) -> list[Section]:
        """Sections with bytes in the file, in order (of two at one offset the later one)."""
        present = (s for s in self.sections if s.type not in (0, SHT_NOBITS) and s.size)
        return sorted(present, key=lambda s: s.offset)

    @property
    def loaded_end(self) -> int:
        """File offset after the last byte that the loader maps."""
        return max((load.file_end for load in self.loads), default=0)

    @cached_property
    def dynamic_entries(self) -> tuple[tuple[int, int, int], ...]:
        """The dynamic table as (tag, value, file offset of the value), in its order."""
        entries: list[tuple[int, int, int]] = []
        for segment in self.segments:
            if segment.type != PT_DYNAMIC:
                continue
            for at in range(segment.offset, segment.file_end - 15, _DYNAMIC_ENTRY.size):
                tag, value = _DYNAMIC_ENTRY.unpack_from(self.data, at)
                if tag == 0:
                    break
                entries.append((tag, value, at + 8))
        return tuple(entries)

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """The dynamic table as tag → value (the last one where a tag repeats)."""
        return {tag: value for tag, value, _ in self.dynamic_entries}

    @cached_property
    def relocations(self) -> Relocations:
        """All relocations with addends (DT_RELA and DT_JMPREL).

        Raises:
            FormatRefusedError: The tables lie outside the file or are of another form (DT_REL).
        """
        if _DT["REL"] in self.dynamic or self.dynamic.get(_DT["PLTREL"], 7) != _DT["RELA"]:
            raise FormatRefusedError("relocations without addends are not known on x86-64")
        if self.dynamic.get(_DT["RELAENT"], _RELA_SIZE) != _RELA_SIZE:
            raise FormatRefusedError("relocation records are not 24 bytes")
        tables = [self._rela_table("RELA", "RELASZ"), self._rela_table("JMPREL", "PLTRELSZ")]
        rows = np.concatenate([row for row, _ in tables])
        return Relocations(
            where=rows[:, 0].copy(),
            kind=(rows[:, 1] & 0xFFFFFFFF).astype(np.uint32),
            symbol=(rows[:, 1] >> np.uint64(32)).astype(np.uint32),
            addend=rows[:, 2].copy(),
            record=np.concatenate([at for _, at in tables]),
            plt=len(tables[0][0]),
        )

    def _rela_table(
        self, address_tag: str, size_tag: str
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        size = self.dynamic.get(_DT[size_tag], 0)
        if not size:
            return np.empty((0, 3), np.uint64), np.empty(0, np.uint64)
        at = self.to_offset(self.dynamic.get(_DT[address_tag], 0))
        if at is None or size % _RELA_SIZE or at + size > self.size:
            raise FormatRefusedError("a relocation table lies outside the file")
        count = size // _RELA_SIZE
        flat = np.frombuffer(self.read(at, size), "<u8")
        return flat.reshape(-1, 3), at + np.arange(count, dtype=np.uint64) * np.uint64(_RELA_SIZE)

    @cached_property
    def written_addresses(self) -> npt.NDArray[np.uint64]:
        """Sorted start addresses of everything a relocation writes, RELR included."""
        return np.sort(np.concatenate([self.relocations.where, self.packed_addresses]))

    @cached_property
    def packed(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Addresses and addends of packed relative relocations (DT_RELR); both may be empty.

        Raises:
            FormatRefusedError: One writes where the file has no bytes.
        """
        where = np.sort(self.packed_addresses)
        at = self.to_offsets(where)
        if np.any(at < 0) or np.any(at + 8 > self.size):
            raise FormatRefusedError("a packed relocation writes outside the file")
        addends = np.zeros(len(at), np.uint64)
        for low, high in zip(*_runs(at), strict=True):
            start, end = int(at[low]), int(at[high - 1]) + 8
            run = np.frombuffer(self.read(start, end - start), np.uint8)
            index = (at[low:high] - start)[:, None] + np.arange(8)
            addends[low:high] = run[index].reshape(-1).view("<u8")
        return where, addends

    @cached_property
    def packed_addresses(self) -> npt.NDArray[np.uint64]:
        """Decode DT_RELR: an even word is an address, an odd one a bitmap of the 63 after it."""
        size = self.dynamic.get(_DT["RELRSZ"], 0)
        if not size:
            return np.empty(0, np.uint64)
        at = self.to_offset(self.dynamic.get(_DT["RELR"], 0))
        if at is None or size % 8 or at + size > self.size:
            raise FormatRefusedError("the RELR table lies outside the file")
        found: list[int] = []
        base = 0
        for (word,) in struct.iter_unpack("<Q", self.data[at : at + size]):
            if word & 1:
                found += [base + 8 * bit for bit in range(63) if word >> (bit + 1) & 1]
                base += 63 * 8
            else:
                found.append(word)
                base = word + 8
        return np.array(found, np.uint64)

    def exported_addresses(self) -> npt.NDArray[np.uint64]:
        """Addresses of all dynamic symbols (`.dynsym`), unsorted; undefined ones are 0."""
        for section in self.sections:
            if section.type == 11 and section.entsize == _SYMBOL_SIZE:  # SHT_DYNSYM
                count = section.size // _SYMBOL_SIZE
                raw = self.data[section.offset : section.offset + count * _SYMBOL_SIZE]
                return np.frombuffer(raw, "<u8").reshape(-1, 3)[:, 1].copy()
        return np.empty(0, np.uint64)

    def code_ranges(self) -> list[tuple[int, int, int]]:
        """Return (file offset, address, size) of all machine code.

        Executable sections where there is a section table; else whole executable segments.
        """
        sections = [
            (s.offset, self.to_address(s.offset), s.size)
            for s in self.sections
            if s.executable and s.alloc and s.type != SHT_NOBITS
        ]
        if sections:
            return [(at, address, size) for at, address, size in sections if address is not None]
        return [(s.offset, s.vaddr, s.filesz) for s in self.loads if s.flags & PF_X]


def _runs(at: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return where runs of offsets that lie near each other start and end, as indices."""
    if not len(at):
        return [], []
    cuts = (np.flatnonzero(np.abs(np.diff(at)) > PAGE) + 1).tolist()
    return [0, *cuts], [*cuts, len(at)]
