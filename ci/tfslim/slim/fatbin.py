"""The formats in which NVIDIA's tools pack GPU code: fatbin containers, wrappers, zstd cubins.

Parsing and writing of bytes, no policy and no files. The layouts are not published; they were read
from shipped libraries and are described, with what is proved and what is not, in docs/formats.md.
A structure is accepted only when a full walk accounts for every byte of it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, overload

import zstandard

from tfslim.slim.elf import FormatRefusedError

__all__ = [
    "CONTAINER_HEADER",
    "CONTAINER_MAGIC",
    "WRAPPER_MAGIC",
    "ZSTD_MAGIC",
    "Container",
    "Entry",
    "EntryHeader",
    "Kind",
    "cubin_sm",
    "framed_cubin_sm",
    "pack_container_header",
    "parse_container",
    "parse_wrapper_magic",
    "write_container",
    "zstd_frame_size",
]

CONTAINER_MAGIC: Final = struct.pack("<I", 0xBA55ED50)
WRAPPER_MAGIC: Final = struct.pack("<I", 0x466243B1)
ZSTD_MAGIC: Final = struct.pack("<I", 0xFD2FB528)

CONTAINER_HEADER: Final = struct.Struct("<IHHQ")
_ENTRY_HEADER: Final = struct.Struct("<HHIQIIHHIIIQQQ")
_WRAPPER_HEAD: Final = struct.Struct("<4sI")

_CONTAINER_VERSION: Final = 1
_ENTRY_VERSION: Final = 0x0101
_ENTRY_HEADER_MAX: Final = 4096
# More entries than architectures times kinds ever made; a longer walk is data, not a container.
_MAX_ENTRIES: Final = 1024

FLAG_DEBUG: Final = 0x2
FLAG_LZ4: Final = 0x2000
FLAG_ZSTD: Final = 0x8000
FLAG_LTO: Final = 0x10000
FLAG_ARCH_SPECIFIC: Final = 0x100000
FLAG_FAMILY: Final = 0x200000
FLAG_TWO_FORMS: Final = 0x1000000
_KNOWN_FLAGS: Final = (
    0x1  # 64-bit
    | FLAG_DEBUG
    | 0x10  # Linux
    | FLAG_LZ4
    | FLAG_ZSTD
    | FLAG_LTO
    | FLAG_ARCH_SPECIFIC
    | FLAG_FAMILY
    | FLAG_TWO_FORMS
)

_EM_CUDA: Final = 190
_ABI_OLD: Final = 0x33  # EI_OSABI of cubins up to the sm_90 generation's tools
_ABI_NEW: Final = 0x41

_ZSTD_BLOCK_MAX: Final = 128 * 1024
# Largest window and largest cubin that are believed: the largest seen is under 8 MB.
_ZSTD_WINDOW_MAX: Final = 128 << 20
_CUBIN_MAX: Final = 256 << 20
_CHUNK: Final = 1 << 20


class Buffer(Protocol):
    """What is read from: bytes, a memory map, anything sliced into bytes."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...


class Kind(enum.IntEnum):
    """What an entry holds."""

    PTX = 1
    CUBIN = 2
    LTO = 8

    @property
    def label(self) -> str:
        """The name that people use."""
        return {Kind.PTX: "PTX", Kind.CUBIN: "cubin", Kind.LTO: "LTO-IR"}[self]


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of GPU code in a container.

    Attributes:
        offset: File offset of the entry's header.
        size: Bytes of header and padded payload together.
        kind: Cubin, PTX or LTO-IR.
        sm: Compute capability it is for, as NVIDIA writes it (90 for 9.0).
        flags: The entry's flag word.
        header: Bytes of the header alone.
    """

    offset: int
    size: int
    kind: Kind
    sm: int
    flags: int
    header: int

    @property
    def specific(self) -> bool:
        """True for code of exactly one architecture ("sm_90a")."""
        return bool(self.flags & FLAG_ARCH_SPECIFIC)

    @property
    def family(self) -> bool:
        """True for code of one family of architectures ("sm_100f")."""
        return bool(self.flags & FLAG_FAMILY)

    @property
    def end(self) -> int:
        """File offset just after the entry."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Container:
    """A fatbin container: a header and entries back to back.

    Attributes:
        offset: File offset of the header.
        header: Bytes of the header (16).
        size: Bytes of the whole container.
        entries: What it holds, in file order.
    """

    offset: int
    header: int
    size: int
    entries: tuple[Entry, ...]

    @property
    def end(self) -> int:
        """File offset just after the container."""
        return self.offset + self.size


