"""Scripts run in folders: a virtual environment, or an unpacked root file system.

What the machine has installed elsewhere stays out of sight as far as that can be, so that nothing
removed from a folder is found beside it: no variables of the caller, no packages of the user.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfslim import proc
from tfslim.errors import InputError
from tfslim.parity.target import Ended, Script

__all__ = ["RootTarget", "TreeTarget", "tree_target"]

_KILL_AFTER_SECONDS = 10
_PATH = "/usr/local/bin:/usr/bin:/bin"
_PACKAGES = "lib/python3*/*-packages"  # site-packages; Debian's are called dist-packages
_TENSORFLOW = f"{_PACKAGES}/tensorflow/__init__.py"
_DRIVER = "libcuda.so.1"
# Mounts need root; without it, a user namespace in which one is root.
_NAMESPACE = ("unshare", "--mount", "--propagation", "private")
_USER_NAMESPACE = (*_NAMESPACE, "--user", "--map-root-user")
_OUR_TOOLS = ("unshare: ", "mount: ", "sh: ")


@dataclass(frozen=True)
class TreeTarget:
    """A folder with bin/python, run where it lies."""

    name: str
    path: Path
    kind: str = "tree"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        """Run a script with the tree's Python; see `Target.run`."""
        # -I: no PYTHON… variables and no packages of the user's; -B: the tree stays as it is.
        command = [str(self.path / "bin" / "python"), "-I", "-B", *script.argv]
        return _run(command, job, script, self._libraries(), on_line)

    def _libraries(self) -> dict[str, str]:
        """Return where the loader finds the tree's CUDA libraries, and the machine's driver.

        TensorFlow's own search path lacks some of them (libcusolver in 2.21, all in 2.16).
        """
        folders = [*sorted(self.path.glob(f"{_PACKAGES}/nvidia/*/lib")), *_driver_folders()]
        return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))} if folders else {}


@dataclass(frozen=True)
class RootTarget:
    """An unpacked root file system, entered in a mount namespace of its own.

    The job is mounted over one of its folders. The mount ends with the process, and nothing is
    written into the root file system itself.

    Attributes:
        python: Its Python, as seen from inside.
    """

    name: str
    path: Path
    python: str
    kind: str = "root file system"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        """Run a script in the root file system; see `Target.run`."""
        enter = "\n".join(self._enter(self._mount_point()))
        namespace = _NAMESPACE if os.geteuid() == 0 else _USER_NAMESPACE
        command = [*namespace, "sh", "-euc", enter, "sh", str(job)]
        ended = _run([*command, self.python, "-B", *script.argv], job, script, {}, on_line)
        if not ended.ok and ended.tail.rpartition("\n")[2].startswith(_OUR_TOOLS):
            raise InputError(
                f"{self.name} cannot be entered",
                why=ended.tail,
                way_out="Changing the root needs root or user namespaces, and a root file system "
                "for this machine. Run this with sudo, or make an image of it and name that.",
            )
        return ended

    def _mount_point(self) -> str:
        for name in ("tmp", "mnt", "media", "srv"):
            if (self.path / name).is_dir() and not (self.path / name).is_symlink():
                return f"/{name}"
        raise InputError(
            f"{self.name} has no folder that the job can be mounted over",
            why="There is none of tmp, mnt, media and srv in it.",
            way_out=f"mkdir {self.path / 'tmp'}",
        )

    def _enter(self, at: str) -> Iterator[str]:
        """Yield the shell lines that mount what is needed and enter; $1 is the job."""
        root = shlex.quote(str(self.path))
        for name in ("dev", "proc", "sys"):
            if (self.path / name).is_dir():
                yield f"mount --rbind /{name} {root}/{name}"
        yield f'mount --bind "$1" {root}{at}'
        yield "shift"
        yield f'exec unshare --root={root} --wd={at} "$@"'


def tree_target(source: str) -> TreeTarget | RootTarget:
    """Return what a folder is.

    Raises:
        InputError: It has no Python, or a root file system has no TensorFlow.
    """
    path = Path(source).absolute()
    if (path / "usr").is_dir() and not (path / "pyvenv.cfg").exists():
        return RootTarget(source, path, _python_in_root(path))
    python = path / "bin" / "python"
    if python.exists():
        return TreeTarget(source, path)
    raise InputError(
        f"{source} is neither a virtual environment nor a root file system",
        why=f"{python} links to a Python that is gone: {python.readlink()}"
        if python.is_symlink()
        else f"There is no {python} and no folder {path / 'usr'}.",
        way_out="Name the folder that holds bin/python, or the one that holds usr.",
    )


def _python_in_root(root: Path) -> str:
    """Return the Python that has TensorFlow, as seen from inside a root file system."""
    patterns = (f"{'*/' * depth}{_TENSORFLOW}" for depth in (1, 2, 3))
    for found in (place for pattern in patterns for place in sorted(root.glob(pattern))):
        prefix = found.parents[4]
        for name in ("python", "python3", found.parents[2].name):
            if os.path.lexists(prefix / "bin" / name):
                return f"/{(prefix / 'bin' / name).relative_to(root)}"
    raise InputError(
        f"{root} has no Python with TensorFlow",
        why=f"No {_TENSORFLOW} with a Python beside it, down to three folders deep.",
        way_out="If it is inside a virtual environment elsewhere, name that folder.",
    )


def _run(
    command: list[str],
    job: Path,
    script: Script,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
) -> Ended:
    """Run a command with nothing of the caller's environment."""
    # HOME is the job: ~/.keras/keras.json would change what Keras computes.
    own = {"PATH": _PATH, "HOME": str(job), "LANG": "C.UTF-8", **env, **script.env}
    limit = ["timeout", f"--kill-after={_KILL_AFTER_SECONDS}", f"{script.limit:.0f}"]
    clean = ["env", "-i", *(f"{name}={value}" for name, value in own.items())]
    done = proc.stream([*limit, *clean, *command], on_line, cwd=job)
    return Ended(done.returncode, done.tail)


def _driver_folders() -> Iterator[str]:
    """Yield where the caller's own search path leads to the driver; nothing else is taken over."""
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if folder and (Path(folder) / _DRIVER).exists():
            yield folder
