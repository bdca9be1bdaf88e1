"""The one seam to other programs: run a command, see its lines, leave nothing behind.

Commands are argument lists, never shell strings. Each runs in its own process group, so that
ctrl-C or an error ends the whole tree, not only the first process.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Completed", "background", "run", "stream"]

_TAIL_LINES = 60
_GRACE_SECONDS = 20.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Completed:
    """A finished command.

    Attributes:
        argv: The command as it was run.
        returncode: Exit status; 127 where the program does not exist, 124 after a time-out.
        stdout: What it wrote to standard output (`run`), or its last lines (`stream`).
        stderr: What it wrote to standard error (`run`); empty for `stream`, which joins the two.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """True when the command exited with 0."""
        return self.returncode == 0

    @property
    def tail(self) -> str:
        """The last lines of what it said, standard error preferred."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    stop: threading.Event | None = None,
) -> Completed:
    """Run a command to its end and return what it said; a failure is a value, not an exception.

    Args:
        argv: The command and its arguments.
        env: Variables added to this process's own environment.
        cwd: Folder to run in.
        stdin: Text for its standard input; nothing is attached without it.
        timeout: Seconds after which its process group is ended (exit status 124).
        stop: When this is set, from another thread, the same happens within a second.
    """
    with _started(argv, env=env, cwd=cwd, stderr=subprocess.PIPE, stdin=stdin is not None) as child:
        if child is None:
            return Completed(tuple(argv), 127, "", f"{argv[0]}: not found")
        try:
            out, err = _said(child, stdin, timeout, stop)
        except subprocess.TimeoutExpired:
            _end(child)
            out, err = child.communicate()
            return Completed(tuple(argv), 124, out, f"{err}\ntimed out after {timeout} s".strip())
        return Completed(tuple(argv), child.returncode, out, err)


def _said(
    child: subprocess.Popen[str],
    stdin: str | None,
    timeout: float | None,
    stop: threading.Event | None,
) -> tuple[str, str]:
    """Return what a process says until its end.

    Raises:
        TimeoutExpired: It takes longer than it may, or was to be stopped.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        wait = left if stop is None else min(left, _LOOK_SECONDS)
        try:
            return child.communicate(stdin, timeout=None if math.isinf(wait) else max(wait, 0.0))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end or (stop is not None and stop.is_set()):
                raise
            stdin = None  # sent already


def stream(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a command and hand each line of its joined output to `on_line` as it comes."""
    with _started(argv, env=env, cwd=cwd, stderr=subprocess.STDOUT, stdin=False) as child:
        if child is None:
            return Completed(tuple(argv), 127, "", f"{argv[0]}: not found")
        last: deque[str] = deque(maxlen=_TAIL_LINES)
        assert child.stdout is not None  # noqa: S101 (opened as a pipe just above)
        for line in child.stdout:
            last.append(line.rstrip("\n"))
            on_line(last[-1])
        return Completed(tuple(argv), child.wait(), "\n".join(last), "")


@contextlib.contextmanager
def background(argv: Sequence[str], log: Path) -> Iterator[Callable[[], int | None]]:
    """Run a server beside the caller; end it, by SIGTERM first, when the block is left.

    Args:
        argv: The command and its arguments.
        log: File that gets everything it says.

    Yields:
        A function that returns its exit status, None while it runs; 127 where there is no such
        program.
    """
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            yield lambda: 127
            return
    try:
        yield child.poll
    finally:
        _end(child, signal.SIGTERM)


@contextlib.contextmanager
def _started(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stderr: int,
    stdin: bool,
) -> Iterator[subprocess.Popen[str] | None]:
    """Start a command in its own process group; end the group if the caller is interrupted."""
    try:
        child = subprocess.Popen(
            list(argv),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        yield None
        return
    try:
        yield child
    except BaseException:
        _end(child)
        raise


def _end(child: subprocess.Popen[Any], first: signal.Signals = signal.SIGINT) -> None:
    """End a process group: gently first, so that tools can clean up; SIGKILL after a grace time."""
    for sig in (first, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sig)
        try:
            child.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return
