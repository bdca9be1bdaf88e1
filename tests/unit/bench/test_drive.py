"""Load on stand-ins for a service: what loops count, and how they watch their generator."""

from __future__ import annotations

import http.server
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tfslim.bench import drive
from tfslim.bench.drive import Answer, Driven, HttpClient, arrivals, closed_loop, open_loop
from tfslim.bench.load import RequestBody
from tfslim.errors import ServiceError


class Stand:
    """A service of one worker: `seconds` for each request, and what `problem` says of each."""

    def __init__(
        self, seconds: float = 0.001, problem: Callable[[int], str] = lambda _: ""
    ) -> None:
        self.seconds, self.problem = seconds, problem
        self.lock = threading.Lock()
        self.asked = self.closed = 0
        self.stall: tuple[int, float] | None = None

    def send(self) -> str:
        with self.lock:
            self.asked += 1
            number = self.asked
            time.sleep(self.seconds)
            if self.stall and number == self.stall[0]:
                time.sleep(self.stall[1])
        return self.problem(number)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("clients", [1, 3])
def test_a_closed_loop_counts_every_request_but_the_warm_up(clients: int) -> None:
    stand = Stand()
    driven = closed_loop(lambda: stand, clients, 0.1)
    assert len(driven.latencies_s) == stand.asked - drive._WARM_UP_REQUESTS * clients
    assert stand.closed == clients
    assert sum(driven.latencies_s) <= clients * driven.seconds + 1e-3
    assert driven.failed == {}
    assert driven.lag_s is None


def test_failures_are_counted_by_reason_and_have_no_latency() -> None:
    stand = Stand(problem=lambda number: "status 503" if number % 2 else "")
    driven = closed_loop(lambda: stand, 1, 0.1)
    assert driven.failed["status 503"] + len(driven.latencies_s) == len(driven.answers)
    assert abs(driven.failed["status 503"] - len(driven.latencies_s)) <= 1


def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    closed, opened = Stand(), Stand()
    closed.stall = opened.stall = (40, 0.4)
    seen = closed_loop(lambda: closed, 1, 0.8).latencies_s
    due = [i * 0.01 for i in range(80)]
    driven = open_loop(lambda: opened, due, 64, give_up=5)
    assert sum(latency > 0.05 for latency in seen) < 10  # one, on a machine that is not loaded
    late = [latency for latency in driven.latencies_s if latency > 0.05]
    assert len(late) >= 20  # 0.4 s at 100 requests/s, all but the last of which waited that long
    assert len(driven.latencies_s) == 80


def test_an_open_loop_gives_up_on_a_service_that_is_far_behind() -> None:
    stand = Stand(seconds=0.05)
    driven = open_loop(lambda: stand, [i * 0.001 for i in range(200)], 2, give_up=0.3)
    assert driven.unsent > 100
    assert driven.failed == {"not sent: the service was slower than the rate": driven.unsent}
    assert driven.unsent + len(driven.answers) == 200


def test_requests_that_find_no_free_client_are_told() -> None:
    stand = Stand(seconds=0.03)
    driven = open_loop(lambda: stand, [i * 0.001 for i in range(30)], 2, give_up=5)
    assert "due while all 2 clients waited" in driven.limited_by


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_generator_that_fails_is_an_error_and_does_not_hang() -> None:
    class Broken(Stand):
        def send(self) -> str:
            raise RuntimeError("a defect")

    with pytest.raises(ServiceError, match="could not send a single request"):
        closed_loop(Broken, 3, 0.1)


def driven(lag: float, latency: float, cpu: float = 0.1) -> Driven:
    answers = tuple(Answer(i, i - 1, i + lag, i + lag + latency, "") for i in range(100))
    return Driven(0.0, 100.0, answers, 0, 8, cpu, open=True)


def test_a_generator_that_is_late_or_busy_is_told() -> None:
    assert driven(lag=0.0001, latency=0.01).limited_by == ""
    assert driven(lag=0.0001, latency=0.01).lag_s == pytest.approx(0.0001)
    assert "sent requests 50.0 ms late" in driven(lag=0.05, latency=0.01).limited_by
    assert driven(lag=0.05, latency=1.0).limited_by == ""  # a twentieth of the latency
    assert "95% of a processor core" in driven(0.0, 0.01, cpu=0.95).limited_by


def test_arrivals_are_a_poisson_process() -> None:
    moments = arrivals(50.0, 200.0, seed=4)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert len(moments) == 10_000
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)  # as its mean
    counts = [sum(1 for m in moments if i <= m < i + 1) for i in range(150)]
    assert statistics.variance(counts) == pytest.approx(statistics.mean(counts), rel=0.4)
    assert moments == arrivals(50.0, 200.0, seed=4) != arrivals(50.0, 200.0, seed=5)


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if body == b"good" else 400)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_a_real_connection_says_what_it_was_answered(
    server: http.server.ThreadingHTTPServer,
) -> None:
    port = server.server_address[1]
    good = HttpClient("127.0.0.1", port, RequestBody(b"good", "text/plain", 1))
    assert [good.send() for _ in range(3)] == ["", "", ""]
    good.close()
    assert HttpClient("127.0.0.1", port, RequestBody(b"bad", "text/plain", 1)).send() == (
        "status 400"
    )
    assert HttpClient("127.0.0.1", 1, RequestBody(b"", "text/plain", 1)).send() == (
        "ConnectionRefusedError"
    )