class EntryHeader(NamedTuple):
    """The fixed part of an entry's header, field by field; sizes in bytes.

    Attributes:
        kind: See `Kind`.
        version: Always 0x0101.
        header: Size of the whole header.
        payload: Size of what follows, padding included.
        packed: Size of the payload without padding; 0 where it is not compressed.
        extra: Offset of the compiler's options in the header.
        minor, major: Version of the code's own format.
        sm: Compute capability.
        name_at, name_size: Where the header holds the source's name.
        flags: See the FLAG_ constants.
        unknown: Always 0 in what was seen.
        expanded: Size of the payload when it is expanded.
    """

    kind: int
    version: int
    header: int
    payload: int
    packed: int
    extra: int
    minor: int
    major: int
    sm: int
    name_at: int
    name_size: int
    flags: int
    unknown: int
    expanded: int

    @staticmethod
    def size() -> int:
        """Bytes of the fixed part."""
        return _ENTRY_HEADER.size

    @classmethod
    def read(cls, data: Buffer, offset: int) -> EntryHeader:
        """Read the header at an offset, unchecked."""
        return cls(*_ENTRY_HEADER.unpack(data[offset : offset + _ENTRY_HEADER.size]))

    def pack(self) -> bytes:
        """Return its bytes."""
        return _ENTRY_HEADER.pack(*self)


def parse_container(data: Buffer, offset: int, limit: int) -> Container:
    """Read the container at an offset, walking every entry to the container's exact end.

    Args:
        data: The file.
        offset: Where the magic stands.
        limit: Offset that the container must not pass.

    Raises:
        FormatRefusedError: Any field is unknown or contradicts another.
    """
    if offset % 8:
        raise FormatRefusedError("a container is 8-aligned")
    if offset + CONTAINER_HEADER.size > limit:
        raise FormatRefusedError("the container's header is cut off")
    magic, version, header, payload = CONTAINER_HEADER.unpack(
        data[offset : offset + CONTAINER_HEADER.size]
    )
    if struct.pack("<I", magic) != CONTAINER_MAGIC:
        raise FormatRefusedError("no container magic")
    if version != _CONTAINER_VERSION or header != CONTAINER_HEADER.size:
        raise FormatRefusedError(f"container version {version} with a header of {header} bytes")
    end = offset + header + payload
    if end > limit:
        raise FormatRefusedError(f"container of {payload} bytes reaches past its region")
    entries: list[Entry] = []
    at = offset + header
    while at < end:
        entries.append(_parse_entry(data, at, end))
        at = entries[-1].end
        if len(entries) > _MAX_ENTRIES:
            raise FormatRefusedError(f"more than {_MAX_ENTRIES} entries")
    return Container(offset, header, header + payload, tuple(entries))


def _parse_entry(data: Buffer, at: int, end: int) -> Entry:
    if at + _ENTRY_HEADER.size > end:
        raise FormatRefusedError("an entry's header is cut off")
    head = EntryHeader.read(data, at)
    header, payload, packed, flags = head.header, head.payload, head.packed, head.flags
    if head.version != _ENTRY_VERSION:
        raise FormatRefusedError(f"entry version {head.version:#x}")
    if head.kind not in Kind.__members__.values():
        raise FormatRefusedError(f"entry kind {head.kind}")
    if header < _ENTRY_HEADER.size or header > _ENTRY_HEADER_MAX or header % 8 or payload % 8:
        raise FormatRefusedError(f"entry header of {header}, payload of {payload} bytes")
    if at + header + payload > end:
        raise FormatRefusedError("an entry reaches past its container")
    if packed > payload or (head.name_size and head.name_at + head.name_size > header):
        raise FormatRefusedError("an entry's lengths contradict each other")
    _check_flags(flags, head.sm, packed=packed)
    return Entry(at, header + payload, Kind(head.kind), head.sm, flags, header)


