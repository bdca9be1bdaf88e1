"""The bytes of bodies and answers held at once: bounded, and who stalls gives way.

Without a bound, clients that send 64 MB slowly, or that never read their answers, would fill the
memory of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Hold", "Memory", "MemoryFullError"]

_STALLED_SECONDS = 1.0


class MemoryFullError(Exception):
    """As many bytes of bodies and answers are held as the settings allow."""


class Memory:
    """Counts the bytes held for all requests; used from the event loop alone.

    Args:
        limit: Bytes that may be held at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.holds: set[Hold] = set()

    def hold(self, give_way: Callable[[], None]) -> Hold:
        """Return what one request holds; `give_way` ends its connection."""
        return Hold(self, give_way)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return sum(hold.size for hold in self.holds)

    def make_room(self, size: int) -> None:
        """Make clients that have stalled give way until `size` bytes more fit.

        Raises:
            MemoryFullError: Nobody has stalled.
        """
        while self.held + size > self.limit:
            now = time.monotonic()
            stalled = [hold for hold in self.holds if now - hold.moved > _STALLED_SECONDS]
            waiting = [hold for hold in stalled if hold.on_client and hold.size]
            if not waiting:
                raise MemoryFullError("too many bytes of requests and answers are held")
            longest = min(waiting, key=lambda hold: hold.moved)
            longest.drop()
            longest.give_way()


class Hold:
    """What one request holds; a context manager.

    Args:
        memory: Where it counts.
        give_way: Ends the request's connection.

    Attributes:
        size: Bytes held.
        moved: When its client last sent or took something, seconds on CLOCK_MONOTONIC.
        on_client: Whether the next step is the client's.
    """

    def __init__(self, memory: Memory, give_way: Callable[[], None]) -> None:
        self._memory = memory
        self.give_way = give_way
        self.size = 0
        self.moved = time.monotonic()
        self.on_client = True

    def __enter__(self) -> Hold:
        self._memory.holds.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.holds.discard(self)

    def add(self, size: int) -> None:
        """Hold `size` bytes more.

        Raises:
            MemoryFullError: They do not fit.
        """
        self.moved = time.monotonic()
        self._memory.make_room(size)
        self.size += size

    def answer(self, size: int) -> None:
        """Hold an answer of `size` bytes until the client has taken it, and its request no longer.

        Raises:
            MemoryFullError: It does not fit.
        """
        self.drop()
        self.add(size)
        self.on_client = True

    def drop(self) -> None:
        """Hold nothing any more."""
        self.size = 0
