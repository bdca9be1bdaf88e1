"""What other programs and libraries can ask of a library: its name, and the names it exports.

Only names that a header could declare count. C++ names (`_Z…`) do not: they are what a compiler
left visible, other libraries have the same ones, and a stand-in that answered to them would answer
for those, too.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tfslim.slim.elf import Elf, FormatRefusedError
from tfslim.slim.symbols import DT, Symbols, gnu_hashes, read_gnu_hash, read_symbols

__all__ = [
    "HIDDEN",
    "VERDAUX",
    "VERDEF",
    "Export",
    "Interface",
    "Version",
    "needed_libraries",
    "read_interface",
    "unfound_names",
]

# The bit of a symbol's version index that says: found only when this version is asked for.
HIDDEN: Final = 0x8000
# Records of the table of versions (Linux Standard Base, "Symbol Version Definitions").
VERDEF: Final = struct.Struct("<HHHHIII")
VERDAUX: Final = struct.Struct("<II")
_MANGLED: Final = b"_Z"
_ABSOLUTE: Final = 0xFFF1
_RESERVED_SECTIONS: Final = 0xFF00
_BINDINGS: Final = (1, 2, 10)  # global, weak, unique
_NO_TYPE, _OBJECT, _FUNCTION = 0, 1, 2
_PF_X: Final = 1
_MAX_VERSIONS: Final = 1 << 16
_LONGEST_NAME: Final = 4096  # bytes, as of any path

Kind = Literal["function", "data", "absolute"]


@dataclass(frozen=True, order=True)
class Export:
    """A name that others can ask for.

    Attributes:
        name: The name.
        version: Index of its version (see `Version`); 1 for none.
        hidden: Whether it is found only when this version is asked for.
        kind: Code; data; or a number that is no address.
        type: `STT_*`.
        binding: `STB_*`.
        visibility: `STV_*`.
        size: Bytes of data; 0 for anything else.
        value: The number; 0 for anything else.
    """

    name: bytes
    version: int
    hidden: bool
    kind: Kind
    type: int
    binding: int
    visibility: int
    size: int
    value: int


@dataclass(frozen=True)
class Version:
    """A version that names can have: its index, flags, and its name followed by its parents'."""

    index: int
    flags: int
    names: tuple[bytes, ...]


@dataclass(frozen=True)
class Interface:
    """What a library offers.

    Attributes:
        soname: The name that others need it by; empty where it has none.
        versions: Its versions, in the file's order.
        exports: Its names, sorted.
    """

    soname: bytes
    versions: tuple[Version, ...]
    exports: tuple[Export, ...]


def read_interface(elf: Elf) -> Interface:
    """Return what a library offers.

    Raises:
        FormatRefusedError: It has no names; or one of a kind that nothing can stand in for.
    """
    symbols = read_symbols(elf)
    if symbols is None:
        raise FormatRefusedError("it has no symbols")
    versions = tuple(_versions(elf, symbols))
    exports = tuple(sorted(_exports(elf, symbols)))
    known = {1, *(version.index for version in versions)}
    if not exports or {export.version for export in exports} - known:
        raise FormatRefusedError("it exports no names" if not exports else "a version is unknown")
    soname = symbols.string(elf.dynamic[DT["SONAME"]]) if DT["SONAME"] in elf.dynamic else b""
    return Interface(soname, versions, exports)


def _exports(elf: Elf, symbols: Symbols) -> Iterator[Export]:
    entries = symbols.entries
    offered = np.flatnonzero((entries["section"] != 0) & np.isin(entries["info"] >> 4, _BINDINGS))
    versions = _version_indices(elf, len(entries))
    for index, name in zip(offered.tolist(), symbols.names(offered), strict=True):
        version = int(versions[index])
        if name.startswith(_MANGLED) or not version & ~HIDDEN:
            continue
        row = entries[index]
        kind = _kind(elf, int(row["info"]) & 15, int(row["section"]), int(row["value"]))
        yield Export(
            name=name,
            version=version & ~HIDDEN,
            hidden=bool(version & HIDDEN),
            kind=kind,
            type=int(row["info"]) & 15,
            binding=int(row["info"]) >> 4,
            visibility=int(row["other"]) & 3,
            size=int(row["size"]) if kind == "data" else 0,
            value=int(row["value"]) if kind == "absolute" else 0,
        )


