"""Which libraries and programs of a tree become stubs, and which must stay because of others.

A library stays where anything that stays needs it, by the loader's word or by the rule's; and where
its stub could not offer what it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from tfslim.slim import scan
from tfslim.slim.elf import Elf, FormatRefusedError, OtherMachineError
from tfslim.slim.plan import Content, FilePlan, Note, Removal
from tfslim.slim.pool import Pool
from tfslim.slim.rules import LibraryRule, Profile, ProgramRule
from tfslim.slim.stub.interface import needed_libraries, read_interface
from tfslim.slim.stub.write import is_stub, library_stub, program_stub
from tfslim.slim.tree import TreeFile, sha256

__all__ = ["plan_stubs"]

# No ELF file is smaller (bytes).
_SMALLEST: Final = 64
# Stands for the libraries that an unreadable file needs.
_UNKNOWN: Final = ""


@dataclass(frozen=True)
class _Candidate:
    """A file that a rule would replace.

    Attributes:
        file: The file.
        rule: The rule.
        stub: What would take its place; empty where it is one already.
        names: The names that others need it by.
        refusal: Why nothing can; empty where something can.
    """

    file: TreeFile
    rule: LibraryRule | ProgramRule
    stub: bytes
    names: frozenset[str]
    refusal: str = ""


def plan_stubs(
    tree: Path, files: Sequence[TreeFile], rules: Profile, gone: Collection[str], pool: Pool
) -> tuple[list[FilePlan], list[Note]]:
    """Return the plans for stubs, and what stays although a rule names it.

    Args:
        tree: The tree.
        files: Its files.
        rules: The rules.
        gone: The first names of those files that are deleted.
        pool: Where the files are read.
    """
    stay = [item for item in files if item.names[0] not in gone]
    found = {
        item.names[0]: candidate
        for item in stay
        if (candidate := _candidate(tree, item, rules)) is not None
    }
    if not found:
        return [], []
    kept = _kept(tree, stay, found)
    notes = [
        Note(path=name, bytes=found[name].file.size if found[name].refusal else 0, why=why)
        for name, why in sorted(kept.items())
    ]
    chosen = [one for name, one in found.items() if name not in kept and one.stub]
    plans = pool.run(
        "Reading libraries that become stubs",
        _plan,
        [(tree, one) for one in chosen],
        sizes=[one.file.size for one in chosen],
        names=[one.file.names[0] for one in chosen],
    )
    return plans, notes


def _candidate(tree: Path, item: TreeFile, rules: Profile) -> _Candidate | None:
    """Return a file with its stub, where a rule names it under all of its names."""
    paths = [PurePosixPath(name) for name in item.names]
    rule = next((rule for rule in rules.stub_rules if all(map(rule.matches, paths))), None)
    if rule is None or item.size < _SMALLEST or not scan.is_elf(item.at(tree)):
        return None
    names = frozenset(path.name for path in paths)
    try:
        with Elf(item.at(tree)) as elf:
            if is_stub(elf):
                return _Candidate(item, rule, b"", names)
            if isinstance(rule, ProgramRule):
                return _Candidate(item, rule, program_stub(paths[0].name, rule.explained), names)
            offered = read_interface(elf)
        name = paths[0].name.partition(".so")[0]
        stub = library_stub(offered, name, rule.explained, rule.answer)
    except OtherMachineError:
        return None
    except FormatRefusedError as refusal:
        return _Candidate(item, rule, b"", names, f"stays: nothing can stand in for it: {refusal}")
    return _Candidate(item, rule, stub, names | {offered.soname.decode("utf-8", "replace")})


def _kept(tree: Path, stay: Sequence[TreeFile], found: dict[str, _Candidate]) -> dict[str, str]:
    """Return the candidates that stay as they are, and why."""
    kept = {name: one.refusal for name, one in found.items() if one.refusal}
    others = [item for item in stay if item.names[0] not in found or item.names[0] in kept]
    while others:
        needed = {name: needs for item in others for name, needs in _needs(tree, item)}
        more = {
            name: why
            for name, one in found.items()
            if name not in kept and (why := _needed_by(one, others, needed))
        }
        kept.update(more)
        others = [found[name].file for name in more]
    return kept


def _needs(tree: Path, item: TreeFile) -> Iterator[tuple[str, str]]:
    """Yield the libraries that a file needs, each with the file's name."""
    name = PurePosixPath(item.names[0]).name
    if item.size < _SMALLEST or not scan.is_elf(item.at(tree)):
        return
    try:
        with Elf(item.at(tree)) as elf:
            if not is_stub(elf):
                yield from ((library, name) for library in needed_libraries(elf))
    except OtherMachineError:
        return
    except FormatRefusedError:
        yield _UNKNOWN, name


def _needed_by(one: _Candidate, others: Iterable[TreeFile], needed: dict[str, str]) -> str:
    """Return why a library stays, where one of the files that stay needs it."""
    if isinstance(one.rule, ProgramRule):
        return ""
    if _UNKNOWN in needed:
        return f"stays: {needed[_UNKNOWN]} cannot be read, and may need it"
    for library in sorted(one.names & needed.keys()):
        return f"stays: {needed[library]} needs it"
    for item in others:
        if any(one.rule.opens(PurePosixPath(name)) for name in item.names):
            return f"stays: {PurePosixPath(item.names[0]).name} opens it"
    return ""


def _plan(work: tuple[Path, _Candidate]) -> FilePlan:
    tree, one = work
    item = one.file
    what = "library" if isinstance(one.rule, LibraryRule) else "program"
    return FilePlan(
        path=item.names[0],
        links=item.names[1:],
        size=item.size,
        sha256=sha256(item.at(tree)),
        action="replace",
        after=len(one.stub),
        content=Content.of(one.stub),
        removals=(Removal(rule=one.rule.id, what=what, count=1, bytes=item.size),),
    )
