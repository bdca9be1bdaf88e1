"""Finished launches on disk, line by line, so that an interrupted run loses none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfslim.bench.results import ColdLaunch
from tfslim.errors import InputError

__all__ = ["Journal"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Journal:
    """The launches of one run.

    Attributes:
        path: File of JSON lines: what is measured, then one line for each launch.
        done: Launches that an earlier, interrupted run of the same made.
    """

    path: Path
    done: list[ColdLaunch]

    @classmethod
    def open(cls, path: Path, subject: dict[str, Any]) -> Journal:
        """Open a journal; one that an interrupted run of the same left is gone on with.

        Args:
            path: The file.
            subject: What is measured: images by digest, settings. A journal of anything else, or
                from before this machine's last boot, is begun anew.

        Raises:
            InputError: The file cannot be written.
        """
        first = json.dumps({**subject, "boot": _boot()}, sort_keys=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            if lines and lines[0] == first:
                done = [item for line in lines[1:] if (item := _launch(line)) is not None]
            else:
                done = []
            text = "".join(f"{line}\n" for line in (first, *(x.model_dump_json() for x in done)))
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror}", way_out="Name a folder with -o."
            ) from error
        return cls(path, done)

    def add(self, launch: ColdLaunch) -> None:
        """Keep a launch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{launch.model_dump_json()}\n")
        self.done.append(launch)


def _launch(line: str) -> ColdLaunch | None:
    """Read a line; None for the half line of a write that was cut off."""
    try:
        return ColdLaunch.model_validate_json(line)
    except ValueError:
        return None


def _boot() -> str:
    """Return what tells this boot of the machine from another one."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
