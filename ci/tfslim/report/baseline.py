"""Find what a run is compared with: a file, a folder or zip of an artifact, a commit.

A record that lies in a commit is fetched with `git archive`, so that it comes with the file of its
samples, byte for byte.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim import proc
from tfslim.errors import ConfigError, InputError
from tfslim.report.compare import BaselineInfo
from tfslim.report.record import RunRecord
from tfslim.report.samples import beside_file

__all__ = ["DEFAULT_PATH", "Found", "Records", "find_baseline", "open_records"]

Found = tuple[RunRecord | None, BaselineInfo]
"""The record, or None; and what is known of it, or why there is none."""

DEFAULT_PATH: Final = "tfslim-report/report.json"
_GIT_SECONDS: Final = 120.0
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@{}~^+-]*")
_MAX_MEMBERS: Final = 100_000
_MAX_MEMBER: Final = 128 << 20  # bytes, as for a file of samples


@dataclass(frozen=True)
class Records:
    """Files of a folder, an archive or a commit.

    Attributes:
        names: All files that may be records, sorted, with `/` between folders.
        read: Gives a file's content; None where there is none.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes | None]

    def record(self, name: str, shown: str) -> RunRecord:
        """Read one record with its samples.

        Raises:
            InputError: It is not a record.
        """
        folder = posixpath.dirname(name)
        content = self.read(name)
        if content is None:
            raise InputError(f"{shown} is not there")
        return RunRecord.parse(
            content, name=shown, beside=lambda file: self.read(posixpath.join(folder, file))
        )


def find_baseline(text: str) -> Found:
    """Return the record that a baseline names, and what is known of it.

    Args:
        text: A record's file, a folder or zip that holds one (an artifact), `git:REF` or
            `git:REF:PATH`; `artifact:` may stand before a folder or zip.

    Returns:
        None for the record where there is none: the first run has no baseline.

    Raises:
        InputError: What is there is not a record that this version reads.
        ConfigError: The text is no baseline.
    """
    place = text.removeprefix("artifact:")
    path = Path(place)
    if not place.startswith("git:") and path.is_file() and not zipfile.is_zipfile(path):
        return _found(RunRecord.load(path), text)
    records = open_records(place, folder_of=DEFAULT_PATH)
    if records is None:
        return None, BaselineInfo(source=text, found=False, note=f"There is no baseline: {text}.")
    name = _report_in(records.names)
    if name is None:
        note = f"There is no baseline: {text} holds no report.json."
        return None, BaselineInfo(source=text, found=False, note=note)
    return _found(records.record(name, f"{text} ({name})"), text)


def open_records(place: str, folder_of: str = "") -> Records | None:
    """Open a folder, a zip or `git:REF[:PATH]`; None where there is nothing.

    Args:
        place: What a person named.
        folder_of: In a commit, where no path was named, the folder of this file is opened.

    Raises:
        ConfigError: It is `git:` without a ref.
        InputError: It is a file, and no zip.
    """
    if place.startswith("git:"):
        return _of_commit(place.removeprefix("git:"), folder_of)
    path = Path(place)
    if path.is_dir():
        return _of_folder(path)
    return _of_zip(path) if path.exists() else None


def _found(record: RunRecord, text: str) -> Found:
    return record, BaselineInfo(
        source=text,
        found=True,
        started=record.started,
        commit=record.environment.source.commit,
        machine=record.environment.machine_key,
        tfslim=record.environment.tfslim,
    )


def _report_in(names: tuple[str, ...]) -> str | None:
    """Return the report.json that lies highest; else the only JSON file there is."""
    found = [name for name in names if posixpath.basename(name) == "report.json"]
    if found:
        return min(found, key=lambda name: (name.count("/"), name))
    return names[0] if len(names) == 1 else None


def _of_folder(folder: Path) -> Records:
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.json") if path.is_file()
    )
    return Records(tuple(names[:_MAX_MEMBERS]), beside_file(folder))


def _of_zip(path: Path) -> Records:
    """Open an archive; nothing of it is unpacked to disk."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is neither a record nor a zip", why=str(error)) from error
    members = {item.filename: item for item in archive.infolist()[:_MAX_MEMBERS]}

    def read(name: str) -> bytes | None:
        member = members.get(name)
        if member is None:
            return None
        try:
            with archive.open(member) as file:
                return file.read(_MAX_MEMBER + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise InputError(f"{path}: {name} is damaged", why=str(error)) from error

    return Records(tuple(sorted(name for name in members if name.endswith(".json"))), read)


def _of_commit(text: str, folder_of: str) -> Records | None:
    """Open a folder of a commit, or the folder that a file of it lies in."""
    ref, _, path = text.partition(":")
    if not _REF.fullmatch(ref):
        raise ConfigError(
            f"git:{text} names no commit",
            way_out="For example git:main, git:v1.2 or git:main:results/report.json.",
        )
    path = posixpath.normpath(path or folder_of or ".").strip("/")
    one = path.endswith(".json")
    # One record may lie among large files: it and what begins with its name, such as its samples.
    wanted = [path, f":(glob){path.removesuffix('json')}*"] if one else [path]
    with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
        packed = Path(scratch, "records.zip")
        top = proc.run(["git", "rev-parse", "--show-toplevel"], timeout=_GIT_SECONDS)
        done = proc.run(
            ["git", "archive", "--format=zip", f"--output={packed}", ref, "--", *wanted],
            cwd=Path(top.stdout.strip() or "."),
            timeout=_GIT_SECONDS,
        )
        if not done.ok or not packed.exists():
            return None
        records = _of_zip(packed)  # the open file outlives its name
    if not one:
        return records
    return Records(tuple(name for name in records.names if name == path), records.read)
