"""Take a library's code out of its file, and make it need the library that brings the code back.

What is left is proved as every rewritten file is (`slim.verify`); then two entries of the dynamic
table change. The optional hint of how many relocations come first (DT_RELACOUNT) becomes a
DT_NEEDED; its name takes the place of folders that a search path (DT_RUNPATH) names twice, or that
only a build by Bazel has.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim.slim import layout
from tfslim.slim.apply import write_pieces
from tfslim.slim.cuts import FileCuts, Span
from tfslim.slim.elf import PAGE, PF_W, PT_INTERP, Elf, FormatRefusedError
from tfslim.slim.symbols import DT
from tfslim.slim.verify import verify_file

__all__ = ["Code", "code_of", "punch"]

_PF_X: Final = 1
_ENTRY: Final = struct.Struct("<qQ")
_SEARCH_PATHS: Final = (DT["RUNPATH"], DT["RPATH"])


@dataclass(frozen=True)
class Code:
    """The whole pages of a library's .text.

    Attributes:
        address: Of the first page.
        offset: In the file.
        content: Their bytes.
    """

    address: int
    offset: int
    content: bytes


def code_of(elf: Elf) -> Code:
    """Return a library's code.

    Raises:
        FormatRefusedError: It has none that can be put aside.
    """
    text = next((s for s in elf.sections if s.name == ".text"), None)
    load = elf.load_of(text.offset) if text else None
    if text is None or load is None or not load.flags & _PF_X or load.flags & PF_W:
        raise FormatRefusedError("it has no code in memory that is executed and never written")
    if any(segment.type == PT_INTERP for segment in elf.segments):
        raise FormatRefusedError("a program that the kernel maps by itself")
    start = -(-text.offset // PAGE) * PAGE
    end = text.file_end // PAGE * PAGE
    address = elf.to_address(start)
    if end <= start or address is None or address % PAGE:
        raise FormatRefusedError("its code is less than a page")
    written = elf.written_addresses
    if ((written + 7 >= address) & (written < address + end - start)).any():
        raise FormatRefusedError("relocations write into its code")
    return Code(address, start, elf.read(start, end - start))


def punch(library: Path, aside: Path, needed: str) -> Code:
    """Write a library without its code, that needs another one; return the code.

    Args:
        library: The library; it stays as it is.
        aside: The new file.
        needed: Name of the library that brings the code back, found beside this one.

    Raises:
        FormatRefusedError: The library is not laid out so that this can be done; nothing is left.
    """
    aside.unlink(missing_ok=True)
    with Elf(library) as elf:
        code = code_of(elf)
        cuts = FileCuts(aside=(Span(offset=code.offset, size=len(code.content)),))
        laid_out = layout.lay_out(elf, cuts)
        if sum(end - start for start, end in laid_out.holes) != len(code.content):
            raise FormatRefusedError("its program header table has no room for one more segment")
        write_pieces(library, laid_out.pieces, aside)
    try:
        _refuse(verify_file(library, aside, cuts))
        with Elf(aside) as elf:
            patches = _need(elf, needed.encode(), library.parent)
        with aside.open("r+b") as file:
            for offset, content in patches:
                file.seek(offset)
                file.write(content)
        _check(aside, needed)
    except BaseException:
        aside.unlink()
        raise
    return code


def _refuse(problems: list[str]) -> None:
    if problems:
        raise FormatRefusedError("; ".join(problems[:3]))


def _need(elf: Elf, name: bytes, folder: Path) -> list[tuple[int, bytes]]:
    """Return (offset, bytes) of what makes a library in a folder need another one there."""
    tags = {tag: (value, offset) for tag, value, offset in elf.dynamic_entries}
    path = next((tag for tag in _SEARCH_PATHS if tag in tags), None)
    strings = elf.to_offset(tags.get(DT["STRTAB"], (0, 0))[0])
    if path is None or strings is None or DT["RELACOUNT"] not in tags:
        raise FormatRefusedError("its dynamic table has no entry to spare")
    start = strings + tags[path][0]
    end = elf.data.find(b"\0", start)
    named = dict.fromkeys(elf.data[start:end].split(b":"))
    folders = b":".join(path for path in named if not _only_in_a_build(path, folder))
    if len(folders) + 1 + len(name) > end - start:
        raise FormatRefusedError("its string table has no room for a name")
    if not {b"$ORIGIN", b"$ORIGIN/"} & set(folders.split(b":")):
        raise FormatRefusedError("it does not search its own folder")
    at = tags[path][0] + len(folders) + 1
    text = (folders + b"\0" + name).ljust(end - start, b"\0")
    # An entry is a tag and a value; offsets lead to the value.
    entry = tags[DT["RELACOUNT"]][1] - 8
    return [(start, text), (entry, _ENTRY.pack(DT["NEEDED"], at))]


def _only_in_a_build(path: bytes, folder: Path) -> bool:
    """Say whether a search path leads to where Bazel links libraries, and not to a folder here."""
    place = folder / os.fsdecode(path.replace(b"$ORIGIN", b"."))
    return b"/_solib_" in path and not place.exists()


def _check(library: Path, needed: str) -> None:
    """Read what was written as the loader does."""
    with Elf(library) as elf:
        strings = elf.to_offset(elf.dynamic[DT["STRTAB"]]) or 0
        names = [
            elf.data[strings + value : elf.data.find(b"\0", strings + value)].decode()
            for tag, value, _ in elf.dynamic_entries
            if tag == DT["NEEDED"]
        ]
    if names[-1:] != [needed]:
        raise FormatRefusedError("the entry that names the other library did not arrive")
