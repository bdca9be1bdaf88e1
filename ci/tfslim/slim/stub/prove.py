"""Prove that a stub offers what it stands in for, and asks for nothing. Reads only.

Asked are the file as it was written and the dynamic loader, not the code that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tfslim.slim.elf import ET_EXEC, PT_INTERP, Elf, FormatRefusedError
from tfslim.slim.loader import loader_answer
from tfslim.slim.stub.interface import needed_libraries, read_interface, unfound_names
from tfslim.slim.stub.write import is_stub

__all__ = ["stub_problems"]


def stub_problems(original: Path, stub: Path) -> list[str]:
    """Return everything that speaks against a stub; nothing means that it is proved.

    Args:
        original: The library or program as it was.
        stub: What shall take its place.
    """
    try:
        with Elf(original) as old, Elf(stub) as new:
            if not is_stub(new):
                return ["it does not say what it is"]
            if new.type == ET_EXEC:
                needs_loader = any(segment.type == PT_INTERP for segment in new.segments)
                return ["it needs a loader"] if needs_loader else []
            problems = list(_library_problems(old, new))
    except FormatRefusedError as refusal:
        return [f"it cannot be read: {refusal}"]
    answer = loader_answer(stub)
    if answer is not None and not answer.startswith("exit 0\n"):
        problems.append(f"the loader does not map it: {answer}")
    return problems


def _library_problems(old: Elf, new: Elf) -> Iterator[str]:
    offered, wanted = read_interface(new), read_interface(old)
    if offered.soname != wanted.soname:
        yield "it has another name"
    if offered.versions != wanted.versions:
        yield "it has other versions"
    missing = sorted(set(wanted.exports) ^ set(offered.exports))
    if missing:
        names = ", ".join(export.name.decode("utf-8", "replace") for export in missing[:3])
        yield f"{len(missing)} names are not the same: {names}"
    if unfound := unfound_names(new, {export.name for export in wanted.exports}):
        yield f"{len(unfound)} names cannot be found"
    if needed := needed_libraries(new):
        yield f"it needs {', '.join(needed)}"
    if len(new.relocations.where):
        yield "it has relocations"
