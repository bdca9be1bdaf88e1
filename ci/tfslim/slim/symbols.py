"""Read what a library offers to others and asks of them: its dynamic symbols. Nothing here writes.

Everything is found through the dynamic table, as the loader finds it; section headers, which may be
missing, are not asked. The structures are those of the System V gABI, of the GNU symbol versions
(Linux Standard Base, "Symbol Versioning") and of the GNU hash table as glibc's `dl-lookup.c` and
`setup_hash` read it.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tfslim.slim.elf import Elf, FormatRefusedError

__all__ = [
    "DT",
    "HASH_HEADER",
    "SYMBOL",
    "GnuHash",
    "Need",
    "NeededVersion",
    "Symbols",
    "defined_versions",
    "elf_hash",
    "gnu_hashes",
    "read_gnu_hash",
    "read_needs",
    "read_symbols",
    "version_strings",
]

# Tags of the dynamic table that say where names are, or hold a name.
DT: Final = {
    "NEEDED": 1,
    "PLTRELSZ": 2,
    "HASH": 4,
    "STRTAB": 5,
    "SYMTAB": 6,
    "RELA": 7,
    "RELASZ": 8,
    "STRSZ": 10,
    "SYMENT": 11,
    "SONAME": 14,
    "RPATH": 15,
    "TEXTREL": 22,
    "JMPREL": 23,
    "RUNPATH": 29,
    "RELRSZ": 35,
    "RELR": 36,
    "RELRENT": 37,
    "GNU_HASH": 0x6FFFFEF5,
    "VERSYM": 0x6FFFFFF0,
    "RELACOUNT": 0x6FFFFFF9,
    "VERDEF": 0x6FFFFFFC,
    "VERDEFNUM": 0x6FFFFFFD,
    "VERNEED": 0x6FFFFFFE,
    "VERNEEDNUM": 0x6FFFFFFF,
}

# A row of the symbol table: name (offset of a string), type and binding, visibility, section, …
SYMBOL: Final = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)

HASH_HEADER: Final = struct.Struct("<4I")
_VERNEED: Final = struct.Struct("<HHIII")
_VERNAUX: Final = struct.Struct("<IHHII")
_VERDEF: Final = struct.Struct("<HHHHIII")
_VERDAUX: Final = struct.Struct("<II")
# More than any library has; a count beyond is a lie (rows).
_MAX_SYMBOLS: Final = 1 << 24
_MAX_VERSIONS: Final = 1 << 16
# Symbols in one bucket; linkers make few enough buckets for a handful each.
_MAX_CHAIN: Final = 1 << 16


class NeededVersion(NamedTuple):
    """A version that a library needs of another one.

    Attributes:
        hash: Of its name.
        flags: 2 for weak.
        number: By which symbols name it.
        name: Offset of its name in the string table.
    """

    hash: int
    flags: int
    number: int
    name: int


@dataclass(frozen=True)
class Need:
    """The versions that a library needs of one other.

    Attributes:
        at: File offset of the record.
        name: Offset of the other's name in the string table.
        file: That name.
        versions: In their order.
        end: File offset after the last byte of the record and its versions.
    """

    at: int
    name: int
    file: bytes
    versions: tuple[NeededVersion, ...]
    end: int

    @property
    def size(self) -> int:
        """Bytes that the record takes up with its versions."""
        return _VERNEED.size + len(self.versions) * _VERNAUX.size

    def with_version(self, version: NeededVersion) -> Need:
        """Return the same with one version more."""
        return replace(self, versions=(*self.versions, version))


@dataclass(frozen=True)
class Symbols:
    """The dynamic symbols of a file.

    Attributes:
        entries: The symbol table, of dtype `SYMBOL`.
        strings: The string table that names are offsets into.
    """

    entries: npt.NDArray[np.void]
    strings: bytes

    def string(self, offset: int) -> bytes:
        """Return the string at an offset.

        Raises:
            FormatRefusedError: It does not end within the table.
        """
        end = self.strings.find(b"\0", offset)
        if end < 0:
            raise FormatRefusedError("a name does not end within the string table")
        return self.strings[offset:end]

    def names(self, indices: npt.NDArray[np.intp] | None = None) -> list[bytes]:
        """Return the names of symbols, of all without indices.

        Raises:
            FormatRefusedError: One does not end within the string table.
        """
        starts = self.entries["name"] if indices is None else self.entries["name"][indices]
        strings, offsets = self.strings, starts.tolist()
        ends = [strings.find(b"\0", offset) for offset in offsets]
        if min(ends, default=0) < 0:
            raise FormatRefusedError("a name does not end within the string table")
        return [strings[offset:end] for offset, end in zip(offsets, ends, strict=True)]


@dataclass(frozen=True)
class GnuHash:
    """The table by which the loader finds a name.

    Attributes:
        first: Index of the first symbol that can be found; those before are not in the table.
        bloom: Filter of names that are certainly not here.
        shift: Bits between the two hashes that the filter uses.
        buckets: For each bucket the index of its first symbol; 0 for none.
        chains: Hashes of the symbols from `first` on; an odd one ends its bucket.
        size: Bytes of the whole table.
    """

    first: int
    bloom: npt.NDArray[np.uint64]
    shift: int
    buckets: npt.NDArray[np.uint32]
    chains: npt.NDArray[np.uint32]
    size: int


def gnu_hashes(names: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """Return the hashes that a GNU hash table has of names.

    Read byte by byte, each hash is 33 times the one before plus the byte, from 5381, modulo 2³²:
    a sum of bytes, each by a power of 33 that only its distance from the end decides.
    """
    if not names:
        return np.empty(0, np.uint64)
    sizes = np.array([len(name) for name in names])
    powers = np.array([pow(33, n, 1 << 32) for n in range(int(sizes.max()) + 1)], np.uint64)
    text = np.frombuffer(b"\0".join([*names, b""]), np.uint8)
    starts = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])
    left = np.repeat(starts + sizes, sizes + 1) - np.arange(len(text)) - 1  # -1 after the last one
    sums = np.add.reduceat(text * powers[left], starts)
    hashes: npt.NDArray[np.uint64] = sums + np.uint64(5381) * powers[sizes]
    return hashes & np.uint64(0xFFFFFFFF)


def read_symbols(elf: Elf) -> Symbols | None:
    """Return the dynamic symbols, or None where a file has none.

    Raises:
        FormatRefusedError: The tables lie outside the file.
    """
    if DT["SYMTAB"] not in elf.dynamic:
        return None
    count = _count(elf)
    rows = _table(elf, elf.dynamic[DT["SYMTAB"]], count * SYMBOL.itemsize, "symbol table")
    strings = elf.dynamic.get(DT["STRTAB"], 0), elf.dynamic.get(DT["STRSZ"], 0)
    return Symbols(np.frombuffer(rows, SYMBOL), _table(elf, *strings, "string table"))


def _count(elf: Elf) -> int:
    """Return how many symbols there are, which no tag says.

    The loader reaches a symbol in two ways only: by a hash table or from a relocation.
    """
    counts = [int(elf.relocations.symbol.max()) + 1 if len(elf.relocations.symbol) else 1]
    if DT["HASH"] in elf.dynamic:
        counts.append(struct.unpack("<II", _table(elf, elf.dynamic[DT["HASH"]], 8, "hash"))[1])
    table = read_gnu_hash(elf)
    if table is not None:
        counts.append(table.first + len(table.chains))
    if max(counts) > _MAX_SYMBOLS:
        raise FormatRefusedError(f"{max(counts)} symbols are not believed")
    return max(counts)


def read_gnu_hash(elf: Elf) -> GnuHash | None:
    """Return the GNU hash table, or None where a file has none.

    Raises:
        FormatRefusedError: It lies outside the file, or a bucket has no end.
    """
    if DT["GNU_HASH"] not in elf.dynamic:
        return None
    start = elf.dynamic[DT["GNU_HASH"]]
    head = _table(elf, start, HASH_HEADER.size, "hash table")
    buckets, first, words, shift = HASH_HEADER.unpack(head)
    if not words or words & (words - 1) or max(buckets, words) > _MAX_SYMBOLS:
        raise FormatRefusedError("the hash table's sizes are not believed")
    middle = start + HASH_HEADER.size
    bloom = np.frombuffer(_table(elf, middle, 8 * words, "hash table"), "<u8")
    middle += 8 * words
    heads = np.frombuffer(_table(elf, middle, 4 * buckets, "hash table"), "<u4")
    middle += 4 * buckets
    chains = _chains(elf, middle, int(heads.max()) - first if buckets else -1)
    return GnuHash(first, bloom, shift, heads, chains, middle + 4 * len(chains) - start)


def _chains(elf: Elf, address: int, last: int) -> npt.NDArray[np.uint32]:
    """Return the chains; `last` is where the last bucket starts in them, negative for none."""
    if last < 0:
        return np.empty(0, np.uint32)
    start = address + 4 * last
    at = elf.to_offset(start)
    load = None if at is None else elf.load_of(at)
    if at is None or load is None or last > _MAX_SYMBOLS:
        raise FormatRefusedError("the hash table lies outside the file")
    size = min(load.file_end - at, 4 * _MAX_CHAIN) // 4 * 4
    ends = np.flatnonzero(np.frombuffer(elf.read(at, size), "<u4") & 1)
    if not len(ends):
        raise FormatRefusedError("a bucket of the hash table has no end")
    count = last + int(ends[0]) + 1
    return np.frombuffer(_table(elf, address, 4 * count, "hash table"), "<u4")


def _table(elf: Elf, address: int, size: int, what: str) -> bytes:
    """Return the bytes at an address, which must all lie in the file."""
    at = elf.to_offset(address)
    load = None if at is None else elf.load_of(at)
    if at is None or load is None or at + size > load.file_end:
        raise FormatRefusedError(f"the {what} lies outside the file")
    return elf.read(at, size)


def version_strings(elf: Elf) -> Iterator[tuple[int, int]]:
    """Yield every name in the version tables, as (file offset of the field, offset of the string).

    Raises:
        FormatRefusedError: A table lies outside the file, or has no end.
    """
    for at, (_, count, file, first, _) in _records(elf, elf.dynamic.get(DT["VERNEED"]), _VERNEED):
        yield at + 4, file
        for part, fields in itertools.islice(_chained(elf, at + first, _VERNAUX), count):
            yield part + 8, fields[3]
    for at, fields in _records(elf, elf.dynamic.get(DT["VERDEF"]), _VERDEF):
        for part, (name, _) in itertools.islice(_chained(elf, at + fields[5], _VERDAUX), fields[3]):
            yield part, name


def read_needs(elf: Elf) -> tuple[Need, ...]:
    """Return which versions a library needs of which others, in its order.

    Raises:
        FormatRefusedError: The table lies outside the file, has no end, or a record names nothing.
    """
    start, length = elf.to_offset(elf.dynamic.get(DT["STRTAB"], 0)) or 0, elf.dynamic[DT["STRSZ"]]
    needs = []
    for at, (_, count, file, first, _) in _records(elf, elf.dynamic.get(DT["VERNEED"]), _VERNEED):
        chain = list(itertools.islice(_chained(elf, at + first, _VERNAUX), count))
        versions = tuple(NeededVersion(*fields[:4]) for _, fields in chain)
        if file >= length or not versions:
            raise FormatRefusedError("a table of needed versions names nothing")
        end = elf.data.find(b"\0", start + file)
        last = max(at + _VERNEED.size, chain[-1][0] + _VERNAUX.size)
        needs.append(Need(at, file, elf.data[start + file : end], versions, last))
    return tuple(needs)


def defined_versions(elf: Elf) -> Iterator[int]:
    """Yield the indices of the versions that a library defines."""
    for _, fields in _records(elf, elf.dynamic.get(DT["VERDEF"]), _VERDEF):
        yield fields[2]


def elf_hash(name: bytes) -> int:
    """Return the gABI's hash of a name, by which versions are compared."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def _records(
    elf: Elf, address: int | None, form: struct.Struct
) -> Iterator[tuple[int, tuple[int, ...]]]:
    if address is not None:
        at = elf.to_offset(address)
        yield from _chained(elf, -1 if at is None else at, form)


def _chained(elf: Elf, at: int, form: struct.Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (file offset, fields) of records whose last field says how far the next one is."""
    for _ in range(_MAX_VERSIONS):
        if at < 0 or at + form.size > elf.size:
            raise FormatRefusedError("a version table lies outside the file")
        fields = form.unpack_from(elf.data, at)
        yield at, fields
        if not fields[-1]:
            return
        at += fields[-1]
    raise FormatRefusedError("a version table has no end")
