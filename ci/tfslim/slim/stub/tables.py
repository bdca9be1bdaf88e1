"""The loader's tables of a library that is written from what it offers. Pure.

The structures are those of the System V gABI (symbols, hash table), of the Linux Standard Base
(symbol versions) and, for the GNU hash table, what glibc's loader reads.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from tfslim.slim.stub.interface import HIDDEN, VERDAUX, VERDEF, Export, Version
from tfslim.slim.symbols import HASH_HEADER, SYMBOL, gnu_hashes

__all__ = [
    "Strings",
    "by_bucket",
    "gnu_table",
    "symbol_table",
    "sysv_table",
    "version_indices",
    "versions_table",
]

# Bits of the filter for each name: about one miss in 40 gets past it.
_FILTER_BITS: Final = 12
_FILTER_SHIFT: Final = 26
_NAMES_PER_BUCKET: Final = 4


class Strings:
    """A string table that grows; each string is in it once."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._at: dict[bytes, int] = {b"": 0}
        table = bytearray(1)
        for text in texts:
            if text not in self._at:
                self._at[text] = len(table)
                table += text + b"\0"
        self.table = bytes(table)

    def at(self, text: bytes) -> int:
        """Return the offset of a string."""
        return self._at[text]


def by_bucket(exports: Sequence[Export]) -> list[Export]:
    """Return exports in the order in which a GNU hash table wants their symbols."""
    hashes = gnu_hashes([export.name for export in exports]).tolist()
    buckets = _buckets(len(exports))
    order = sorted(range(len(exports)), key=lambda i: (hashes[i] % buckets, hashes[i], exports[i]))
    return [exports[index] for index in order]


def _buckets(count: int) -> int:
    return max(count // _NAMES_PER_BUCKET, 1)


def gnu_table(exports: Sequence[Export]) -> bytes:
    """Return the GNU hash table of symbols 1, 2, …, which are in the order of `by_bucket`."""
    hashes = gnu_hashes([export.name for export in exports]).tolist()
    buckets = _buckets(len(exports))
    words = 1 << max((len(exports) * _FILTER_BITS // 64).bit_length(), 0)
    bloom = [0] * words
    heads = [0] * buckets
    chains: list[int] = []
    for index, value in enumerate(hashes):
        bloom[value // 64 % words] |= 1 << value % 64 | 1 << (value >> _FILTER_SHIFT) % 64
        bucket = value % buckets
        heads[bucket] = heads[bucket] or index + 1
        last = index + 1 == len(hashes) or hashes[index + 1] % buckets != bucket
        chains.append(value & ~1 | last)
    head = HASH_HEADER.pack(buckets, 1, words, _FILTER_SHIFT)
    return head + struct.pack(f"<{words}Q{buckets}I{len(chains)}I", *bloom, *heads, *chains)


def sysv_table(exports: Sequence[Export]) -> bytes:
    """Return the older hash table of symbols 1, 2, …."""
    buckets = _buckets(len(exports))
    heads = [0] * buckets
    chains = [0] * (len(exports) + 1)
    for index, export in enumerate(exports, 1):
        bucket = _sysv_hash(export.name) % buckets
        chains[index], heads[bucket] = heads[bucket], index
    return struct.pack(f"<II{buckets}I{len(chains)}I", buckets, len(chains), *heads, *chains)


def _sysv_hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value & 0xFFFFFFFF


def symbol_table(
    exports: Sequence[Export], strings: Strings, places: Mapping[Export, tuple[int, int, int]]
) -> bytes:
    """Return the symbols of exports after the empty one.

    Args:
        exports: The exports in their order.
        strings: Their names.
        places: (section, value, size) of each.
    """
    rows = [(0, 0, 0, 0, 0, 0)]
    for export in exports:
        section, value, size = places[export]
        info = export.binding << 4 | export.type
        name = strings.at(export.name)
        rows.append((name, info, export.visibility, section, value, size))
    return np.array(rows, SYMBOL).tobytes()


def version_indices(exports: Sequence[Export]) -> bytes:
    """Return the version of each symbol, the empty one first."""
    indices = [export.version | (HIDDEN if export.hidden else 0) for export in exports]
    return struct.pack(f"<{len(indices) + 1}H", 0, *indices)


def versions_table(versions: Sequence[Version], strings: Strings) -> bytes:
    """Return the definitions of versions, each followed by its names."""
    parts: list[bytes] = []
    for version in versions:
        names = len(version.names)
        size = VERDEF.size + names * VERDAUX.size
        following = 0 if version is versions[-1] else size
        value = _sysv_hash(version.names[0]) if names else 0
        parts.append(
            VERDEF.pack(1, version.flags, version.index, names, value, VERDEF.size, following)
        )
        steps = itertools.chain(itertools.repeat(VERDAUX.size, names - 1), [0])
        parts += [
            VERDAUX.pack(strings.at(name), step)
            for name, step in zip(version.names, steps, strict=True)
        ]
    return b"".join(parts)
