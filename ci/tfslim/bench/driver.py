"""The machine's NVIDIA driver as a folder of its own would hold it: what to bind into a root.

A driver's libraries fit the kernel module of the machine, so no image has them; a container engine
binds them in, and so does `rootfs.py`. What is bound, by name, stands in `driver.yaml`.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tfslim import proc

__all__ = ["Driver", "find_driver"]

_DATA = Path(__file__).with_name("driver.yaml")
_CAPABILITIES = ("compute", "utility")
_VERSION_FILE = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_CACHE_LINE = re.compile(r"^\s*(\S+) \(.*\) => (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Driver:
    """What was found.

    Attributes:
        version: The kernel module's; empty where it does not say.
        libraries: File name, as programs ask for it, to the real file.
        programs: Name to file.
        devices: Device nodes.
        missing: Libraries of `driver.yaml` that are not there, with what each is.
        required: Those of `missing` without which nothing runs on a GPU.
    """

    version: str
    libraries: dict[str, Path]
    programs: dict[str, Path]
    devices: tuple[Path, ...]
    missing: dict[str, str]
    required: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether programs can get at a GPU with it."""
        return not self.required and bool(self.devices)

    @property
    def why_not(self) -> str:
        """What is missing; empty where it is usable."""
        lacks = []
        if self.required:
            lacks.append(f"no {' and no '.join(f'{name}.1' for name in self.required)}")
        if not self.devices:
            lacks.append("no device node /dev/nvidia*")
        return ", ".join(lacks)

    def describe(self) -> list[str]:
        """Return what is bound and what is missing, as lines for a person."""
        lines = [f"driver {self.version or 'of unknown version'}"]
        lines += [f"bound: {name} from {path}" for name, path in sorted(self.libraries.items())]
        lines += [f"bound: {name} from {path}" for name, path in sorted(self.programs.items())]
        lines += [f"device: {path}" for path in self.devices]
        lines += [f"not on this machine: {n} ({what})" for n, what in sorted(self.missing.items())]
        return lines


def find_driver(folders: Iterable[str] | None = None) -> Driver:
    """Look for the driver's files on this machine; nothing is loaded.

    Args:
        folders: Where to look for libraries; without them, LD_LIBRARY_PATH, the dynamic linker's
            cache, and the usual folders.
    """
    data = _data()
    version = _kernel_version()
    places = list(_folders() if folders is None else folders)
    libraries: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for capability in _CAPABILITIES:
        for name, what in data[capability]["libraries"].items():
            files = _library(name, places, version)
            libraries |= files
            if not files:
                missing[name] = what
    names = [n for capability in _CAPABILITIES for n in data[capability]["programs"]]
    programs = {name: Path(path) for name in names if (path := shutil.which(name))}
    patterns = [pattern.lstrip("/") for pattern in data["devices"]]
    devices = [path for pattern in patterns for path in sorted(Path("/").glob(pattern))]
    return Driver(
        version=version,
        libraries=libraries,
        programs=programs,
        devices=tuple(path for path in devices if not path.is_dir()),
        missing=missing,
        required=tuple(name for name in data["required"] if name in missing),
    )


@functools.cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_DATA.read_text(encoding="utf-8"))
    return loaded


def _kernel_version() -> str:
    try:
        found = _VERSION.search(_VERSION_FILE.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _folders() -> Iterator[str]:
    yield from (part for part in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part)
    paths = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    cache = proc.run(["ldconfig", "-p"], env={"PATH": paths}).stdout
    for name, path in _CACHE_LINE.findall(cache):
        if name.startswith(("libcuda.so", "libnvidia-")):
            yield str(Path(path).parent)
    yield from _data()["folders"]


def _library(name: str, folders: Iterable[str], version: str) -> dict[str, Path]:
    """Return a library's names in the first folder that has it, of the kernel module's version.

    libnvidia-container takes files whose version is the kernel module's and no others.
    """
    for folder in dict.fromkeys(folders):
        files = {path.name: path.resolve() for path in sorted(Path(folder).glob(f"{name}*"))}
        fit = {
            own: real
            for own, real in files.items()
            if real.is_file() and (not version or _fits(real.name, version))
        }
        if fit:
            return fit
    return {}


def _fits(real: str, version: str) -> bool:
    """Return whether a file has the right version in its name, if any (`libcuda.so.1` has none)."""
    found = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", real)
    return found is None or found[1] == version