def _kind(elf: Elf, symbol_type: int, section: int, value: int) -> Kind:
    if section == _ABSOLUTE and symbol_type in (_NO_TYPE, _OBJECT):
        return "absolute"
    if section >= _RESERVED_SECTIONS or symbol_type not in (_NO_TYPE, _OBJECT, _FUNCTION):
        raise FormatRefusedError(f"it exports something of type {symbol_type}")
    code = any(
        load.flags & _PF_X and load.vaddr <= value < load.vaddr + load.memsz for load in elf.loads
    )
    if symbol_type == _FUNCTION and not code:
        raise FormatRefusedError("a function lies outside of its code")
    return "function" if code and symbol_type != _OBJECT else "data"


def _version_indices(elf: Elf, count: int) -> npt.NDArray[np.uint16]:
    """Return the version index of each symbol: 0 local, 1 none, others as in `Version`."""
    if DT["VERSYM"] not in elf.dynamic:
        return np.ones(count, np.uint16)
    return np.frombuffer(_bytes(elf, elf.to_offset(elf.dynamic[DT["VERSYM"]]), 2 * count), "<u2")


def _versions(elf: Elf, symbols: Symbols) -> Iterator[Version]:
    if DT["VERDEF"] not in elf.dynamic:
        return
    at = elf.to_offset(elf.dynamic[DT["VERDEF"]])
    # The count may have left with packed relocations (`slim.relr`); the last one says that it is.
    for _ in range(elf.dynamic.get(DT["VERDEFNUM"], _MAX_VERSIONS)):
        fields = VERDEF.unpack(_bytes(elf, at, VERDEF.size))
        _, flags, index, count, _, first, following = fields
        names: list[bytes] = []
        part = (at or 0) + first
        for _ in range(count):
            name, step = VERDAUX.unpack(_bytes(elf, part, VERDAUX.size))
            names.append(symbols.string(name))
            part += step
        yield Version(index, flags, tuple(names))
        if not following:
            return
        at = (at or 0) + following


def _bytes(elf: Elf, at: int | None, size: int) -> bytes:
    if at is None or at + size > elf.size:
        raise FormatRefusedError("a version table lies outside the file")
    return elf.read(at, size)


def needed_libraries(elf: Elf) -> tuple[str, ...]:
    """Return the names of the libraries that the loader maps with a file.

    Raises:
        FormatRefusedError: One lies outside the file.
    """
    table = elf.to_offset(elf.dynamic.get(DT["STRTAB"], 0))
    names: list[str] = []
    for tag, value, _ in elf.dynamic_entries:
        if tag == DT["NEEDED"]:
            at = (table or 0) + value
            end = elf.data.find(b"\0", at, at + _LONGEST_NAME)
            if table is None or end < 0:
                raise FormatRefusedError("a needed library's name lies outside the file")
            names.append(elf.read(at, end - at).decode("utf-8", "replace"))
    return tuple(names)


def unfound_names(elf: Elf, names: set[bytes]) -> set[bytes]:
    """Return those names that the loader would not find in a library, by its GNU hash table."""
    table, symbols = read_gnu_hash(elf), read_symbols(elf)
    if table is None or symbols is None or not len(table.buckets):
        return names
    found = set[bytes]()
    listed = symbols.names()
    asked = sorted(names)
    for name, value in zip(asked, gnu_hashes(asked).tolist(), strict=True):
        word = int(table.bloom[value // 64 % len(table.bloom)])
        start = int(table.buckets[value % len(table.buckets)])
        if not (word >> value % 64 & word >> (value >> table.shift) % 64 & 1) or not start:
            continue
        for index in itertools.count(start):
            chained = int(table.chains[index - table.first])
            if chained | 1 == value | 1 and listed[index] == name:
                found.add(name)
            if chained & 1:
                break
    return names - found
