"""A folder for one run alone, so that runs side by side do not meet; gone when the run is over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["own_folder"]


@contextmanager
def own_folder(parent: Path, label: str) -> Iterator[Path]:
    """Make an empty folder; clear those that killed processes left, which may be gigabytes.

    Args:
        parent: Where it is made.
        label: What its name begins with.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{label}-*-*"):
        pid = left.name.split("-")[-2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{label}-{os.getpid()}-", dir=parent) as folder:
        yield Path(folder)
