"""Fresh virtual environments from locks, to try a set of versions in."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tfslim import proc
from tfslim.errors import DiskError, NetworkError
from tfslim.pins.settings import IndexSettings
from tfslim.ui import Ui, human_bytes

__all__ = ["find_python", "install", "library_path", "run_python"]

# What an environment with TensorFlow and all NVIDIA wheels takes while pip works on it (bytes).
_BYTES: Final = 11 * 10**9


def find_python(python: str) -> tuple[str, str]:
    """Return an interpreter for a minor version, and its minor version: another one if need be."""
    find = ["-m", "uv", "python", "find", "--no-config", "--no-project", "--no-python-downloads"]
    done = proc.run([sys.executable, *find, python])
    if done.ok and done.stdout.strip():
        return done.stdout.strip(), python
    return sys.executable, f"{sys.version_info.major}.{sys.version_info.minor}"


def install(interpreter: str, lock: Path, tree: Path, settings: IndexSettings, ui: Ui) -> None:
    """Make a virtual environment and install a lock into it, every file checked by its hash.

    Raises:
        DiskError: There is not room enough.
        NetworkError: pip could not get or check a file.
    """
    tree.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(tree.parent).free
    if free < _BYTES:
        raise DiskError(
            f"trying a set of versions takes {human_bytes(_BYTES)}, and {human_bytes(free)} are "
            f"free in {tree.parent}",
            way_out="Free some, or leave the gate out with --no-gate.",
        )
    # Nothing of a person's own settings: other indexes, folders of wheels, constraints.
    isolated = {
        **settings.environment(),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": settings.url,
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONSTRAINT": "",
    }
    pip = [str(tree / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "--no-cache-dir", "--require-hashes", "-r", str(lock)]
    commands = [[interpreter, "-m", "venv", str(tree)], pip]
    with ui.step(f"Install {tree.name}"):
        for command in commands:
            done = proc.run(command, env=isolated)
            if not done.ok:
                raise NetworkError(f"{tree.name} could not be installed", why=done.tail)


def library_path(tree: Path, extra: Sequence[Path] = ()) -> str:
    """Return the folders of NVIDIA's libraries in an environment, for LD_LIBRARY_PATH."""
    found = sorted(tree.glob("lib/python3*/site-packages/nvidia/*/lib"))
    return os.pathsep.join(map(str, [*extra, *found]))


def run_python(
    tree: Path, arguments: Sequence[str], *, extra: Sequence[Path] = (), timeout: float
) -> proc.Completed:
    """Run an environment's Python with its libraries found, and `extra` folders before them."""
    return proc.run(
        [str(tree / "bin" / "python"), "-I", "-B", *arguments],
        env={"LD_LIBRARY_PATH": library_path(tree, extra), "TF_CPP_MIN_LOG_LEVEL": "2"},
        timeout=timeout,
    )
