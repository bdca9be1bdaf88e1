"""Write libraries and programs that stand in for removed ones and say so. No compiler is needed.

A stub library offers what the original offers, needs no other library, not even the C library, and
holds for each function sixteen bytes that lead to one piece of code. That code writes one line,
once per function, and returns what the library itself would return for "not supported"; functions
whose failure a program could not bear report success and say nothing. It uses nothing but one
system call, so it works wherever it is called from: before `main`, in a thread, after `fork`, in a
signal handler.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Literal

from tfslim.slim.elf import ET_DYN, ET_EXEC, Elf, FormatRefusedError
from tfslim.slim.stub.code import (
    ENTRY,
    FUNCTION_SIZE,
    HOW,
    Places,
    common_code,
    function_code,
    program_code,
)
from tfslim.slim.stub.file import Layout, Section
from tfslim.slim.stub.interface import Export, Interface
from tfslim.slim.stub.tables import (
    Strings,
    by_bucket,
    gnu_table,
    symbol_table,
    sysv_table,
    version_indices,
    versions_table,
)
from tfslim.slim.symbols import DT, SYMBOL

__all__ = ["Answer", "is_stub", "library_stub", "program_stub"]

# What a function gives its caller: a number, where 0 means success; the explanation as a C string;
# or success, with a handle where its first argument points to.
Answer = int | Literal["text", "handle"]

_MARK: Final = ".note.tfslim"
# More than a library has a reason to export: names, and bytes of data.
_MOST_EXPORTS: Final = 1 << 16
_MOST_DATA: Final = 1 << 20
_DATA_ALIGN: Final = 64
_HANDLE_SIZE: Final = 64
_ABSOLUTE: Final = 0xFFF1
_DT_NULL, _DT_STRSZ, _DT_SYMENT = 0, 10, 11
_PROGRAM_BASE: Final = 0x400000
_BEFORE: Final = b"tfslim: "


def is_stub(elf: Elf) -> bool:
    """True when a file is one that this module wrote."""
    return any(section.name == _MARK for section in elf.sections)


def program_stub(name: str, explained: str) -> bytes:
    """Return a program that writes one line and ends with exit code 1.

    Args:
        name: What people call the original: "ptxas".
        explained: Who removed it, and how to keep it.
    """
    line = _BEFORE + f"{name} was started, but it was {explained}\n".encode()
    size = len(program_code(0, 0, 0)) + len(line)
    note = _note(f"{name} was {explained}")
    sections = (
        Section(_MARK, "note", len(note), align=4),
        Section(".text", "progbits", size, "rx", 16),
    )
    layout = Layout(sections, _PROGRAM_BASE)
    start = layout.at[".text"]
    code = program_code(start, start + size - len(line), len(line))
    return layout.write(ET_EXEC, {_MARK: note, ".text": code + line}, entry=start)


def library_stub(
    interface: Interface, name: str, explained: str, answer: Callable[[str], Answer]
) -> bytes:
    """Return a library that offers what another one offers, and explains itself when it is called.

    Args:
        interface: What the other one offers.
        name: What people call it: "libcufft".
        explained: Who removed it, and how to keep it: "removed by …; slim with … to have it".
        answer: What a function gives its caller, by the function's name.

    Raises:
        FormatRefusedError: It offers more than is believed.
    """
    return _Library(interface, name, explained, answer).written()


class _Library:
    """One stub library as it is put together."""

    def __init__(
        self, interface: Interface, name: str, explained: str, answer: Callable[[str], Answer]
    ) -> None:
        self._interface = interface
        self._exports = by_bucket(interface.exports)
        self._functions = [e for e in self._exports if e.kind == "function"]
        self._data, self._room = _data_places(self._exports, len(self._functions))
        if len(self._exports) > _MOST_EXPORTS or self._room > _MOST_DATA:
            raise FormatRefusedError("it exports more than is believed")
        self._strings = Strings(
            [interface.soname]
            + [export.name for export in self._exports]
            + [text for version in interface.versions for text in version.names]
        )
        words = f"{name} was {explained}"
        self._note = _note(words)
        self._text = words.encode() + b"\0"
        self._after = f" was called, but {words}\n".encode()
        self._answers = [answer(e.name.decode("utf-8", "replace")) for e in self._functions]
        self._hashes = gnu_table(self._exports), sysv_table(self._exports)
        self._versions = versions_table(interface.versions, self._strings)
        self._layout = Layout(self._sections())

    def written(self) -> bytes:
        """Return the file."""
        contents = {
            ".note.gnu.property": _cet_note(),
            _MARK: self._note,
            ".gnu.hash": self._hashes[0],
            ".hash": self._hashes[1],
            ".dynsym": symbol_table(self._exports, self._strings, self._places()),
            ".dynstr": self._strings.table,
            ".gnu.version": version_indices(self._exports),
            ".gnu.version_d": self._versions,
            ".rodata": self._entries() + _BEFORE + self._after + self._text,
            ".text": self._code(),
            ".dynamic": self._dynamic(),
        }
        return self._layout.write(ET_DYN, contents)

    def _sections(self) -> list[Section]:
        count = len(self._exports) + 1
        words = len(_BEFORE + self._after + self._text)
        versions = self._interface.versions
        versioned = [
            Section(".gnu.version", "versym", 2 * count, align=2, link=".dynsym", entry=2),
            Section(
                ".gnu.version_d",
                "verdef",
                len(self._versions),
                link=".dynstr",
                info=len(versions),
            ),
        ]
        return [
            Section(".note.gnu.property", "note", len(_cet_note())),
            Section(_MARK, "note", len(self._note), align=4),
            Section(".gnu.hash", "gnu_hash", len(self._hashes[0]), link=".dynsym"),
            Section(".hash", "hash", len(self._hashes[1]), link=".dynsym", entry=4),
            Section(
                ".dynsym",
                "dynsym",
                SYMBOL.itemsize * count,
                link=".dynstr",
                info=1,
                entry=SYMBOL.itemsize,
            ),
            Section(".dynstr", "strtab", len(self._strings.table), align=1),
            *(versioned if versions else ()),
            Section(".rodata", "progbits", ENTRY.size * len(self._functions) + words, align=16),
            Section(".text", "progbits", len(self._code_at(0, Places())), "rx", 16),
            Section(
                ".dynamic",
                "dynamic",
                16 * len(self._tags()),
                "rw",
                link=".dynstr",
                entry=16,
            ),
            Section(".bss", "nobits", self._room, "rw", _DATA_ALIGN),
        ]

    def _places(self) -> dict[Export, tuple[int, int, int]]:
        """Return where each export is, as (section, value, size)."""
        at, number = self._layout.at, self._layout.numbers
        places = {
            export: (number[".text"], at[".text"] + FUNCTION_SIZE * index, FUNCTION_SIZE)
            for index, export in enumerate(self._functions)
        }
        for export in self._exports:
            if export.kind == "absolute":
                places[export] = _ABSOLUTE, export.value, 0
            elif export.kind == "data":
                places[export] = number[".bss"], at[".bss"] + self._data[export], export.size
        return places

    def _entries(self) -> bytes:
        """Return what the common code knows of each function."""
        entries = bytearray()
        for export, answer in zip(self._functions, self._answers, strict=True):
            number = answer if isinstance(answer, int) else 0
            how = ("number" if answer else "success") if isinstance(answer, int) else answer
            name = self._strings.at(export.name), len(export.name)
            entries += ENTRY.pack(*name, number, HOW[how])
        return bytes(entries)

    def _code(self) -> bytes:
        at = self._layout.at
        words = at[".rodata"] + ENTRY.size * len(self._functions)
        places = Places(
            table=at[".rodata"],
            names=at[".dynstr"],
            before=(words, len(_BEFORE)),
            after=(words + len(_BEFORE), len(self._after)),
            text=words + len(_BEFORE + self._after),
            said=at[".bss"] + self._room - len(self._functions),
            handle=at[".bss"],
        )
        return self._code_at(at[".text"], places)

    def _code_at(self, address: int, places: Places) -> bytes:
        common = address + FUNCTION_SIZE * len(self._functions)
        functions = [
            function_code(index, address + FUNCTION_SIZE * index, common)
            for index in range(len(self._functions))
        ]
        return b"".join([*functions, common_code(common, places)])

    def _dynamic(self) -> bytes:
        at = self._layout.at
        entries = [
            (tag, value if isinstance(value, int) else at[value]) for tag, value in self._tags()
        ]
        return b"".join(struct.pack("<QQ", *entry) for entry in entries)

    def _tags(self) -> list[tuple[int, int | str]]:
        """Return the dynamic table; an address by its section's name."""
        entries: list[tuple[int, int | str]] = []
        if self._interface.soname:
            entries.append((DT["SONAME"], self._strings.at(self._interface.soname)))
        entries += [
            (DT["GNU_HASH"], ".gnu.hash"),
            (DT["HASH"], ".hash"),
            (DT["STRTAB"], ".dynstr"),
            (DT["SYMTAB"], ".dynsym"),
            (_DT_STRSZ, len(self._strings.table)),
            (_DT_SYMENT, SYMBOL.itemsize),
        ]
        if versions := len(self._interface.versions):
            entries += [
                (DT["VERSYM"], ".gnu.version"),
                (DT["VERDEF"], ".gnu.version_d"),
                (DT["VERDEFNUM"], versions),
            ]
        return [*entries, (_DT_NULL, 0)]


def _data_places(exports: Sequence[Export], functions: int) -> tuple[dict[Export, int], int]:
    """Return where exported data lies, after what handles point to, and the bytes of it all.

    The last bytes say for each function whether it has been called.
    """
    places: dict[Export, int] = {}
    end = _HANDLE_SIZE
    for export in exports:
        if export.kind == "data":
            places[export] = end
            end += -(-export.size // _DATA_ALIGN) * _DATA_ALIGN
    return places, end + functions


def _note(words: str) -> bytes:
    """Return a note of ours that holds the explanation."""
    owner, text = b"tfslim\0\0", words.encode() + b"\0"
    text += bytes(-len(text) % 4)
    return struct.pack("<III", len("tfslim\0"), len(text), 1) + owner + text


def _cet_note() -> bytes:
    """Return the note that says: every indirect branch lands on endbr64, every call returns.

    Type 5 is a list of properties, 0xc0000002 the features used, 3 both of them (x86 ABI, CET).
    """
    return struct.pack("<III4sIIII", 4, 16, 5, b"GNU\0", 0xC0000002, 4, 3, 0)
