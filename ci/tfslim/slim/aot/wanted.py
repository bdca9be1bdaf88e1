"""Which PTX of a file the driver would compile for the GPUs to serve. Reads only."""

from __future__ import annotations

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tfslim.slim import scan
from tfslim.slim.archs import jit_source
from tfslim.slim.elf import ET_DYN, PT_INTERP, Elf, FormatRefusedError
from tfslim.slim.fatbin import FLAG_DEBUG, Buffer, Entry, EntryHeader
from tfslim.slim.recompress import expanded
from tfslim.slim.scan import FileScan
from tfslim.slim.serving import picked, picked_regions

__all__ = ["FileWants", "Module", "ptx_text", "wanted_of"]

# What nvcc writes beside PTX for the driver's compiler, and `ptxas` takes as well.
_PASSED: Final = re.compile(r"--?maxrregcount=\d+")
Suffix = Literal["", "a", "f"]


@dataclass(frozen=True, slots=True)
class Module:
    """A PTX to be compiled for one GPU.

    Attributes:
        container: File offset of its container.
        entry: Index of the PTX there.
        sm: The GPU, as in 90.
        suffix: "a" or "f" where the PTX is for that architecture or family alone.
        options: What the driver's compiler would be given with it.
        sha256: Digest of the PTX.
        size: Its bytes.
    """

    container: int
    entry: int
    sm: int
    suffix: Suffix
    options: tuple[str, ...]
    sha256: str
    size: int

    @property
    def arch(self) -> str:
        """The architecture as `ptxas` takes it."""
        return f"sm_{self.sm}{self.suffix}"


@dataclass(frozen=True)
class FileWants:
    """What is to be compiled for one file.

    Attributes:
        path: The file.
        modules: In file order.
        refused: How many modules stay PTX although a GPU would compile them, by (GPU, why).
    """

    path: Path
    modules: tuple[Module, ...]
    refused: dict[tuple[int, str], int]


def wanted_of(work: tuple[Path, Sequence[int]]) -> FileWants:
    """Return what is to be compiled for a file; nothing for one that is not understood."""
    path, sms = work
    try:
        with Elf(path) as elf:
            if elf.type != ET_DYN or any(segment.type == PT_INTERP for segment in elf.segments):
                return FileWants(path, (), {})
            found = scan.scan_elf(elf)
            modules: list[Module] = []
            refused: Counter[tuple[int, str]] = Counter()
            for item in _modules(elf, found, sms):
                if isinstance(item, Module):
                    modules.append(item)
                else:
                    refused[item] += 1
            return FileWants(path, tuple(modules), dict(refused))
    except FormatRefusedError:
        return FileWants(path, (), {})


def _modules(elf: Elf, found: FileScan, sms: Sequence[int]) -> Iterator[Module | tuple[int, str]]:
    regions = picked_regions(found.found)
    for item in found.found:
        if picked(item, regions):
            continue
        entries = item.container.entries
        for sm in sms:
            index = jit_source(entries, sm)
            if index is not None:
                yield _module(elf.data, item.container.offset, index, entries[index], sm)


def _module(
    data: Buffer, container: int, index: int, entry: Entry, sm: int
) -> Module | tuple[int, str]:
    try:
        options = _options(data, entry)
        text = ptx_text(data, entry)
    except FormatRefusedError as refusal:
        return sm, str(refusal)
    return Module(
        container=container,
        entry=index,
        sm=sm,
        suffix="a" if entry.specific else "f" if entry.family else "",
        options=options,
        sha256=hashlib.sha256(text).hexdigest(),
        size=len(text),
    )


def ptx_text(data: Buffer, entry: Entry) -> bytes:
    """Return the PTX of an entry as a compiler reads it, without the zeros at its end.

    Raises:
        FormatRefusedError: It does not expand, or is no PTX.
    """
    text = expanded(data, entry).rstrip(b"\0")
    if b"\0" in text or b".version" not in text:
        raise FormatRefusedError("the PTX is not text")
    return text + b"\n"


def _options(data: Buffer, entry: Entry) -> tuple[str, ...]:
    """Return what the compiler is to be given with a PTX.

    Raises:
        FormatRefusedError: That is something whose meaning is not known for sure.
    """
    if entry.flags & FLAG_DEBUG:
        raise FormatRefusedError("it is for a debugger")
    header = EntryHeader.read(data, entry.offset)
    words: list[str] = []
    if header.extra:
        start, end = entry.offset + header.extra, entry.offset + entry.header
        if header.extra + 8 > entry.header:
            raise FormatRefusedError("its compiler options cannot be read")
        at, size = struct.unpack("<II", data[start : start + 8])
        text = data[entry.offset + at : min(entry.offset + at + size, end)]
        words = text.rstrip(b"\0").decode("latin-1").split()
    unknown = [word for word in words if not _PASSED.fullmatch(word)]
    if unknown:
        raise FormatRefusedError(f"its compiler option {unknown[0][:60]!r} is left to the driver")
    return tuple(words)
