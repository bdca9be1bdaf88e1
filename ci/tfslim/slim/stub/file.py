"""Lay out a small ELF file from its sections, and write it. Knows nothing of what is in them.

First all sections get their addresses, then their contents, which may hold addresses, are put
together. What the loader maps stands in pages of its own for each kind of rights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tfslim.slim.elf import (
    FILE_HEADER,
    PAGE,
    PT_LOAD,
    SECTION_HEADER,
    SEGMENT_HEADER,
    SHT_NOBITS,
    Segment,
)

__all__ = ["Layout", "Section", "SectionType"]

SectionType: Final = {
    "progbits": 1,
    "strtab": 3,
    "hash": 5,
    "dynamic": 6,
    "note": 7,
    "nobits": SHT_NOBITS,
    "dynsym": 11,
    "gnu_hash": 0x6FFFFFF6,
    "verdef": 0x6FFFFFFD,
    "versym": 0x6FFFFFFF,
}

Rights = Literal["r", "rx", "rw"]
_SEGMENT_FLAGS: Final[dict[Rights, int]] = {"r": 4, "rx": 5, "rw": 6}
_SECTION_FLAGS: Final[dict[Rights, int]] = {"r": 2, "rx": 6, "rw": 3}
_PT_DYNAMIC, _PT_NOTE = 2, 4
_PT_GNU_STACK, _PT_GNU_PROPERTY = 0x6474E551, 0x6474E553
_X86_64: Final = 62
_NAMES: Final = ".shstrtab"


@dataclass(frozen=True)
class Section:
    """A section that the loader maps.

    Attributes:
        name: Its name.
        type: A name in `SectionType`.
        size: Bytes in memory.
        rights: What may be done with its memory.
        align: Its address is a multiple of this.
        link, info, entry: As the gABI says for its type; `link` by name.
    """

    name: str
    type: str
    size: int
    rights: Rights = "r"
    align: int = 8
    link: str = ""
    info: int = 0
    entry: int = 0


class Layout:
    """Addresses for sections.

    Args:
        sections: All of them; read-only ones first, then code, then what is written to, and last
            of these what takes no room in the file.
        base: Address of the first byte of the file.

    Attributes:
        at: Where each section is mapped, by name.
        numbers: Each section's number in the table of sections.
    """

    def __init__(self, sections: Sequence[Section], base: int = 0) -> None:
        self._sections = sections
        self._base = base
        self._groups = {
            rights: list(group) for rights, group in itertools.groupby(sections, lambda s: s.rights)
        }
        self.numbers = {section.name: number for number, section in enumerate(sections, 1)}
        self.at: dict[str, int] = {}
        end = FILE_HEADER.size + SEGMENT_HEADER.size * self._segment_count
        for group in self._groups.values():
            end = _aligned(end, PAGE) if self.at else end
            for section in group:
                self.at[section.name] = base + _aligned(end, section.align)
                end = self.at[section.name] - base + section.size

    @property
    def _special(self) -> list[Section]:
        """The sections that have a segment of their own."""
        return [section for section in self._sections if section.type in ("dynamic", "note")]

    @property
    def _segment_count(self) -> int:
        properties = sum(section.name == ".note.gnu.property" for section in self._sections)
        return len(self._groups) + len(self._special) + properties + 1

    def write(self, file_type: int, contents: Mapping[str, bytes], *, entry: int = 0) -> bytes:
        """Return the file.

        Args:
            file_type: `ET_*`.
            contents: What is in each section that takes room in the file.
            entry: Where a program begins.
        """
        last = max(
            self.at[s.name] - self._base + s.size for s in self._sections if s.type != "nobits"
        )
        data = bytearray(last)
        for section in self._sections:
            if section.type != "nobits":
                content, at = contents[section.name], self.at[section.name] - self._base
                if len(content) != section.size:
                    raise ValueError(f"{section.name}: {len(content)} bytes for {section.size}")
                data[at : at + section.size] = content
        segments = b"".join(segment.pack() for segment in self._segments())
        names, starts = _names([section.name for section in self._sections])
        data += names
        data += bytes(-len(data) % 8)
        header = FILE_HEADER.pack(
            b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
            file_type,
            _X86_64,
            1,
            entry,
            FILE_HEADER.size,
            len(data),
            0,
            FILE_HEADER.size,
            SEGMENT_HEADER.size,
            self._segment_count,
            SECTION_HEADER.size,
            len(self._sections) + 2,
            len(self._sections) + 1,
        )
        data[: len(header) + len(segments)] = header + segments
        return bytes(data) + self._section_headers(starts, last, len(names))

    def _segments(self) -> Iterable[Segment]:
        first = True
        for rights, group in self._groups.items():
            start = self._base if first else self.at[group[0].name]
            in_file = [section for section in group if section.type != "nobits"]
            yield self._segment(
                PT_LOAD, _SEGMENT_FLAGS[rights], start, self._end(in_file, start), self._end(group)
            )
            first = False
        for section in self._special:
            kind = _PT_NOTE if section.type == "note" else _PT_DYNAMIC
            yield self._around(kind, section)
        for section in self._sections:
            if section.name == ".note.gnu.property":
                yield self._around(_PT_GNU_PROPERTY, section)
        yield Segment(_PT_GNU_STACK, _SEGMENT_FLAGS["rw"], 0, 0, 0, 0, 0, 16)

    def _end(self, sections: Sequence[Section], default: int = 0) -> int:
        return max((self.at[section.name] + section.size for section in sections), default=default)

    def _around(self, kind: int, section: Section) -> Segment:
        start = self.at[section.name]
        end = start + section.size
        return self._segment(
            kind, _SEGMENT_FLAGS[section.rights], start, end, end, align=section.align
        )

    def _segment(
        self, kind: int, flags: int, start: int, file_end: int, end: int, *, align: int = PAGE
    ) -> Segment:
        size = file_end - start
        return Segment(kind, flags, start - self._base, start, start, size, end - start, align)

    def _section_headers(self, names: Mapping[str, int], names_at: int, names_size: int) -> bytes:
        headers = [bytes(SECTION_HEADER.size)]
        headers += [
            SECTION_HEADER.pack(
                names[section.name],
                SectionType[section.type],
                _SECTION_FLAGS[section.rights],
                self.at[section.name],
                self.at[section.name] - self._base,
                section.size,
                self.numbers.get(section.link, 0),
                section.info,
                section.align,
                section.entry,
            )
            for section in self._sections
        ]
        headers.append(
            SECTION_HEADER.pack(
                names[_NAMES], SectionType["strtab"], 0, 0, names_at, names_size, 0, 0, 1, 0
            )
        )
        return b"".join(headers)


def _names(sections: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """Return the table of section names, and where each starts in it."""
    table = b"\0"
    starts: dict[str, int] = {}
    for name in (*sections, _NAMES):
        starts[name] = len(table)
        table += name.encode() + b"\0"
    return table, starts


def _aligned(value: int, step: int) -> int:
    return -(-value // step) * step
