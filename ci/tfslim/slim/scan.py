"""Find GPU code in a file wherever it lies, and say how it is addressed. Reads only.

Not by section name: every container magic and every zstd magic in data is tried, and counts only
when a full walk accounts for all of it. What carries a magic but is not understood is reported as
unexplained and never touched.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tfslim.slim import fatbin
from tfslim.slim.elf import R_X86_64_RELATIVE, SHT_NOBITS, Elf, FormatRefusedError
from tfslim.slim.fatbin import Container

__all__ = [
    "FRAME_KIND",
    "FileScan",
    "Found",
    "Frame",
    "Unexplained",
    "code_references",
    "is_elf",
    "scan_elf",
    "scan_file",
]

FRAME_KIND: Final = "cubin (bare zstd)"

# Sections that hold nothing but containers; used for one thing only: to count what is left over.
_PURE_SECTIONS: Final = (".nv_fatbin", "__nv_relfatbin")
_WINDOW: Final = 64 << 20
_CODE_WINDOW: Final = 1 << 20
_MODRM_MASK: Final = 0xC7
_MODRM_RIP: Final = 0x05
# Opcodes by which compilers take an address or read what lies there, and the bytes of immediate
# that follow the displacement: lea, mov, movsxd, cmp, test, push and call through memory, and the
# last byte of movzx, movsx, movups, movaps, movdqu, movq and their VEX forms.
_NO_IMMEDIATE: Final = bytes.fromhex("8d8b8a63 3b3a3938 8584ff 1028 6f7e b6b7bebf")
_IMMEDIATE_1: Final = bytes.fromhex("8083f6")
_IMMEDIATE_4: Final = bytes.fromhex("81f7")


@dataclass(frozen=True, slots=True)
class Found:
    """A container and how the program reaches it.

    Attributes:
        container: What was parsed.
        region: Name of the section it lies in.
        wrapped: A wrapper leads to it, so the CUDA runtime hands it to the driver.
        movable: Wrappers are all that leads to it; it may lie elsewhere if they are told.
    """

    container: Container
    region: str
    wrapped: bool
    movable: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """A bare zstd frame holding one cubin, outside any container. Offsets and sizes in bytes."""

    offset: int
    size: int
    sm: int
    region: str

    @property
    def end(self) -> int:
        """File offset just after the frame."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Unexplained:
    """Bytes that look like GPU code but are not understood; they stay as they are."""

    offset: int
    size: int
    region: str
    why: str


@dataclass(frozen=True)
class FileScan:
    """What GPU code a file holds.

    Attributes:
        path: The file.
        size: Its bytes.
        found: Containers in file order.
        frames: Bare zstd cubins in file order.
        unexplained: What was left out, and why.
        problem: Why the file could not be read as ELF; empty when it could.
    """

    path: Path
    size: int
    found: tuple[Found, ...] = ()
    frames: tuple[Frame, ...] = ()
    unexplained: tuple[Unexplained, ...] = ()
    problem: str = ""

    @property
    def has_gpu_code(self) -> bool:
        """True when there is any GPU code that is understood."""
        return bool(self.found or self.frames)

    @property
    def unexplained_bytes(self) -> int:
        """Bytes that look like GPU code but are not understood."""
        return sum(item.size for item in self.unexplained)

    @cached_property
    def bytes_by(self) -> Counter[tuple[str, int, str]]:
        """Bytes by (kind, architecture, region): ("cubin", 90, ".nv_fatbin") → n."""
        total: Counter[tuple[str, int, str]] = Counter()
        for found in self.found:
            for entry in found.container.entries:
                total[entry.kind.label, entry.sm, found.region] += entry.size
        for frame in self.frames:
            total[FRAME_KIND, frame.sm, frame.region] += frame.size
        return total


@dataclass(frozen=True, slots=True)
class _Region:
    name: str
    start: int
    end: int


@dataclass
class _References:
    """Which addresses inside GPU code are pointed at, and from where."""

    wrapped: set[int]
    other: set[int]
    into: npt.NDArray[np.int64]
    written: npt.NDArray[np.uint64]


def is_elf(path: Path) -> bool:
    """Return True when a file starts with the ELF magic."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def scan_file(path: Path) -> FileScan:
    """Scan one file; a file that is not a readable ELF comes back with `problem` set.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        with Elf(path) as elf:
            return scan_elf(elf)
    except FormatRefusedError as refusal:
        return FileScan(path, path.stat().st_size, problem=str(refusal))


