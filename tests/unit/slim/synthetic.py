"""Make small ELF libraries with any fatbin containers in them, without a compiler.

The result is a real shared library: the dynamic loader maps it and applies its relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

CONTAINER = struct.Struct("<IHHQ")
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
MAGIC = 0xBA55ED50
WRAPPER = 0x466243B1
PAGE = 4096

PTX, CUBIN, LTO = 1, 2, 8
LZ4, ZSTD, SPECIFIC, FAMILY = 0x2000, 0x8000, 0x100000, 0x200000


def entry(kind: int, sm: int, payload: bytes, *, flags: int = 0x11, header: int = 64) -> bytes:
    """Return one entry: header and padded payload."""
    padded = payload + bytes(-len(payload) % 8)
    packed = len(payload) if flags & (LZ4 | ZSTD) else 0
    head = ENTRY.pack(kind, 0x101, header, len(padded), packed, 0, 7, 1, sm, 0, 0, flags, 0, 0)
    return head + bytes(header - len(head)) + padded


def container(*entries: bytes) -> bytes:
    """Return a container of entries."""
    body = b"".join(entries)
    return CONTAINER.pack(MAGIC, 1, 16, len(body)) + body


@dataclass
class Library:
    """What goes into a library.

    Attributes:
        wrapped: Containers in .nv_fatbin, each behind a wrapper of its own.
        data: Bytes of a read-only data section.
        pointers: Offsets into `data` that a relocation in .data points to.
        tail: Bytes after the section table, belonging to nothing.
        symbols: Bytes of a .symtab that is not loaded.
    """

    wrapped: Sequence[bytes] = ()
    data: bytes = b""
    pointers: Sequence[int] = ()
    tail: bytes = b""
    symbols: bytes = b""
    offsets: dict[str, int] = field(default_factory=dict)

    def build(self) -> bytes:
        """Return the file; `offsets` then says where each section starts."""
        self._file = bytearray(64 + 5 * 56)
        self._sections: list[tuple[str, int, int, int, int, int, int, int, int]] = []
        count = len(self.wrapped) + len(self.pointers)
        self._add(".dynsym", bytes(24), kind=11, flags=2, link=2, info=1, entsize=24)
        self._add(".dynstr", b"\0", kind=3, flags=2)
        self._add(".hash", struct.pack("<4I", 1, 1, 0, 0), kind=5, flags=2, link=1)
        rela = self._add(".rela.dyn", bytes(24 * count), kind=4, flags=2, link=1, entsize=24)
        starts = []
        fatbin = self._align(8)
        for item in self.wrapped:
            starts.append(self._align(8))
            self._file += item
        if self.wrapped:
            self._section(".nv_fatbin", fatbin, len(self._file) - fatbin, flags=2)
        data = self._add(".rodata", self.data, flags=2, align=64)
        text_end = len(self._file)
        self._file += bytes(-len(self._file) % PAGE)
        rw = len(self._file)
        slots = self._add(".nvFatBinSegment", self._wrappers(), flags=3)
        table = self._add(".data", bytes(8 * len(self.pointers)), flags=3)
        dynamic = self._dynamic(rela, 24 * count)
        where = [slots + 24 * i + 8 for i in range(len(starts))]
        where += [table + 8 * i for i in range(len(self.pointers))]
        targets = [*starts, *(data + pointer for pointer in self.pointers)]
        for i, (slot, target) in enumerate(zip(where, targets, strict=True)):
            struct.pack_into("<QQQ", self._file, rela + 24 * i, slot, 8, target)
            struct.pack_into("<Q", self._file, slot, target)
        end = len(self._file)
        if self.symbols:
            self._add(".symtab", self.symbols, kind=2, link=len(self._sections) + 2, entsize=24)
            self._add(".strtab", b"\0main\0", kind=3)
        self._headers(text_end, rw, end, dynamic)
        return bytes(self._file) + self.tail

    def _align(self, to: int) -> int:
        self._file += bytes(-len(self._file) % to)
        return len(self._file)

    def _add(self, name: str, content: bytes, *, align: int = 8, **header: int) -> int:
        at = self._align(align)
        self._file += content
        self._section(name, at, len(content), **header)
        return at

    def _section(
        self, name: str, at: int, size: int, *, kind: int = 1, flags: int = 0, **rest: int
    ) -> None:
        self.offsets[name] = at
        address = at if flags & 2 else 0
        more = (rest.get("link", 0), rest.get("info", 0), rest.get("entsize", 0))
        self._sections.append((name, kind, flags, address, at, size, *more))

    def _wrappers(self) -> bytes:
        return struct.pack("<IIQQ", WRAPPER, 1, 0, 0) * len(self.wrapped)

    def _dynamic(self, rela: int, size: int) -> int:
        tags = [(4, self.offsets[".hash"]), (5, self.offsets[".dynstr"])]
        tags += [(6, self.offsets[".dynsym"]), (10, 1), (11, 24)]
        tags += [(7, rela), (8, size), (9, 24), (0, 0)] if size else [(0, 0)]
        content = b"".join(struct.pack("<qQ", *tag) for tag in tags)
        return self._add(".dynamic", content, kind=6, flags=3, link=2, entsize=16)

    def _headers(self, text_end: int, rw: int, end: int, dynamic: int) -> None:
        size = end - dynamic
        segments = [
            (6, 4, 64, 64, 64, 5 * 56, 5 * 56, 8),
            (1, 4, 0, 0, 0, text_end, text_end, PAGE),
            (1, 6, rw, rw, rw, end - rw, end - rw + 4096, PAGE),
            (2, 6, dynamic, dynamic, dynamic, size, size, 8),
            (0x6474E551, 6, 0, 0, 0, 0, 0, 16),
        ]
        for i, segment in enumerate(segments):
            struct.pack_into("<IIQQQQQQ", self._file, 64 + 56 * i, *segment)
        names = b"\0" + b"".join(s[0].encode() + b"\0" for s in self._sections) + b".shstrtab\0"
        at = self._align(8)
        self._file += names
        headers = bytes(64)
        for name, kind, flags, address, offset, length, link, info, entsize in self._sections:
            index = names.index(b"\0" + name.encode() + b"\0") + 1
            headers += struct.pack(
                "<IIQQQQIIQQ", index, kind, flags, address, offset, length, link, info, 8, entsize
            )
        index = names.index(b".shstrtab")
        headers += struct.pack("<IIQQQQIIQQ", index, 3, 0, 0, at, len(names), 0, 0, 1, 0)
        shoff = self._align(8)
        self._file += headers
        count = len(self._sections) + 2
        ident = b"\x7fELF\2\1\1" + bytes(9)
        struct.pack_into(
            "<16sHHIQQQIHHHHHH",
            self._file,
            0,
            *(ident, 3, 62, 1, 0, 64, shoff, 0, 64, 56, 5, 64, count, count - 1),
        )
