"""Unpacked images without a container engine: their service started, and scripts run in them.

As on HPC nodes and in CI without an engine: the root is entered with bubblewrap or chroot (see
`enter.py`), the machine's driver is bound in as a container engine would (see `driver.py`), and the
machine's network is used. The process runs as whoever starts it, not as the image's user.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import httpx

from tfslim import proc
from tfslim.bench import enter
from tfslim.bench.driver import Driver
from tfslim.bench.ready import Patience, await_ready, ready_event
from tfslim.errors import InputError
from tfslim.images.inspect import source_kind
from tfslim.images.opened import unpacked_image
from tfslim.pack.manifest import ImageConfig
from tfslim.pack.read import read_marker
from tfslim.parity.target import Ended, Script
from tfslim.ui import Ui

__all__ = ["Root", "RootService", "RootTarget", "open_root", "serve_root"]

_JOB = "/.tfslim/job"
_JIT = "/.tfslim/jit"
_PATHS = ("/opt/venv/bin", "/usr/local/bin", "/usr/bin", "/bin")
_PYTHONS = ("python", "python3")
_LOG_LINES = 30
_KILL_AFTER_SECONDS = 10


@dataclass(frozen=True)
class Root:
    """An unpacked image and how it wants to be run.

    Attributes:
        name: As the user named it.
        path: Its folder.
        env: Variables that the image sets.
        argv: What the image starts.
        workdir: Where.
    """

    name: str
    path: Path
    env: dict[str, str]
    argv: tuple[str, ...]
    workdir: str

    @property
    def python(self) -> str:
        """Its Python, by a name that its own PATH knows.

        Raises:
            InputError: There is none.
        """
        folders = self.env["PATH"].split(":")
        for name in _PYTHONS:
            if any(os.path.lexists(self.path / folder.lstrip("/") / name) for folder in folders):
                return name
        raise InputError(
            f"{self.name} has no Python on its PATH",
            why=f"No {' or '.join(_PYTHONS)} in {', '.join(folders)}, below {self.path}.",
        )


@contextmanager
def open_root(source: str, ui: Ui) -> Iterator[Root]:
    """Give a root for a folder, or for an archive or OCI layout, which is unpacked for as long.

    A folder that `tfslim unpack` made of a packed image says how it is to be run; of any other the
    way of tfslim's own images is taken.

    Raises:
        InputError: It is neither, or damaged.
        DiskError: There is not enough room to unpack it.
    """
    kind = source_kind(source)
    if kind == "directory":
        path = Path(source).absolute()
        if not (path / "usr").is_dir():
            raise InputError(
                f"{source} is not an unpacked image", why=f"There is no folder {path / 'usr'}."
            )
        yield _told(source, path) or _guessed(source, path)
        return
    if kind == "engine":
        raise InputError(
            f"there is no folder and no archive {source}",
            why="The runtime rootfs works without a container engine, so it knows no image names.",
            way_out=f"docker save {source} -o image.tar, and name image.tar; or --runtime docker.",
        )
    with unpacked_image(source, client=_no_engine, ui=ui) as opened:
        config = ImageConfig.of(opened.image.config.get("config") or {})
        yield _as_root(source, opened.tree.root, config)


@dataclass(frozen=True)
class RootTarget:
    """A root in which scripts of tfslim run; see `parity.target.Target`.

    Attributes:
        root: Where.
        tool: What enters it.
        driver: What is bound in where a script is given GPUs.
    """

    root: Root
    tool: enter.Tool
    driver: Driver | None
    kind: str = "unpacked image"

    @property
    def name(self) -> str:
        """As the user named it."""
        return self.root.name

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        """Run a script with the root's Python; see `Target.run`."""
        driver = self.driver if script.gpu else None
        env = {**_environment(self.root, driver), "HOME": _JOB, **script.env}
        argv = [self.root.python, "-B", *script.argv]
        limit = ["timeout", f"--kill-after={_KILL_AFTER_SECONDS}", f"{script.limit:.0f}"]
        with _entered(self.root, self.tool, driver, {_JOB: (job, True)}) as line:
            done = proc.stream([*limit, *line(argv, env, _JOB)], on_line)
        return Ended(done.returncode, done.tail)


@dataclass
class RootService:
    """A running service of a root; see `ready.Running`.

    Attributes:
        asked: When it was asked for, on CLOCK_MONOTONIC.
    """

    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client
    marks: dict[str, float] = field(default_factory=dict)
    asked: float = 0.0

    def ready_event(self) -> dict[str, float]:
        """Return the service's own timings, from the line it logs when it is ready."""
        return ready_event(self.lines())

    def lines(self) -> list[str]:
        """Return what it has logged so far."""
        return _lines(self.log)

    def memory_bytes(self) -> int | None:
        """Return the proportional set size of all its processes; None if the kernel hides it."""
        sizes = [_pss_bytes(pid) for pid in _family(self.process.pid)]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None