def scan_elf(elf: Elf) -> FileScan:
    """Scan an opened file.

    Raises:
        FormatRefusedError: Its relocations cannot be read, so nothing can be known about pointers.
    """
    regions = _data_regions(elf)
    containers: list[tuple[Container, _Region]] = []
    unexplained: list[Unexplained] = []
    for region in regions:
        for item in _containers(elf, region):
            if isinstance(item, Unexplained):
                unexplained.append(item)
            else:
                containers.append((item, region))
    frames = tuple(_frames(elf, regions, [c for c, _ in containers]))
    if not containers and not frames:
        return FileScan(elf.path, elf.size, unexplained=tuple(unexplained))
    found, refused, frames = _addressed(elf, containers, frames)
    unexplained += refused
    unexplained += _leftovers(elf, regions, [c for c, _ in containers])
    return FileScan(elf.path, elf.size, found, frames, tuple(unexplained))


def _data_regions(elf: Elf) -> list[_Region]:
    """Loaded sections that are data; whole segments where there is no section table."""
    if not elf.sections:
        return [
            _Region(f"segment {index}", load.offset, load.file_end)
            for index, load in enumerate(elf.loads)
        ]
    regions = [
        _Region(s.name, s.offset, s.file_end)
        for s in elf.sections
        if s.alloc and not s.executable and s.type != SHT_NOBITS and s.size
    ]
    return sorted(regions, key=lambda region: region.start)


