"""The committed locks in `dockerfiles/locks/`: their names, and which one serves a build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["find_lock", "lock_name", "locks_folder"]

_NAME: Final = re.compile(
    r"tensorflow-(?P<tensorflow>[^-]+)-py(?P<python>\d+\.\d+)-sm(?P<sms>\d+(-\d+)*)\.txt"
)


def locks_folder() -> Path:
    """Return where the committed locks lie; the folder exists in a checkout only."""
    return Path(__file__).resolve().parents[3] / "dockerfiles" / "locks"


def lock_name(tensorflow: str, python: str, sms: Iterable[int]) -> str:
    """Return the file name of a lock, such as `tensorflow-2.21.0-py3.13-sm80-90.txt`."""
    return f"tensorflow-{tensorflow}-py{python}-sm{'-'.join(map(str, sorted(set(sms))))}.txt"


def find_lock(
    tensorflow: str, python: str, archs: Sequence[str | int], folder: Path | None = None
) -> Path | None:
    """Return the committed lock for a build; None where there is none.

    A lock for more GPUs serves fewer as well: each of its libraries has code for all of them. So
    without one for exactly these GPUs it is the one for the fewest others.

    Args:
        tensorflow: Release, such as "2.21.0".
        python: Minor version, such as "3.13".
        archs: Compute capabilities, such as "90", "9.0" or 90.
        folder: Where to look instead of `dockerfiles/locks`.
    """
    wanted = {_sm(arch) for arch in archs}
    if None in wanted or not wanted:
        return None
    fitting = [
        (len(sms), path.name, path)
        for path in (folder or locks_folder()).glob("*.txt")
        if (match := _NAME.fullmatch(path.name))
        and (match["tensorflow"], match["python"]) == (tensorflow, python)
        and wanted <= (sms := {int(sm) for sm in match["sms"].split("-")})
    ]
    return min(fitting)[2] if fitting else None


def _sm(arch: str | int) -> int | None:
    """Read "90", "9.0", "90a" or 90 as 90; None for anything else ("native", "90+PTX")."""
    match = re.fullmatch(r"(\d{1,2})\.?(\d)[af]?", str(arch))
    return int(match[1] + match[2]) if match else None
