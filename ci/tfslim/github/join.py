"""One record out of many jobs' artifacts; what is missing or broken is said, never passed over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim.errors import InputError
from tfslim.github.state import STATE_FILE, JobState
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord, merge

__all__ = ["Joined", "joined"]

_RECORD: Final = "report.json"
_MOST_PARTS: Final = 1000


@dataclass(frozen=True)
class Joined:
    """What the parts come to.

    Attributes:
        record: All that could be read, each part with its own machine.
        missing: A sentence for each part that is not in it.
    """

    record: RunRecord
    missing: tuple[str, ...]


def joined(folder: Path) -> Joined:
    """Read every part below a folder, and join them.

    A part is a folder with a record, or with the state of a job that has none.

    Raises:
        InputError: There is no such folder, or no part of it can be read.
    """
    if not folder.is_dir():
        raise InputError(
            f"records: {folder} is not a folder",
            way_out="Put actions/download-artifact before this step, with the same `path`.",
        )
    records: list[RunRecord] = []
    missing: list[str] = []
    for place in _parts(folder):
        name = plain(place.relative_to(folder).as_posix(), 80)
        if not (place / _RECORD).is_file():
            missing.append(f"part {name} is missing: {_ended(place / STATE_FILE)}")
            continue
        try:
            records.append(RunRecord.load(place / _RECORD))
        except InputError as error:
            missing.append(f"part {name} is broken: {plain(f'{error.what} {error.why}', 300)}")
    if not records:
        raise InputError(
            f"records: there is no record in {folder}",
            why="\n".join(missing[:50]) or f"no file in it is called {_RECORD}",
            way_out="The jobs of the matrix upload one each: look at how they ended, and at the "
            "`path` of actions/download-artifact.",
        )
    record = merge(records)
    notes = [*record.notes, *missing]
    return Joined(record.model_copy(update={"notes": notes}), tuple(missing))


def _parts(folder: Path) -> list[Path]:
    found = {
        path.parent
        for name in (_RECORD, STATE_FILE)
        for path in folder.rglob(name)
        if path.is_file()
    }
    return sorted(found)[:_MOST_PARTS]


def _ended(state: Path) -> str:
    """Say how a job without a record ended."""
    try:
        found = JobState.load(state)
    except InputError as error:
        return plain(error.what, 300)
    told = found.error.what if found.error else "it left no record"
    return plain(f"its job is {found.status}: {told}", 300)
