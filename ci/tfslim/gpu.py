"""What this machine has of NVIDIA: GPUs, driver, and how containers get at them.

Only asks; changes nothing and starts no CUDA context. `nvidia-smi` comes with every driver and is
mounted into containers that have the `utility` capability, so it is the one source used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfslim import proc

__all__ = ["Gpu", "Gpus", "container_access", "find_gpus"]

_QUERY = ("name", "compute_cap", "memory.total", "driver_version")
_SMI_SECONDS = 30
_CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_HOOK = "nvidia-container-runtime-hook"


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Product name.
        compute_capability: As "9.0".
        memory_bytes: Memory in total.
        driver: Version of the driver.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str

    @property
    def sm(self) -> str:
        """Compute capability as architectures are written ("90")."""
        return self.compute_capability.replace(".", "")


@dataclass(frozen=True)
class Gpus:
    """All GPUs, or why none is seen: no driver, or a driver that does not answer."""

    gpus: tuple[Gpu, ...]
    why_none: str = ""
    broken: bool = False


def find_gpus() -> Gpus:
    """Ask the driver for its GPUs."""
    done = proc.run(
        ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"],
        timeout=_SMI_SECONDS,
    )
    if done.returncode == 127:
        if _driver_library():
            return Gpus((), "libcuda.so.1 is there, but not nvidia-smi to ask it", broken=True)
        return Gpus((), "no NVIDIA driver: neither nvidia-smi nor libcuda.so.1")
    gpus = tuple(filter(None, map(_parse, done.stdout.splitlines())))
    if done.ok and gpus:
        return Gpus(gpus)
    return Gpus((), f"nvidia-smi: {done.tail or 'lists no GPU'}", broken=True)


def _parse(line: str) -> Gpu | None:
    """Read one line of nvidia-smi's CSV; memory is in MiB."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_QUERY) or not fields[2].isdigit():
        return None
    return Gpu(fields[0], fields[1], int(fields[2]) * 2**20, fields[3])


def _driver_library() -> bool:
    """True where the dynamic linker knows the driver's library; it is not loaded."""
    return "libcuda.so.1" in proc.run(["ldconfig", "-p"], env={"PATH": _search_path()}).stdout


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def container_access(info: Mapping[str, Any]) -> str:
    """Return how an engine gives GPUs to containers; empty where it cannot.

    Args:
        info: What the engine says of itself (`docker info`).
    """
    if "nvidia" in (info.get("Runtimes") or {}):
        return "the nvidia runtime is registered in the engine"
    folders = [*map(Path, info.get("CDISpecDirs") or ()), *_CDI_FOLDERS]
    for folder in folders:
        for spec in (*folder.glob("nvidia*.yaml"), *folder.glob("nvidia*.json")):
            return f"a CDI specification: {spec}"
    if shutil.which(_HOOK, path=_search_path()):
        return f"{_HOOK}, which `--gpus` runs"
    return ""