def _occurrences(elf: Elf, magic: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the offsets of a magic, letting go of the pages of each window that is done."""
    for low in range(start, end, _WINDOW):
        high = min(low + _WINDOW, end)
        at = low
        while (hit := elf.data.find(magic, at, min(high + len(magic) - 1, end))) >= 0:
            yield hit
            at = hit + 1
        elf.release(low, high)


def _containers(elf: Elf, region: _Region) -> Iterator[Container | Unexplained]:
    """Yield the containers of a region in order, and what carries their magic but is none."""
    done = region.start
    for hit in _occurrences(elf, fatbin.CONTAINER_MAGIC, region.start, region.end):
        if hit < done:
            continue
        try:
            container = fatbin.parse_container(elf.data, hit, region.end)
        except FormatRefusedError as refusal:
            if hit % 8 == 0:
                yield Unexplained(hit, _claimed(elf, hit, region.end), region.name, str(refusal))
            continue
        done = container.end
        yield container


def _claimed(elf: Elf, at: int, end: int) -> int:
    """Bytes that a refused container claims, cut to what is left of its region."""
    head = elf.data[at : at + fatbin.CONTAINER_HEADER.size]
    if len(head) < fatbin.CONTAINER_HEADER.size:
        return len(head)
    _, _, header, payload = fatbin.CONTAINER_HEADER.unpack(head)
    return int(min(header + payload, end - at))


def _frames(
    elf: Elf, regions: Sequence[_Region], containers: Sequence[Container]
) -> Iterator[Frame]:
    """Yield bare zstd cubins between the containers."""
    for region in regions:
        for start, end in _gaps(region.start, region.end, containers):
            yield from _frames_between(elf, region, start, end)


def _frames_between(elf: Elf, region: _Region, start: int, end: int) -> Iterator[Frame]:
    done = start
    for hit in _occurrences(elf, fatbin.ZSTD_MAGIC, start, end):
        if hit < done:
            continue
        try:
            size = fatbin.zstd_frame_size(elf.data, hit, end)
            sm = fatbin.framed_cubin_sm(elf.read(hit, size))
        except FormatRefusedError:
            continue
        done = hit + size
        yield Frame(hit, size, sm, region.name)


def _gaps(start: int, end: int, containers: Sequence[Container]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a region that no container covers (containers in file order)."""
    first = bisect.bisect_left(containers, start, key=lambda c: c.offset)
    for container in containers[first:]:
        if container.offset >= end:
            break
        if container.offset > start:
            yield start, container.offset
        start = container.end
    if start < end:
        yield start, end


def _addressed(
    elf: Elf, containers: Sequence[tuple[Container, _Region]], frames: Sequence[Frame]
) -> tuple[tuple[Found, ...], list[Unexplained], tuple[Frame, ...]]:
    """Say for each container how it is reached; refuse those whose inside is pointed at."""
    starts = {c.offset: elf.to_address(c.offset) or 0 for c, _ in containers}
    references = _references(elf, sorted(starts.values()))
    found: list[Found] = []
    refused: list[Unexplained] = []
    for container, region in containers:
        address = starts[container.offset]
        if why := _entangled(references, address, container.size):
            refused.append(Unexplained(container.offset, container.size, region.name, why))
            continue
        wrapped = address in references.wrapped
        movable = wrapped and address not in references.other
        found.append(Found(container, region.name, wrapped, movable))
    clear = tuple(
        f for f in frames if not _entangled(references, elf.to_address(f.offset) or 0, f.size)
    )
    return tuple(found), refused, clear


def _entangled(references: _References, address: int, size: int) -> str:
    """Return why code at an address may not be edited: something reaches into its middle."""
    low, high = np.searchsorted(references.into, [address + 1, address + size])
    if low != high:
        return "a relocation points into the middle of it"
    low, high = np.searchsorted(
        references.written, np.array([max(address - 7, 0), address + size], np.uint64)
    )
    return "a relocation writes into it" if low != high else ""


def _references(elf: Elf, starts: list[int]) -> _References:
    relocations = elf.relocations
    relative = relocations.kind == R_X86_64_RELATIVE
    packed_where, packed_addends = elf.packed
    addends = np.concatenate([relocations.addend[relative], packed_addends]).astype(np.int64)
    where = np.concatenate([relocations.where[relative], packed_where])
    hits = np.isin(addends, np.array(starts, np.int64))
    wrapped: set[int] = set()
    other: set[int] = set()
    for slot, target in zip(where[hits].tolist(), addends[hits].tolist(), strict=True):
        (wrapped if _is_wrapper_slot(elf, slot) else other).add(target)
    # What a packed relocation leads to stays where it is: only records are led elsewhere.
    other |= wrapped & set(packed_addends.astype(np.int64).tolist())
    other |= code_references(elf, sorted(wrapped - other))
    exported = elf.exported_addresses().astype(np.int64)
    other |= set(exported.tolist()) & wrapped
    into = np.sort(np.concatenate([addends, exported]))
    return _References(wrapped, other, into, elf.written_addresses)


def _is_wrapper_slot(elf: Elf, slot: int) -> bool:
    """True when an address is a pointer of a wrapper: its container, or its second pointer."""
    at = elf.to_offset(slot)
    if at is None:
        return False
    return bool(
        fatbin.parse_wrapper_magic(elf.data, at - 8)
        or fatbin.parse_wrapper_magic(elf.data, at - 16) == 2
    )


def code_references(elf: Elf, targets: Sequence[int]) -> set[int]:
    """Return those target addresses that machine code could compute relative to itself.

    A RIP-relative operand is a ModRM byte with mod 00 and r/m 101, then 4 bytes of displacement
    (Intel SDM 2A, 2.2.1.6). Instruction boundaries are not known, so every place where an opcode
    that takes or reads an address stands before such a byte counts; a chance hit only makes a
    container stay where it is.
    """
    if not targets:
        return set()
    found: set[int] = set()
    wanted = np.array(targets, np.int64)
    for offset, address, size in elf.code_ranges():
        for at in range(0, size, _CODE_WINDOW):
            length = min(_CODE_WINDOW + 5, size - at)
            found |= _references_in(elf, offset + at, address + at, length, wanted)
    return found


def _references_in(
    elf: Elf, offset: int, address: int, length: int, wanted: npt.NDArray[np.int64]
) -> set[int]:
    """Return the wanted addresses that a displacement in one window of code may lead to."""
    raw = np.frombuffer(elf.read(offset, length), np.uint8)
    at = np.flatnonzero((raw[:-4] & _MODRM_MASK) == _MODRM_RIP) + 1
    at = at[at >= 2]
    immediate = _immediates()[raw[at - 2]]
    at, immediate = at[immediate >= 0], immediate[immediate >= 0]
    displacement = raw[at].astype(np.uint32)
    for byte in (1, 2, 3):
        displacement |= raw[at + byte].astype(np.uint32) << np.uint32(8 * byte)
    reached = displacement.view(np.int32).astype(np.int64) + at + immediate + (address + 4)
    return set(reached[np.isin(reached, wanted)].tolist())


@cache
def _immediates() -> npt.NDArray[np.int64]:
    """Return opcode → bytes of immediate; -1 for opcodes that do not count."""
    table = np.full(256, -1, np.int64)
    table[list(_NO_IMMEDIATE)], table[list(_IMMEDIATE_1)], table[list(_IMMEDIATE_4)] = 0, 1, 4
    return table


def _leftovers(
    elf: Elf, regions: Sequence[_Region], containers: Sequence[Container]
) -> Iterator[Unexplained]:
    """Yield what sections made for containers hold besides containers and zero padding."""
    for region in regions:
        if region.name not in _PURE_SECTIONS:
            continue
        for start, end in _gaps(region.start, region.end, containers):
            if not elf.is_zero(start, end):
                yield Unexplained(start, end - start, region.name, "not a container")
