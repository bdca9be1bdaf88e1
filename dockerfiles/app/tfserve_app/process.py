"""This process: its signals, its exit codes, its log lines, its age."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

__all__ = [
    "EXIT_MODEL",
    "EXIT_SETTINGS",
    "EXIT_SOCKET",
    "begin",
    "fail",
    "handle_signals",
    "leave",
    "log_event",
    "process_age",
    "process_start",
]

_T = TypeVar("_T")

# While a model is loaded beside the imports: after each call its thread waits for its turn.
_SWITCH_SECONDS = 0.0005

EXIT_SETTINGS = 2
EXIT_MODEL = 3
EXIT_SOCKET = 4


def leave(signum: int = 0, frame: FrameType | None = None) -> NoReturn:
    """End the process at once, status 0; usable as a signal handler.

    The interpreter's teardown would take most of a second with TensorFlow loaded, and there is
    nothing left to save.
    """
    del signum, frame
    # A signal may come in the middle of a write to either of them.
    with contextlib.suppress(RuntimeError, OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def handle_signals() -> None:
    """Make SIGTERM and SIGINT end the process, also as process 1 of a container.

    The kernel ignores signals without a handler there. Uvicorn puts its own handlers in front
    while it serves, finishes what is in flight, and then calls these.
    """
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def fail(message: str, status: int) -> NoReturn:
    """Say in one line why the service cannot start, and end the process."""
    print(f"tfserve: {' '.join(message.split())}", file=sys.stderr, flush=True)
    os._exit(status)


def log_event(event: str, **fields: object) -> None:
    """Write one line of JSON to standard output."""
    print(json.dumps({"event": event, **fields}), flush=True)


def process_age() -> float:
    """Return the seconds since this process was started, interpreter start included (±10 ms)."""
    return time.monotonic() - process_start()


def process_start() -> float:
    """Return when this process was started, in seconds on CLOCK_MONOTONIC (±10 ms).

    Field 22 of /proc/self/stat is the start in clock ticks since boot (man 5 proc), sleep of the
    machine included, which CLOCK_MONOTONIC leaves out.
    """
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
        fields = stat.read().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return started - slept


def begin(work: Callable[[], _T]) -> Callable[[], _T]:
    """Begin work in a thread of its own; return what waits for its end.

    Until then threads take turns more often.

    Returns:
        What returns the work's result, or raises what it raised.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            errors.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    thread = threading.Thread(target=run, name="begun", daemon=True)
    thread.start()

    def end() -> _T:
        thread.join()
        sys.setswitchinterval(usual)
        if errors:
            raise errors[0]
        return results[0]

    return end
