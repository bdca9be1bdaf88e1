"""Load on a service: closed loops of several clients, and open loops with Poisson arrivals.

A closed loop asks as fast as it is answered, so a stall of the service also stalls the questions
that would have seen it ("coordinated omission"). An open loop has its questions due at moments that
do not depend on the answers, and counts each latency from the moment a question was due.

Clients are threads; the interpreter runs one at a time, so the generator watches itself: how late
it was where a client was free, and how much of a core it used.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tfslim.bench.load import RequestBody
from tfslim.errors import ServiceError

__all__ = [
    "Answer",
    "Client",
    "Driven",
    "HttpClient",
    "arrivals",
    "closed_loop",
    "open_loop",
]

_SEED = 20211
_WARM_UP_REQUESTS = 2
_TIMEOUT_SECONDS = 60.0
_CPU_LIMIT = 0.85  # of a core, from which threads wait for each other
_LAG_SHARE = 0.1  # of the median latency
_LAG_FLOOR_SECONDS = 0.002  # what a sleeping thread may wake late by on any machine
_BUSY_SHARE = 0.01  # of requests that found no free client
_NOT_SENT = "not sent: the service was slower than the rate"


class Client(Protocol):
    """One connection to a service."""

    def send(self) -> str:
        """Ask once; return why there was no answer of status 200, or nothing."""

    def close(self) -> None:
        """End the connection."""


@dataclass(frozen=True)
class Answer:
    """One request.

    Attributes:
        due: When it was to be sent (seconds of one clock); in a closed loop, when it was.
        taken: When a client was there for it.
        sent: When the client sent it.
        done: When it was answered.
        problem: Why it was not; empty for an answer of status 200.
    """

    due: float
    taken: float
    sent: float
    done: float
    problem: str


@dataclass(frozen=True)
class Driven:
    """What a loop saw.

    Attributes:
        start: When it began, seconds of CLOCK_MONOTONIC.
        seconds: Wall time until the last answer.
        answers: All requests, in the order in which they were due.
        unsent: Requests that were given up because the service was too far behind.
        clients: How many there were.
        cpu: The generator's processor time over wall time.
        open: True for an open loop.
    """

    start: float
    seconds: float
    answers: tuple[Answer, ...]
    unsent: int
    clients: int
    cpu: float
    open: bool

    @property
    def latencies_s(self) -> tuple[float, ...]:
        """Seconds of each answered request from the moment it was due."""
        return tuple(round(a.done - a.due, 7) for a in self.answers if not a.problem)

    @property
    def failed(self) -> dict[str, int]:
        """Requests without an answer, by reason."""
        reasons = Counter(answer.problem for answer in self.answers if answer.problem)
        if self.unsent:
            reasons[_NOT_SENT] = self.unsent
        return dict(reasons)

    @property
    def lag_s(self) -> float | None:
        """99th percentile of the generator's own delay, where a client was free in time."""
        if not self.open or not self.answers:
            return None
        return float(np.quantile([a.sent - max(a.due, a.taken) for a in self.answers], 0.99))

    @property
    def limited_by(self) -> str:
        """Why the generator may have set the figures; empty where it did not."""
        reasons = []
        if self.cpu > _CPU_LIMIT:
            reasons.append(f"the load generator used {self.cpu:.0%} of a processor core")
        lag, latencies = self.lag_s, self.latencies_s
        allowed = max(_LAG_FLOOR_SECONDS, _LAG_SHARE * float(np.median(latencies or [0.0])))
        if lag is not None and lag > allowed:
            reasons.append(
                f"it sent requests {lag * 1000:.1f} ms late (99th percentile), more than "
                f"{allowed * 1000:.1f} ms"
            )
        waiting = sum(a.taken > a.due for a in self.answers) if self.open else 0
        if waiting > _BUSY_SHARE * len(self.answers):
            reasons.append(f"{waiting} requests were due while all {self.clients} clients waited")
        return "; ".join(reasons)


class HttpClient:
    """A connection that is kept open and asks for the same prediction again and again.

    Args:
        host: Name or address.
        port: TCP port.
        request: What is asked.
    """

    def __init__(self, host: str, port: int, request: RequestBody) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        self._request = request

    def send(self) -> str:
        """Ask once; see `Client.send`. A broken connection is made anew by the next call."""
        headers = {"Content-Type": self._request.content_type}
        try:
            self._connection.request("POST", "/predict", self._request.content, headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return type(error).__name__
        return "" if answer.status == http.client.OK else f"status {answer.status}"

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def closed_loop(connect: Callable[[], Client], clients: int, seconds: float) -> Driven:
    """Let `clients` ask again as soon as they are answered, for `seconds`, each at least once."""

    def ask(client: Client, begin: float, collect: Callable[[Answer], None]) -> None:
        first = True
        while first or time.monotonic() - begin < seconds:
            first = False
            sent = time.monotonic()
            problem = client.send()
            collect(Answer(sent, sent, sent, time.monotonic(), problem))

    return _drive(connect, clients, ask, is_open=False)


def open_loop(
    connect: Callable[[], Client], due: Sequence[float], clients: int, *, give_up: float
) -> Driven:
    """Ask at given moments, whatever the answers do.

    Args:
        connect: Makes one client.
        due: Seconds after the start, ascending.
        clients: The most requests in flight.
        give_up: Seconds after the start from which nothing more is sent.
    """
    order = itertools.count()
    lock = threading.Lock()

    def ask(client: Client, begin: float, collect: Callable[[Answer], None]) -> None:
        while True:
            with lock:
                number = next(order)
            if number >= len(due):
                return
            taken = time.monotonic()
            if taken - begin > give_up:
                return
            moment = begin + due[number]
            if moment > taken:
                time.sleep(moment - taken)
            sent = time.monotonic()
            problem = client.send()
            collect(Answer(moment, taken, sent, time.monotonic(), problem))

    driven = _drive(connect, clients, ask, is_open=True)
    return Driven(**{**vars(driven), "unsent": len(due) - len(driven.answers)})


def arrivals(rate: float, seconds: float, seed: int = _SEED) -> list[float]:
    """Return the moments of a Poisson process: at least one, independent of everything else."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, max(1, round(rate * seconds)))
    return [float(moment) for moment in np.cumsum(gaps)]


def _drive(
    connect: Callable[[], Client],
    clients: int,
    ask: Callable[[Client, float, Callable[[Answer], None]], None],
    *,
    is_open: bool,
) -> Driven:
    """Warm up, start all clients at the same moment, and collect what they saw."""
    found: list[Answer] = []
    begins: list[float] = []
    used = time.process_time()

    def begin_all() -> None:
        nonlocal used
        used = time.process_time()
        begins.append(time.monotonic())

    ready = threading.Barrier(clients, action=begin_all)

    def work(number: int) -> None:
        client = connect()
        try:
            # Clients of an open loop are many, and would queue up for a warm-up of their own.
            for _ in range(_WARM_UP_REQUESTS if number == 0 or not is_open else 0):
                client.send()
            ready.wait()
            ask(client, begins[0], found.append)
        except BaseException:
            ready.abort()  # the others would wait for this client for ever
            raise
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not found:
        raise ServiceError("the load generator could not send a single request")
    end = max(answer.done for answer in found)
    return Driven(
        start=begins[0],
        seconds=end - begins[0],
        answers=tuple(sorted(found, key=lambda answer: answer.due)),
        unsent=0,
        clients=clients,
        cpu=(time.process_time() - used) / (end - begins[0]),
        open=is_open,
    )
