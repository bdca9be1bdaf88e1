"""A report's artifact as a stranger packed it: opened in memory, bounded, nothing unpacked to disk.

Three files of it are read, each by its exact name; what else lies in it (pages, pictures) is never
opened. Whatever is wrong with it, the reader ends with one InputError.
"""

from __future__ import annotations

import io
import posixpath
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from tfslim.errors import InputError
from tfslim.github.state import STATE_FILE, JobState
from tfslim.report.inert import plain
from tfslim.report.measures import measures
from tfslim.report.reading import MAX_BYTES
from tfslim.report.record import RunRecord

__all__ = ["MOST_BYTES", "Parcel", "open_parcel"]

MOST_BYTES: Final = 64 << 20
"""Bytes of the zip."""

_RECORD: Final = "report.json"
_SAMPLES: Final = "report.samples.json.gz"
_MOST_MEMBERS: Final = 2_000
_MOST_UNPACKED: Final = 512 << 20  # bytes that all members say they have
_MOST_OF: Final = {_RECORD: MAX_BYTES, STATE_FILE: 256 << 10, _SAMPLES: 16 << 20}
_MOST_SAMPLES: Final = 32 << 20  # bytes of samples, unpacked
_MOST_SUBJECTS: Final = 200
_MOST_MEASURES: Final = 5_000  # with so many a report takes some seconds
_LONGEST_NAME: Final = 300
_KINDS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENTRY: Final = b"PK\x01\x02"  # begins each entry of a zip's directory
_BROKEN: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class Parcel:
    """What a run left.

    Attributes:
        state: How its job ended, as it says itself.
        record: What it measured; None where it came to none.
    """

    state: JobState
    record: RunRecord | None


def open_parcel(path: Path) -> Parcel:
    """Read an artifact's zip.

    Raises:
        InputError: It is damaged, too large, or not what such a job leaves.
    """
    files = _read(path.read_bytes())
    if STATE_FILE not in files:
        _refuse(f"it holds no {STATE_FILE}")
    state = JobState.read(files[STATE_FILE])
    if _RECORD not in files:
        return Parcel(state, None)
    _check_samples(files.get(_SAMPLES))
    try:
        record = RunRecord.parse(files[_RECORD], name=_RECORD, beside=files.get)
        _check_amounts(record)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (what a stranger wrote must not end in a traceback)
        _refuse(f"its {_RECORD} cannot be read: {type(error).__name__}")
    return Parcel(state, record)


def _check_amounts(record: RunRecord) -> None:
    """Refuse more than any run has: the time that a report takes grows with it."""
    if len(record.subjects) > _MOST_SUBJECTS:
        _refuse(f"its {_RECORD} is of more than {_MOST_SUBJECTS} images")
    parts = (part.model_copy(update={"others": []}) for part in record.parts)
    if sum(len(measures(part)) for part in parts) > _MOST_MEASURES:
        _refuse(f"its {_RECORD} has more than {_MOST_MEASURES} measures")


def _read(content: bytes) -> dict[str, bytes]:
    """Return the three files, as far as they are there."""
    if len(content) > MOST_BYTES:
        _refuse(f"it is larger than {MOST_BYTES >> 20} MiB")
    if content.count(_ENTRY) > _MOST_MEMBERS:  # before each becomes an object in memory
        _refuse(f"it holds more than {_MOST_MEMBERS} files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members)
            wanted = [item for item in members if item.filename in _MOST_OF]
            return {item.filename: _content(archive, item) for item in wanted}
    except _BROKEN as error:
        _refuse(f"it is damaged: {plain(f'{type(error).__name__}: {error}', 200)}")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """Refuse what no upload of ours packs, whether it would be read or not."""
    seen: set[str] = set()
    if sum(item.file_size for item in members) > _MOST_UNPACKED:
        _refuse(f"it unpacks to more than {_MOST_UNPACKED >> 20} MiB")
    for item in members:
        # The name as it is packed: zipfile cuts it at a zero, and turns separators.
        problem = _problem(item.orig_filename, item)
        if problem:
            _refuse(f"it holds {plain(item.orig_filename)!r}, {problem}")
        if item.filename.lower() in seen:
            _refuse(f"it holds {plain(item.filename)!r} twice")
        seen.add(item.filename.lower())


def _problem(name: str, item: zipfile.ZipInfo) -> str:
    if not name or len(name) > _LONGEST_NAME or "\0" in name or "\\" in name or ":" in name:
        return "which is no name of a file"
    if name.startswith("/") or ".." in name.split("/") or posixpath.normpath(name) == ".":
        return "which leads out of it"
    if stat.S_ISLNK(item.external_attr >> 16):
        return "which is a link"
    if item.flag_bits & 0x1:
        return "which is encrypted"
    return "" if item.compress_type in _KINDS else "which is packed in a way that is not ours"


def _content(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    """Unpack one file, as far as it may go: what a zip says of sizes is only said."""
    most = _MOST_OF[item.filename]
    with archive.open(item) as file:
        content = file.read(most + 1)
    if len(content) > most:
        _refuse(f"its {item.filename} is larger than {most} bytes")
    return content


def _check_samples(content: bytes | None) -> None:
    """Refuse samples that unpack to more than any run has."""
    if content is None:
        return
    try:
        size = len(zlib.decompressobj(wbits=31).decompress(content, _MOST_SAMPLES + 1))
    except zlib.error as error:
        _refuse(f"its {_SAMPLES} is damaged: {error}")
    if size > _MOST_SAMPLES:
        _refuse(f"its {_SAMPLES} unpacks to more than {_MOST_SAMPLES >> 20} MiB")


def _refuse(why: str) -> NoReturn:
    raise InputError("the artifact is not what a report's job leaves", why=why)
