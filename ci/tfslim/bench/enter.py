"""How to run something in an unpacked image: which tool enters it, and what is mounted there.

The root is put together anew in a mount namespace: a tmpfs into which the image's own folders are
bound read-only. So the driver, the job and a model can be bound at any place, nothing is ever
written into the image's folder, and all mounts end with the process.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from tfslim import proc
from tfslim.bench.driver import Driver
from tfslim.errors import InputError

__all__ = ["BIN", "DRIVER", "Entry", "Tool", "choose_tool", "command", "layout"]

DRIVER = "/.tfslim/driver"
BIN = "/.tfslim/bin"
Tool = Literal["bubblewrap", "chroot", "user namespace"]

_OURS = ("dev", "proc", "sys", "tmp", ".tfslim")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_NAMESPACE = ("unshare", "--mount", "--propagation", "private")
_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Entry:
    """One thing in the root.

    Attributes:
        kind: "bind" (a file or folder of this machine), "dir", "tmpfs", or "link".
        at: Where, absolute.
        source: What is bound, or where the link leads.
        writable: Whether a bind may be written.
    """

    kind: Literal["bind", "dir", "tmpfs", "link"]
    at: str
    source: str = ""
    writable: bool = False


def choose_tool() -> Tool:
    """Return what can enter a root here: bubblewrap, else chroot as root, else as a user.

    Raises:
        InputError: Nothing can.
    """
    if shutil.which("bwrap") and _works(["bwrap", "--ro-bind", "/", "/", "true"]):
        return "bubblewrap"
    if os.geteuid() == 0 and _works([*_NAMESPACE, "true"]):
        return "chroot"
    if _works([*_NAMESPACE, "--user", "--map-root-user", "true"]):
        return "user namespace"
    raise InputError(
        "an unpacked image cannot be run on this machine",
        why="There is no bubblewrap that works, this is not root, and the kernel gives users no "
        "namespaces.",
        way_out="Install bubblewrap (bwrap), run this as root, allow user namespaces "
        "(sysctl user.max_user_namespaces), or use a container engine: --runtime docker.",
    )


def layout(
    root: Path, driver: Driver | None, binds: Mapping[str, tuple[Path, bool]]
) -> tuple[Entry, ...]:
    """Return all that the root holds, in the order in which it is made.

    Args:
        root: The unpacked image.
        driver: Bound in with its devices; None for no GPU.
        binds: Further files and folders: where, what, and whether it may be written.
    """
    hidden = {*_OURS, *(PurePosixPath(at).parts[1] for at in binds)}
    own = [path for path in sorted(root.iterdir()) if path.name not in hidden]
    entries = [
        Entry("link", f"/{path.name}", str(path.readlink()))
        if path.is_symlink()
        else Entry("bind", f"/{path.name}", str(path))
        for path in own
    ]
    entries += [Entry("bind", f"/{name}", f"/{name}", writable=True) for name in ("proc", "sys")]
    entries += [Entry("tmpfs", "/tmp"), *_devices(driver)]  # noqa: S108 (a mount point inside)
    if driver is not None:
        entries += [Entry("bind", f"{DRIVER}/{n}", str(p)) for n, p in driver.libraries.items()]
        entries += [Entry("bind", f"{BIN}/{n}", str(p)) for n, p in driver.programs.items()]
    entries += [Entry("bind", at, str(path), rw) for at, (path, rw) in binds.items()]
    return tuple(entries)


def command(
    tool: Tool,
    entries: Sequence[Entry],
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    workdir: str,
    new_root: Path,
) -> list[str]:
    """Return the command line that runs `argv` in the root, with these variables and no others.

    Args:
        tool: What enters it.
        entries: What the root holds.
        argv: The program, found by the PATH in `env`, and its arguments.
        env: Its environment.
        workdir: Its folder.
        new_root: Empty folder of this machine to put the root together in (not for bubblewrap).
    """
    if tool == "bubblewrap":
        words = [word for entry in entries for word in _bubblewrap(entry)]
        variables = [word for name, value in env.items() for word in ("--setenv", name, value)]
        own = ["--clearenv", *variables, "--chdir", workdir, "--die-with-parent"]
        return ["bwrap", "--tmpfs", "/", *words, *own, "--", *argv]
    user = () if tool == "chroot" else ("--user", "--map-root-user")
    lines = [f"mount -t tmpfs -o mode=755 tfslim {shlex.quote(str(new_root))}"]
    lines += [line for entry in entries for line in _shell(entry, new_root)]
    unshare = shutil.which("unshare") or "unshare"
    clean = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in env.items())])
    enter = shlex.join([unshare, f"--root={new_root}", f"--wd={workdir}"])
    lines.append(f'exec {clean} {enter} "$@"')
    return [*_NAMESPACE, *user, "sh", "-euc", "\n".join(lines), "sh", *argv]


def _devices(driver: Driver | None) -> Iterator[Entry]:
    yield Entry("tmpfs", "/dev")
    yield Entry("tmpfs", "/dev/shm")  # noqa: S108 (a mount point inside)
    for name in _DEVICES:
        yield Entry("bind", f"/dev/{name}", f"/dev/{name}", writable=True)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        yield Entry("link", f"/dev/{name}", f"/proc/self/fd{target}")
    for device in driver.devices if driver else ():
        yield Entry("bind", str(device), str(device), writable=True)


def _bubblewrap(entry: Entry) -> list[str]:
    match entry.kind:
        case "dir":
            return ["--dir", entry.at]
        case "tmpfs":
            return ["--tmpfs", entry.at]
        case "link":
            return ["--symlink", entry.source, entry.at]
        case _ if entry.at.startswith("/dev/"):
            return ["--dev-bind", entry.source, entry.at]
        case _:
            return ["--bind" if entry.writable else "--ro-bind", entry.source, entry.at]


def _shell(entry: Entry, new_root: Path) -> Iterator[str]:
    """Yield the shell lines that make one entry; `mount` does not make mount points."""
    at = shlex.quote(f"{new_root}{entry.at}")
    parent = shlex.quote(str(Path(f"{new_root}{entry.at}").parent))
    source = shlex.quote(entry.source)
    match entry.kind:
        case "dir":
            yield f"mkdir -p {at}"
        case "tmpfs":
            yield f"mkdir -p {at}"
            yield f"mount -t tmpfs -o mode=1777 tfslim {at}"
        case "link":
            yield f"mkdir -p {parent}"
            yield f"ln -s {source} {at}"
        case _:
            is_folder = Path(entry.source).is_dir()
            yield f"mkdir -p {at if is_folder else parent}"
            if not is_folder:
                yield f": > {at}"
            yield f"mount --{'r' if entry.writable else ''}bind {source} {at}"
            if not entry.writable:
                yield f"mount -o remount,bind,ro,nosuid,nodev {at}"


def _works(argv: list[str]) -> bool:
    return proc.run(argv, timeout=_PROBE_SECONDS).ok
