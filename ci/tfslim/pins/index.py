"""The one seam to a package index: which wheels there are, what they require, and their content.

Asks through the simple repository API (PEP 503, 691, 700, 658). What comes back is taken as
hostile: names are parsed, not trusted; a wheel without a SHA-256 does not count; a download whose
digest differs is deleted.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import requests
from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version
from pypi_simple import (
    DigestMismatchError,
    DistributionPackage,
    NoDigestsError,
    NoMetadataError,
    NoSuchProjectError,
    PyPISimple,
    UnsupportedRepoVersionError,
)
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tfslim.errors import ConfigError, NetworkError
from tfslim.pins.settings import IndexSettings
from tfslim.slim.tree import sha256
from tfslim.ui import Step, Ui, human_bytes

__all__ = ["PackageIndex", "Wheel", "metadata_inside", "requires_dist"]

# Seconds to connect, and seconds without a byte.
_TIMEOUT: Final = (10.0, 60.0)
_ATTEMPTS: Final = 3
# The newest glibc that wheels may ask for: that of the oldest base that images are built on.
_GLIBC: Final = 28
# How reading an answer can end; nesting without end is one way to answer.
_UNREADABLE: Final = (
    ValueError,
    RecursionError,
    UnsupportedRepoVersionError,
    zipfile.BadZipFile,
)
_OLDER: Final = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


@dataclass(frozen=True)
class Wheel:
    """A wheel as the index offers it.

    Attributes:
        project: Canonical name.
        version: Its version.
        filename: Of the wheel; holds no folder.
        sha256: Of its content, in hex.
        size: Bytes; None where the index does not say.
    """

    project: str
    version: Version
    filename: str
    sha256: str
    size: int | None
    package: DistributionPackage = field(repr=False, compare=False)


class PackageIndex:
    """A package index, for wheels that one Python on x86-64 Linux can use.

    Args:
        settings: Where it is.
        python: Minor version, such as "3.13".
        ui: Where downloads are shown.
    """

    def __init__(self, settings: IndexSettings, python: str, ui: Ui) -> None:
        self._python = python
        self._tags = _tags(python)
        self._ui = ui
        self._host = urlsplit(settings.url).hostname or "the index"  # the address may hold a login
        session = requests.Session()
        session.verify = settings.ca or True
        retry = Retry(total=_ATTEMPTS, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504))
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        self._client = PyPISimple(settings.url, session=session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.s.close()

    def wheels(self, project: str) -> list[Wheel]:
        """Return the wheels of a project that fit, oldest first; none yanked, no pre-releases.

        Raises:
            ConfigError: The index does not know the project.
            NetworkError: The index cannot be reached, or its answer cannot be read.
        """
        with self._told(f"the list of {project}"):
            page = self._client.get_project_page(project, timeout=_TIMEOUT)
        fitting = (self._wheel(project, package) for package in page.packages)
        best: dict[Version, Wheel] = {}
        for wheel in filter(None, fitting):
            held = best.get(wheel.version)
            # A version may lie there twice, built once more for another tag: any one is measured.
            if held is None or wheel.filename > held.filename:
                best[wheel.version] = wheel
        return [best[version] for version in sorted(best)]

    def metadata(self, wheel: Wheel, scratch: Path) -> bytes:
        """Return a wheel's metadata.

        Args:
            wheel: The wheel.
            scratch: Folder for the wheel itself, where the index does not serve the metadata alone.

        Raises:
            NetworkError: It cannot be had, or cannot be read.
        """
        promised = bool(wheel.package.metadata_digests)
        with self._told(f"the metadata of {wheel.filename}"):
            try:
                return self._client.get_package_metadata_bytes(
                    wheel.package, verify=promised, timeout=_TIMEOUT
                )
            except NoMetadataError:
                return metadata_inside(self.download(wheel, scratch))

    def download(self, wheel: Wheel, folder: Path) -> Path:
        """Download a wheel and return where it is; one that is there already is used.

        Raises:
            NetworkError: It cannot be had, or is not what the index promised; nothing is kept.
        """
        target = folder / wheel.filename
        if target.is_file() and sha256(target) == wheel.sha256:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"{target.name}-{os.getpid()}.part")
        try:
            with self._told(wheel.filename):
                self._fetch(wheel, aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def _fetch(self, wheel: Wheel, target: Path) -> None:
        """Download and check a wheel; a connection that breaks off is tried again."""
        title = f"Download {wheel.project} {wheel.version}"
        with self._ui.step(title, wheel.size) as step:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._client.download_package(
                        wheel.package, target, progress=lambda _: _Progress(step), timeout=_TIMEOUT
                    )
                except (requests.ConnectionError, requests.Timeout) as error:
                    if attempt == _ATTEMPTS:
                        raise
                    self._ui.note(f"{wheel.filename}: {error}; again from the start")
                else:
                    return

    def _wheel(self, project: str, package: DistributionPackage) -> Wheel | None:
        """Return a listed file as a wheel, where it is one that fits and can be locked."""
        try:
            name, version, _, tags = parse_wheel_filename(package.filename)
            python = SpecifierSet(package.requires_python or "")
        except (InvalidWheelFilename, InvalidSpecifier):
            return None
        digest = package.digests.get("sha256", "")
        fits = (
            name == canonicalize_name(project)
            and not version.is_prerelease
            and not package.is_yanked
            and not tags.isdisjoint(self._tags)
            and python.contains(self._python)
        )
        if not fits or len(digest) != 64:
            return None
        return Wheel(name, version, package.filename, digest, package.size, package)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what a request can end with into an error for people."""
        try:
            yield
        except NoSuchProjectError:
            raise ConfigError(f"{what}: there is no such package on {self._host}") from None
        except (DigestMismatchError, NoDigestsError) as error:
            raise NetworkError(
                f"{what} is not what {self._host} promised; nothing was kept", why=str(error)
            ) from None
        except requests.JSONDecodeError as error:
            raise self._unreadable(what, error) from None
        except requests.RequestException as error:
            raise NetworkError(
                f"{what} could not be had from {self._host}",
                why=str(error)[:500],
                way_out="Check network and proxy.\n"
                "A private index and its CA: PIP_INDEX_URL and PIP_CERT.",
            ) from None
        except _UNREADABLE as error:
            raise self._unreadable(what, error) from None

    def _unreadable(self, what: str, error: Exception) -> NetworkError:
        return NetworkError(
            f"{what}: the answer of {self._host} cannot be read", why=str(error)[:500]
        )


class _Progress:
    """Tells a step how much of a download has come."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, increment: int) -> None:
        """Count bytes."""
        self._done += increment
        self._step.advance(increment)
        self._step.update(human_bytes(self._done))


@cache
def _tags(python: str) -> frozenset[Tag]:
    """Return the tags of wheels that CPython of this minor version can use on x86-64 Linux."""
    major, minor = (int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{glibc}_x86_64" for glibc in range(_GLIBC, 4, -1)]
    platforms += [f"{name}_x86_64" for name in _OLDER]
    version = (major, minor)
    return frozenset(
        [
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, f"cp{major}{minor}", platforms),
        ]
    )


def requires_dist(metadata: bytes) -> list[Requirement]:
    """Return what a package's metadata requires, extras included.

    Raises:
        ValueError: A line is no requirement.
    """
    return [Requirement(line) for line in parse_email(metadata)[0].get("requires_dist", [])]


def metadata_inside(wheel: Path) -> bytes:
    """Read the metadata that a wheel holds.

    Raises:
        ValueError: It holds none, or several.
        BadZipFile: It is no archive.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        if len(names) != 1:
            raise ValueError(f"{wheel.name} holds {len(names)} METADATA files")
        return archive.read(names[0])