def _check_flags(flags: int, sm: int, *, packed: int) -> None:
    if flags & ~_KNOWN_FLAGS:
        raise FormatRefusedError(f"entry flags {flags:#x}")
    if flags & FLAG_LZ4 and flags & FLAG_ZSTD:
        raise FormatRefusedError("an entry says both LZ4 and zstd")
    if flags & FLAG_ARCH_SPECIFIC and flags & FLAG_FAMILY:
        raise FormatRefusedError("an entry says both architecture and family specific")
    if bool(packed) != bool(flags & (FLAG_LZ4 | FLAG_ZSTD)):
        raise FormatRefusedError("an entry's compressed size contradicts its flags")
    if not 10 <= sm <= 999:
        raise FormatRefusedError(f"entry for sm_{sm}")


def pack_container_header(payload: int) -> bytes:
    """Return the 16 bytes before entries of `payload` bytes in all."""
    magic = struct.unpack("<I", CONTAINER_MAGIC)[0]
    return CONTAINER_HEADER.pack(magic, _CONTAINER_VERSION, CONTAINER_HEADER.size, payload)


def write_container(data: Buffer, entries: Iterable[Entry]) -> bytes:
    """Return a container holding the given entries of `data`, each byte for byte."""
    body = b"".join(data[entry.offset : entry.end] for entry in entries)
    return pack_container_header(len(body)) + body


def parse_wrapper_magic(data: Buffer, offset: int) -> int | None:
    """Return the version (1 or 2) of the wrapper at an offset, or None where there is none.

    A wrapper is `{u32 magic, u32 version, u64 container, u64 second}`; what the CUDA runtime is
    given to register. Its pointers are filled in by relocations.
    """
    if offset < 0 or offset + 24 > len(data):
        return None
    magic, version = _WRAPPER_HEAD.unpack(data[offset : offset + 8])
    return version if magic == WRAPPER_MAGIC and version in (1, 2) else None


def zstd_frame_size(data: Buffer, offset: int, limit: int) -> int:
    """Return the bytes of the zstd frame at an offset by walking its block headers (RFC 8878).

    Raises:
        FormatRefusedError: It is not a whole frame, or asks for more memory than is believed.
    """
    head = data[offset : min(offset + 18, limit)]
    try:
        parameters = zstandard.get_frame_parameters(head)
        at = offset + zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise FormatRefusedError(f"zstd: {error}") from None
    if parameters.window_size > _ZSTD_WINDOW_MAX or parameters.dict_id:
        raise FormatRefusedError("a zstd frame with an unbelievable window or a dictionary")
    last = False
    while not last:
        if at + 3 > limit:
            raise FormatRefusedError("a zstd frame is cut off")
        word = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        if kind == 3 or size > _ZSTD_BLOCK_MAX:
            raise FormatRefusedError("a zstd block of an unknown type or size")
        at += 3 + (1 if kind == 1 else size)
    at += 4 if parameters.has_checksum else 0
    if at > limit:
        raise FormatRefusedError("a zstd frame is cut off")
    return at - offset


def framed_cubin_sm(frame: bytes) -> int:
    """Return the architecture of the cubin in a whole zstd frame, decompressing it to its end.

    Memory stays bounded (output is taken in 1 MB pieces and dropped).

    Raises:
        FormatRefusedError: The frame is damaged, too large, or holds something else.
    """
    expanded = 0
    sm = 0
    source = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).stream_reader(frame)
    try:
        while chunk := source.read(_CHUNK):
            sm = sm or cubin_sm(chunk)
            expanded += len(chunk)
            if expanded > _CUBIN_MAX:
                raise FormatRefusedError("a zstd frame expands to more than 256 MB")
    except zstandard.ZstdError as error:
        raise FormatRefusedError(f"zstd: {error}") from None
    if not sm or expanded != zstandard.get_frame_parameters(frame).content_size:
        raise FormatRefusedError("a zstd frame whose content is not the cubin it announces")
    return sm


def cubin_sm(head: bytes) -> int:
    """Return the compute capability from the first bytes of a cubin (an ELF for EM_CUDA).

    Raises:
        FormatRefusedError: It is not a cubin of a known ABI.
    """
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        raise FormatRefusedError("not an ELF")
    machine = int.from_bytes(head[18:20], "little")
    flags = int.from_bytes(head[48:52], "little")
    if machine != _EM_CUDA:
        raise FormatRefusedError("an ELF that is not a cubin")
    if head[7] == _ABI_OLD:
        return flags & 0xFF
    if head[7] == _ABI_NEW:
        return flags >> 8 & 0xFF
    raise FormatRefusedError(f"a cubin of ABI {head[7]}")
