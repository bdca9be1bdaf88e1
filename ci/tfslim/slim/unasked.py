"""Find the names that a library exports and nobody else could ask for. Reads only.

The loader connects libraries by the names in their dynamic symbol tables: one asks for what another
offers, or two offer the same and the first one found serves both. A name in the table of one file
alone takes no part in that, whatever is loaded and in whichever order. So the tables of all files
are read: those of the tree, and those outside of it that the loader maps for a library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfslim.slim import loader
from tfslim.slim.cuts import Run
from tfslim.slim.elf import Elf, FormatRefusedError, OtherMachineError
from tfslim.slim.exports import hideable
from tfslim.slim.symbols import DT, read_symbols

__all__ = ["Unasked", "asked_for", "unasked_names"]


@dataclass(frozen=True)
class Unasked:
    """The symbols of a library that nobody else could ask for.

    Attributes:
        symbols: Their indices, as runs (index of the first, count), ascending.
        bytes: What they take in the library's tables: rows and names.
        refusal: Why they are not known; empty where they are.
    """

    symbols: tuple[Run, ...] = ()
    bytes: int = 0
    refusal: str = ""


def unasked_names(
    tree: Path, libraries: Mapping[str, str], files: Sequence[str]
) -> dict[str, Unasked]:
    """Return the symbols of some libraries that no other file could ask for.

    Args:
        tree: The tree.
        libraries: Each library, relative to the tree → how the names begin that matter.
        files: All ELF files of the tree that will stay, relative to it; the libraries too.
    """
    if not libraries:
        return {}
    offers = {path: _offer(tree / path, prefix.encode()) for path, prefix in libraries.items()}
    tables = _Tables(name for offer in offers.values() for name in offer.names)
    for file in files:
        tables.add(tree / file)
    inside = tree.resolve()
    for path in libraries:
        for name, where in loader.mapped_libraries(tree / path).items():
            if not where.resolve().is_relative_to(inside):
                tables.add(where.resolve())
            tables.found(name)  # one of the tree may be about to go, and then asks for nothing
    return {path: _unasked(tree / path, offer, tables) for path, offer in offers.items()}


def asked_for(tree: Path, hidden: Mapping[str, Sequence[Run]], files: Iterable[str]) -> list[str]:
    """Return the files of a tree that have a name in their table which another one is to hide.

    Args:
        tree: The tree.
        hidden: Each library, relative to the tree → the runs of its symbols that are hidden.
        files: All ELF files of the tree that will stay, relative to it.
    """
    gone: dict[str, frozenset[bytes]] = {}
    for path, runs in hidden.items():
        names = _names(tree / path)
        gone[path] = frozenset(name for at, count in runs for name in names[at : at + count])
    return [file for file in files if gone and _asks(tree / file, file, gone)]


def _names(path: Path) -> list[bytes]:
    """Return the names of a file's symbols; none where it cannot be read, and so not changed."""
    try:
        with Elf(path) as elf:
            symbols = read_symbols(elf)
            return symbols.names() if symbols else []
    except FormatRefusedError:
        return []


def _asks(path: Path, file: str, gone: Mapping[str, frozenset[bytes]]) -> bool:
    """True when a file could ask for a name that another one hides."""
    try:
        names = _read(path).names
    except FormatRefusedError:
        return True
    return any(owner != file and not others.isdisjoint(names) for owner, others in gone.items())


@dataclass(frozen=True)
class _Offer:
    """The symbols that a library could hide: their indices and names."""

    indices: tuple[int, ...] = ()
    names: tuple[bytes, ...] = ()
    refusal: str = ""


def _offer(path: Path, prefix: bytes) -> _Offer:
    try:
        with Elf(path) as elf:
            symbols = read_symbols(elf)
            if symbols is None:
                return _Offer(refusal="it has no symbols")
            indices = np.flatnonzero(hideable(elf, symbols))
    except FormatRefusedError as refusal:
        return _Offer(refusal=str(refusal))
    named = zip(indices.tolist(), symbols.names(indices), strict=True)
    kept = [(index, name) for index, name in named if name.startswith(prefix)]
    return _Offer(tuple(index for index, _ in kept), tuple(name for _, name in kept))


def _unasked(path: Path, offer: _Offer, tables: _Tables) -> Unasked:
    refusal = offer.refusal or tables.unreadable or tables.missing(path)
    if refusal:
        return Unasked(refusal=refusal)
    pairs = zip(offer.indices, offer.names, strict=True)
    alone = [(index, name) for index, name in pairs if name not in tables.shared]
    row = 24 + 2 + 4  # symbol, version, hash
    return Unasked(
        tuple(_runs([index for index, _ in alone])),
        sum(row + len(name) + 1 for _, name in alone),
    )


def _runs(indices: Sequence[int]) -> Iterator[Run]:
    """Yield ascending indices as runs."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for part in np.split(np.array(indices, np.int64), breaks):
        if len(part):
            yield int(part[0]), len(part)


@dataclass(frozen=True)
class _Table:
    """What links a file to others: the names in its table, its own name, and whom it needs."""

    names: frozenset[bytes] = frozenset()
    soname: str = ""
    needed: tuple[str, ...] = ()


def _read(path: Path) -> _Table:
    """Return a file's table; an empty one where it is for another machine.

    Raises:
        FormatRefusedError: The file is for this machine and cannot be read.
    """
    try:
        with Elf(path) as elf:
            symbols = read_symbols(elf)
            entries = elf.dynamic_entries
    except OtherMachineError:
        return _Table()
    if symbols is None:
        return _Table()
    named: dict[int, list[str]] = {DT["SONAME"]: [], DT["NEEDED"]: []}
    for tag, value, _ in entries:
        if tag in named:
            named[tag].append(symbols.string(value).decode("utf-8", "replace"))
    soname = next(iter(named[DT["SONAME"]]), path.name)
    return _Table(frozenset(symbols.names()), soname, tuple(named[DT["NEEDED"]]))


class _Tables:
    """The tables of many files, as far as they say anything about some names.

    Args:
        names: The names of interest.

    Attributes:
        shared: Those that stand in more than one table.
        unreadable: Why a file's table is not known; empty where all are.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        self.shared: set[bytes] = set()
        self.unreadable = ""
        self._names = frozenset(names)
        self._once: set[bytes] = set()
        self._seen: set[Path] = set()
        self._needed: dict[str, tuple[str, ...]] = {}

    def add(self, path: Path) -> None:
        """Read the table of a file; of one that was read before nothing changes."""
        if path in self._seen:
            return
        self._seen.add(path)
        try:
            table = _read(path)
        except FormatRefusedError as refusal:
            self.unreadable = f"what {path.name} asks for cannot be read: {refusal}"
            return
        stand = self._names & table.names
        self.shared |= self._once & stand
        self._once |= stand
        for called in (table.soname, path.name):
            self._needed.setdefault(called, table.needed)

    def found(self, name: str) -> None:
        """Note that a library of this name exists."""
        self._needed.setdefault(name, ())

    def missing(self, path: Path) -> str:
        """Return why not all libraries that a file needs are known; empty where they are."""
        known = {path.name, loader.LOADER.name}
        ahead = [path.name]
        while ahead:
            current = ahead.pop()
            if current not in self._needed and current != loader.LOADER.name:
                return f"it needs {current}, which was found nowhere"
            fresh = set(self._needed.get(current, ())) - known
            known |= fresh
            ahead += sorted(fresh)
        return ""