@contextmanager
def serve_root(
    target: RootTarget,
    *,
    model: Path | None,
    model_name: str,
    gpu: bool,
    ready_timeout: float,
    jit: Path | None = None,
) -> Iterator[RootService]:
    """Start a root's service, wait until it is ready, and end it in any case.

    Args:
        target: The root, and how it is entered.
        model: Folder to bind as /model; None for the model that is in it.
        model_name: Name in /v1/models/NAME.
        gpu: Give it the machine's GPUs.
        ready_timeout: Seconds it may take.
        jit: Folder for CUDA's cache of compiled PTX; None for one that is new and vanishes.

    Raises:
        ServiceError: It exited, or was not ready in time; with the end of its log.
    """
    root, port = target.root, _free_port()
    if not root.argv:
        raise InputError(f"{root.name} does not say what it starts: it has no CMD")
    driver = target.driver if gpu else None
    env = _environment(root, driver) | {"HOST": "127.0.0.1", "PORT": str(port)}
    env |= {"MODEL_NAME": model_name, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not gpu:
        env["CUDA_VISIBLE_DEVICES"] = "-1"
    binds = {} if model is None else {"/model": (model.resolve(), False)}
    if jit is not None:
        binds[_JIT] = (jit, True)
        env["CUDA_CACHE_PATH"] = _JIT
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tfslim-root-")))
        line = held.enter_context(_entered(root, target.tool, driver, binds))
        log = folder / "log"
        start = time.monotonic()
        process = held.enter_context(_started(line(root.argv, env, root.workdir), log))
        marks = {"created": 0.0, "started": time.monotonic() - start}
        http = held.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0))
        patience = Patience(
            root.name,
            ready_timeout,
            process.poll,
            lambda: "\n".join(_lines(log)[-_LOG_LINES:]),
            "A folder is started as tfslim's own images are; other images need an archive, "
            "which says how.",
        )
        marks |= await_ready(http, start, patience)
        yield RootService(process, log, http, marks, start)


def _told(source: str, path: Path) -> Root | None:
    """Return how a folder wants to be run; None where it does not say."""
    marker = read_marker(path)
    return _as_root(source, path, marker.config) if marker and marker.config else None


def _as_root(source: str, path: Path, config: ImageConfig) -> Root:
    env = {"PATH": ":".join(_PATHS), **config.env}
    return Root(source, path, env, config.argv, config.workdir)


def _guessed(source: str, path: Path) -> Root:
    env = {"PATH": ":".join(_PATHS), "LANG": "C.UTF-8", "TFSLIM_MODEL_PATH": "/model"}
    workdir = "/app" if (path / "app").is_dir() else "/"
    argv = ("python", "-m", "tfserve_app") if (path / "app" / "tfserve_app").is_dir() else ()
    return Root(source, path, env, argv, workdir)


def _environment(root: Root, driver: Driver | None) -> dict[str, str]:
    """Return the image's variables, with the driver's folders on the search paths."""
    env = {"PYTHONDONTWRITEBYTECODE": "1", **root.env}
    if driver is not None:
        libraries = [enter.DRIVER, *filter(None, [env.get("LD_LIBRARY_PATH")])]
        env["LD_LIBRARY_PATH"] = ":".join(libraries)
        env["PATH"] = f"{env['PATH']}:{enter.BIN}"
    return env


@contextmanager
def _entered(
    root: Root, tool: enter.Tool, driver: Driver | None, binds: dict[str, tuple[Path, bool]]
) -> Iterator[Callable[[tuple[str, ...] | list[str], dict[str, str], str], list[str]]]:
    """Give a function from (argv, variables, folder) to the command line that runs it inside."""
    entries = enter.layout(root.path, driver, binds)
    place = Path(tempfile.mkdtemp(prefix="tfslim-root-"))
    try:
        yield lambda argv, env, workdir: enter.command(
            tool, entries, list(argv), env=env, workdir=workdir, new_root=place
        )
    finally:
        place.rmdir()  # its mounts were in another namespace: here it stayed empty


@contextmanager
def _started(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a service with its output in a file; end it, gently first."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for signal_process in (process.terminate, process.kill):
            signal_process()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_KILL_AFTER_SECONDS)
                break


def _no_engine() -> NoReturn:
    raise AssertionError("an archive is read without an engine")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all below it (proc_pid_task_children(5))."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _family(int(child))


def _pss_bytes(pid: int) -> int | None:
    """Return a process's proportional set size (proc_pid_smaps_rollup(5))."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
