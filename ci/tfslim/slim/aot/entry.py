"""Pack a cubin as an entry of a fatbin container, as NVIDIA's `fatbinary` does. Pure.

What stands in the header was read from entries that `fatbinary` (CUDA 12.9 and 13) made and that
NVIDIA's libraries ship; the slow tests make both and compare them byte for byte (docs/formats.md).
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import lz4.block  # type: ignore[import-untyped]

from tfslim.slim import fatbin
from tfslim.slim.cuts import NewCode
from tfslim.slim.elf import FormatRefusedError
from tfslim.slim.fatbin import EntryHeader, Kind

__all__ = ["entry_of", "pack_entry"]

_VERSION: Final = 0x0101
_FORMAT_MAJOR: Final = 1
_LINUX_64: Final = 0x11
_EI_OSABI: Final = 7
_EI_ABIVERSION: Final = 8
_E_FLAGS: Final = 48
_ABI_NEW: Final = 0x41
_TWO_FORMS: Final = 0x2
_COMPAT: Final = b".nv.compat"
_SUFFIX_FLAGS: Final = {"": 0, "a": fatbin.FLAG_ARCH_SPECIFIC, "f": fatbin.FLAG_FAMILY}


def _flags(cubin: bytes, suffix: str) -> int:
    """Return an entry's flags, but for compression."""
    newer = fatbin.FLAG_TWO_FORMS if _in_two_forms(cubin) else 0
    return _LINUX_64 | newer | _SUFFIX_FLAGS[suffix]


def _in_two_forms(cubin: bytes) -> bool:
    """True for code that is there in a second form (`.nv.capmerc`), as for sm_100 and up."""
    flags = int.from_bytes(cubin[_E_FLAGS : _E_FLAGS + 4], "little")
    return cubin[_EI_OSABI] == _ABI_NEW and bool(flags & _TWO_FORMS)


def pack_entry(cubin: bytes, sm: int, suffix: str, packed: Literal["none", "lz4"]) -> bytes:
    """Return the entry of a cubin: header, payload, padding.

    Args:
        cubin: What `ptxas` wrote.
        sm: The architecture it is for, as in 90.
        suffix: "a" or "f" where it is for that one or its family alone.
        packed: "lz4": stored as one LZ4 block.

    Raises:
        FormatRefusedError: It is not a cubin for this architecture.
    """
    if fatbin.cubin_sm(cubin) != sm:
        raise FormatRefusedError(f"the compiled code is not for sm_{sm}")
    options = _options(cubin)
    lz4_wanted = packed == "lz4"
    body = _lz4(cubin) if lz4_wanted else cubin
    padded = body + bytes(-len(body) % 8)
    header = EntryHeader(
        kind=Kind.CUBIN,
        version=_VERSION,
        header=EntryHeader.size() + len(options),
        payload=len(padded),
        packed=len(body) if lz4_wanted else 0,
        extra=EntryHeader.size() if options else 0,
        minor=cubin[_EI_ABIVERSION],
        major=_FORMAT_MAJOR,
        sm=sm,
        name_at=0,
        name_size=0,
        flags=_flags(cubin, suffix) | (fatbin.FLAG_LZ4 if lz4_wanted else 0),
        unknown=0,
        expanded=len(cubin) if lz4_wanted else 0,
    )
    return header.pack() + options + padded


def _lz4(plain: bytes) -> bytes:
    return bytes(lz4.block.compress(plain, mode="high_compression", store_size=False))


def entry_of(cubin: bytes, new: NewCode) -> bytes:
    """Return the entry of a cubin as a plan has it.

    Raises:
        FormatRefusedError: It does not come out as the plan says.
    """
    entry = pack_entry(cubin, new.sm, new.suffix, new.packed)
    if len(entry) != new.size:
        raise FormatRefusedError("compiled code has another size than the plan says")
    return entry


def _options(cubin: bytes) -> bytes:
    """Return what follows the fixed header: for code in two forms, what it is compatible with.

    An offset, the length of what follows an empty string, the string, and the cubin's section
    `.nv.compat`, padded to 8.
    """
    compat = _section(cubin, _COMPAT) if _in_two_forms(cubin) else b""
    if not compat:
        return b""
    head = struct.pack("<II", EntryHeader.size() + 8, len(compat)) + b"\0" + compat
    return head + bytes(-len(head) % 8)


def _section(elf: bytes, name: bytes) -> bytes:
    """Return the bytes of a section of a 64-bit ELF; none where it has no such section."""
    try:
        (table,) = struct.unpack_from("<Q", elf, 0x28)
        count, names = struct.unpack_from("<HH", elf, 0x3C)
        rows = [struct.unpack_from("<IIQQQQ", elf, table + 64 * index) for index in range(count)]
        strings = rows[names][4]
    except (struct.error, IndexError):
        raise FormatRefusedError("a cubin's section table cannot be read") from None
    for row in rows:
        start = strings + row[0]
        if elf[start : start + len(name) + 1] == name + b"\0":
            return elf[row[4] : row[4] + row[5]]
    return b""
