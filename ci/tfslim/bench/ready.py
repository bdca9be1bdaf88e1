"""What every runtime's service looks like to the benchmarks, and waiting for one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import httpx

from tfslim.errors import ServiceError

__all__ = ["Patience", "Running", "await_ready", "ready_event"]

_POLL_SECONDS = 0.01


class Running(Protocol):
    """A service that has just become ready.

    Attributes:
        http: A client of it.
        marks: Seconds since it was asked for, by phase.
    """

    @property
    def http(self) -> httpx.Client: ...  # noqa: D102
    @property
    def marks(self) -> dict[str, float]: ...  # noqa: D102

    def ready_event(self) -> dict[str, float]:
        """Return the service's own timings, from the line it logs when it is ready."""

    def memory_bytes(self) -> int | None:
        """Return its memory; None if unknown."""


@dataclass(frozen=True)
class Patience:
    """What waiting needs to know of a service.

    Attributes:
        name: What is started.
        seconds: How long it may take.
        exited: Returns its exit status, None while it runs.
        log: Returns the end of its log.
        by_hand: How a person would look at it, as a sentence.
    """

    name: str
    seconds: float
    exited: Callable[[], int | None]
    log: Callable[[], str]
    by_hand: str


def await_ready(http: httpx.Client, start: float, patience: Patience) -> dict[str, float]:
    """Wait for the first answers of /health (`alive`) and /ready (`ready`); seconds since `start`.

    Raises:
        ServiceError: It exited, or was not ready in time; with the end of its log.
    """
    marks = {}
    for path, mark in (("/health", "alive"), ("/ready", "ready")):
        _await(http, path, start, patience)
        marks[mark] = time.monotonic() - start
    return marks


def ready_event(lines: Iterable[str]) -> dict[str, float]:
    """Return the numbers of the service's `ready` line; nothing where there is none."""
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "ready":
                return {k: float(v) for k, v in event.items() if isinstance(v, (int, float))}
    return {}


def _await(http: httpx.Client, path: str, start: float, patience: Patience) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            if http.get(path).status_code == httpx.codes.OK:
                return
        status = patience.exited()
        if status is not None:
            raise ServiceError(
                f"{patience.name} exited with status {status} before it was ready",
                why=patience.log(),
                way_out=f"Its log is above. {patience.by_hand}",
            )
        if time.monotonic() - start > patience.seconds:
            raise ServiceError(
                f"{patience.name} did not answer {path} within {patience.seconds:.0f} s",
                why=patience.log(),
                way_out="Raise `bench.ready-timeout`, or look at its log above.",
            )
        time.sleep(_POLL_SECONDS)
