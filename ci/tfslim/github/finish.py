"""The last step of a job: one line, and the exit code that the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tfslim.errors import InputError
from tfslim.github.commands import Commands
from tfslim.github.state import STATE_FILE, JobState

__all__ = ["finish"]

_DEFECT: Final = 1


def finish(folder: Path, unfinished: Path, commands: Commands) -> int:
    """Say in one line how the job ended, and return its exit code.

    Args:
        folder: The report's.
        unfinished: Where the state lies until the job ends.
        commands: The runner.
    """
    ended = folder / STATE_FILE
    try:
        state = JobState.load(ended if ended.exists() else unfinished / STATE_FILE)
    except InputError as error:
        commands.annotate(
            "error", f"{error.what}: the run ended before it said how", title="tfslim"
        )
        return _DEFECT
    if state.status == "running":
        commands.annotate(
            "error",
            "the run ended before it said how: it was killed, or the machine ran out of memory",
            title="tfslim",
        )
        return state.exit_code or _DEFECT
    why = f": {'; '.join(state.why[:3])}" if state.why else ""
    if state.error is not None:
        why = f": {state.error.what}"
    with commands.verbatim():
        commands.say(f"tfslim: {state.status}, {state.verdict}{why} (exit code {state.exit_code})")
    return state.exit_code
