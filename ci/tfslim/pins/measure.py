"""Measure a wheel: unpack it, run the slim engine on it, and count what is left, file by file.

Only rules that change what is inside NVIDIA's libraries are followed here. Those that remove whole
files are applied to the result (`Measured.sizes`), so that one measurement serves every profile
that treats GPU code alike.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

import zstandard
from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

from tfslim import __version__
from tfslim.errors import DiskError, NetworkError
from tfslim.pins.index import metadata_inside, requires_dist
from tfslim.pins.links import Links, read_links
from tfslim.slim import scan
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import serves
from tfslim.slim.fatbin import Kind
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import (
    DuplicateRule,
    FileRule,
    GpuRule,
    LibraryRule,
    LtoRule,
    Policy,
    ProgramRule,
    SectionRule,
    ZstdRule,
)
from tfslim.slim.tree import tree_files
from tfslim.ui import human_bytes

__all__ = ["FileSize", "Measured", "engine_key", "measure"]

_ZSTD_LEVEL: Final = 10
# Rules that change files of NVIDIA's wheels, and what of them decides how.
_FOLLOWED: Final = (SectionRule, DuplicateRule, LtoRule, ZstdRule, GpuRule)
# Rules after which next to nothing is left of a file.
_REMOVING: Final = (FileRule, LibraryRule, ProgramRule)
_DECIDING: Final = {"removes", "files", "sections", "except_files"}
# Where packages lie in a virtual environment; rules name it with a wildcard for the version.
_SITE: Final = PurePosixPath("lib/python3.13/site-packages")
# Free disk that is left alone (bytes).
_RESERVE: Final = 2 * 10**9


class FileSize(BaseModel):
    """A file after slimming.

    Attributes:
        path: Relative to the environment that the wheel is installed in.
        disk: Bytes.
        pull: Bytes when compressed by zstd, level 10.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    disk: int
    pull: int


class Measured(BaseModel):
    """A wheel after slimming.

    Attributes:
        sms: Compute capabilities that it was slimmed for.
        files: Its files.
        cubins: For each of these, the highest architecture of GPU machine code that serves it; 0
            where there is none.
        restored: Files that the engine left as they were because their proof failed.
        links: What its libraries need and provide.
        requires: What its metadata requires.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sms: tuple[int, ...]
    files: tuple[FileSize, ...]
    cubins: dict[int, int]
    restored: tuple[str, ...]
    links: Links
    requires: tuple[str, ...]

    def sizes(self, policy: Policy) -> tuple[int, int]:
        """Return (bytes on disk, bytes compressed) of the files that a profile leaves.

        What is replaced by a stub (a few kilobytes) counts as gone.
        """
        rules = [rule for rule in policy.profile.rules if isinstance(rule, _REMOVING)]
        paths = [(PurePosixPath(item.path), item) for item in self.files]
        left = [item for path, item in paths if not any(rule.matches(path) for rule in rules)]
        return sum(item.disk for item in left), sum(item.pull for item in left)


def engine_key(policy: Policy) -> str:
    """Return what a measurement depends on, besides the wheel: rules, GPUs and engine version."""
    rules = [
        rule.model_dump(mode="json", include=_DECIDING)
        for rule in policy.profile.rules
        if isinstance(rule, _FOLLOWED)
    ]
    content = [__version__, policy.sms, policy.keep_ptx, rules]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measure(wheel: Path, policy: Policy, scratch: Path) -> Measured:
    """Unpack a wheel into an empty folder of `scratch`, slim it there, measure, and delete it.

    Args:
        wheel: The wheel; stays as it is.
        policy: GPUs and rules.
        scratch: A folder of this run alone.

    Raises:
        NetworkError: The file is no wheel.
        DiskError: There is not room enough to unpack it.
    """
    tree = scratch / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    try:
        requires = tuple(str(line) for line in _unpack(wheel, tree / _SITE))
        links = read_links(tree)
        outcome = apply_plan(make_plan(tree, _followed(policy)), tree)
        return Measured(
            sms=policy.sms,
            files=tuple(
                FileSize(path=item.names[0], disk=item.size, pull=_zstd(item.at(tree)))
                for item in tree_files(tree)
            ),
            cubins=_cubins(tree, policy.sms),
            restored=tuple(item.path for item in outcome.restored),
            links=links,
            requires=requires,
        )
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _followed(policy: Policy) -> Policy:
    rules = tuple(rule for rule in policy.profile.rules if isinstance(rule, _FOLLOWED))
    return replace(policy, profile=policy.profile.model_copy(update={"rules": rules}))


def _unpack(wheel: Path, tree: Path) -> list[Requirement]:
    """Unpack a wheel, after a look at the disk, and return what its metadata requires."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            need = sum(item.file_size for item in archive.infolist())
            free = shutil.disk_usage(wheel.parent).free
            if free < need + _RESERVE:
                raise DiskError(
                    f"{human_bytes(need + _RESERVE)} are needed to unpack {wheel.name}, and "
                    f"{human_bytes(free)} are free",
                    way_out="Free some and run again; what was measured is kept.",
                )
            archive.extractall(tree)
        return requires_dist(metadata_inside(wheel))
    except (zipfile.BadZipFile, ValueError) as error:
        raise NetworkError(f"{wheel.name} is no wheel", why=str(error)) from None


def _zstd(path: Path) -> int:
    counter = _Counter()
    with path.open("rb") as file:
        zstandard.ZstdCompressor(level=_ZSTD_LEVEL).copy_stream(file, cast("IO[bytes]", counter))
    return counter.bytes


class _Counter:
    """A file that only counts what is written."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        return len(data)


def _cubins(tree: Path, sms: tuple[int, ...]) -> dict[int, int]:
    """Return the highest architecture of machine code that serves each GPU; 0 for none."""
    best = dict.fromkeys(sms, 0)
    for item in tree_files(tree):
        if not scan.is_elf(item.at(tree)):
            continue
        found = scan.scan_file(item.at(tree))
        codes = [entry for one in found.found for entry in one.container.entries]
        for sm in sms:
            fitting = [code.sm for code in codes if code.kind is Kind.CUBIN and serves(code, sm)]
            frames = [one.sm for one in found.frames if one.sm // 10 == sm // 10 and one.sm <= sm]
            best[sm] = max([best[sm], *fitting, *frames])
    return best
