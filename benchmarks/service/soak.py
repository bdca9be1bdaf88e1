"""Serve good, bad, slow, aborted and oversized requests for half an hour; does anything grow?

    python dockerfiles/app/make_mobilenet.py SAVEDMODEL
    python benchmarks/service/soak.py --python PYTHON --model SAVEDMODEL [--minutes 30]

One request after another, about `--rate` a second, each on a connection of its own; of each kind
the share below. Every ten seconds resident memory, threads and file descriptors of the service are
read. Verdict: the trend (Theil and Sen: median of the slopes between all pairs of samples) over the
last two thirds of the time, times their length, is below the bounds; and every request got the
status it should.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from running import Service, add_options, machine, npy, serving, write

SAMPLE_SECONDS = 10.0
BOUNDS = {"rss": 16e6, "anonymous": 16e6, "threads": 0.5, "descriptors": 2.0}
SETTINGS = {
    "READ_SECONDS": "3",
    "WRITE_SECONDS": "3",
    "MAX_BODY_BYTES": "4000000",
    "MAX_CONCURRENCY": "1",
    "MAX_QUEUE": "2",
}
NPY = {"content-type": "application/x-npy"}


@dataclass
class Traffic:
    """Asks the service in every way; counts what comes back."""

    service: Service
    shape: tuple[int, ...]
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensor = np.random.default_rng(0).random((1, *self.shape), np.float32)

    def kinds(self) -> dict[Callable[[], None], int]:
        """Return every kind of request with its share."""
        return {
            self.good_npy: 40,
            self.good_json: 3,
            self.malformed: 12,
            self.wrong_shape: 12,
            self.oversized: 6,
            self.oversized_and_sent: 2,
            self.aborted_upload: 6,
            self.aborted_wait: 6,
            self.slow_upload: 4,
            self.answer_not_read: 2,
            self.garbage: 5,
            self.burst: 2,
        }

    def good_npy(self) -> None:
        self.expect("good npy", 200, npy(self.tensor), NPY)

    def good_json(self) -> None:
        body = json.dumps({"inputs": self.tensor.round(3).tolist()}).encode()
        self.expect("good json", 200, body)

    def malformed(self) -> None:
        body = b'{"inputs": ' + b"[" * random.randint(1, 3000)
        self.expect("malformed", 400, body)

    def wrong_shape(self) -> None:
        self.expect("wrong shape", 400, npy(np.zeros((1, 3), np.float32)), NPY)

    def oversized(self) -> None:
        head = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 99999999\r\n\r\n"
        with self.connect() as connection:
            connection.sendall(head)
            self.count("oversized", 413, int(connection.recv(1000).split()[1]))

    def oversized_and_sent(self) -> None:
        self.expect("oversized and sent", 413, b"x" * 5_000_000)

    def aborted_upload(self) -> None:
        with self.connect() as connection:
            connection.sendall(self.raw()[:-10])
        self.seen["aborted upload"] += 1

    def aborted_wait(self) -> None:
        with self.connect() as connection:
            connection.sendall(self.raw())
        self.seen["aborted wait"] += 1

    def slow_upload(self) -> None:
        """Drip a body in the background until it is refused."""

        def drip() -> None:
            with self.connect() as connection:
                connection.settimeout(0.2)
                connection.sendall(self.raw()[:1000])
                for _ in range(100):
                    try:
                        connection.sendall(b"x")
                        answer = connection.recv(1000)
                    except TimeoutError:
                        continue
                    except OSError:
                        break
                    self.count("slow upload", 408, int(answer.split()[1]))
                    return
            self.wrong.append("slow upload: never refused")

        threading.Thread(target=drip, daemon=True).start()

    def answer_not_read(self) -> None:
        """Ask, and never read; the connection is left alone for a while."""
        connection = self.connect()
        connection.sendall(self.raw())
        threading.Timer(5, connection.close).start()
        self.seen["answer not read"] += 1

    def garbage(self) -> None:
        with self.connect() as connection:
            connection.sendall(random.randbytes(random.randint(1, 2000)))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1000)
        if answer and not answer.startswith(b"HTTP/1.1 4"):
            self.wrong.append(f"garbage: {answer[:100]!r}")
        self.seen["garbage"] += 1

    def burst(self) -> None:
        """Ask more at once than may wait: each is answered or told to try again."""

        def ask() -> None:
            status = self.ask(npy(self.tensor), NPY)
            if status not in (200, 503):
                self.wrong.append(f"burst: {status}")
            self.seen[f"burst {status}"] += 1

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def raw(self) -> bytes:
        body = npy(self.tensor)
        lines = ["POST /predict HTTP/1.1", "host: t", f"content-length: {len(body)}"]
        return "\r\n".join([*lines, "content-type: application/x-npy", "", ""]).encode() + body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.service.port), timeout=60)

    def expect(
        self, kind: str, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.count(kind, status, self.ask(body, headers))

    def count(self, kind: str, expected: int, status: int) -> None:
        if status not in (expected, 503):  # 503: what a burst left may still run
            self.wrong.append(f"{kind}: {status} and not {expected}")
        self.seen[f"{kind} {status}"] += 1

    def ask(self, body: bytes, headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
        try:
            connection.request("POST", "/predict", body, headers or {})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


def soak(traffic: Traffic, minutes: float, rate: float) -> list[dict[str, float]]:
    """Ask for so long; return the samples."""
    kinds = list(traffic.kinds())
    shares = list(traffic.kinds().values())
    start = time.monotonic()
    samples: list[dict[str, float]] = []
    chooser = random.Random(0)
    for number in itertools.count():
        now = time.monotonic() - start
        if now >= len(samples) * SAMPLE_SECONDS:
            samples.append({"seconds": round(now, 1), **traffic.service.status()})
        if now >= minutes * 60:
            return samples
        (kind,) = chooser.choices(kinds, shares)
        try:
            kind()
        except OSError as error:
            traffic.wrong.append(f"{kind.__name__}: {error}")
        if traffic.service.process.poll() is not None:
            traffic.wrong.append("the service has ended")
            return samples
        time.sleep(max(start + (number + 1) / rate - time.monotonic(), 0))
    return samples


def growth(samples: list[dict[str, float]], name: str) -> float:
    """Return Theil and Sen's slope over the samples, times their length."""
    pairs = itertools.combinations(samples, 2)
    slopes = [
        (late[name] - early[name]) / (late["seconds"] - early["seconds"])
        for early, late in pairs
        if late["seconds"] > early["seconds"]
    ]
    return statistics.median(slopes) * (samples[-1]["seconds"] - samples[0]["seconds"])


def main() -> int:
    """Run it and write `results/soak.json`; BACKEND and other settings reach the service."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--name", default="soak", help="of the result")
    options = parser.parse_args()
    with serving(options.python, options.model, **SETTINGS) as service:
        traffic = Traffic(service, (224, 224, 3))
        before = service.cpu_seconds()
        samples = soak(traffic, options.minutes, options.rate)
        cpu = service.cpu_seconds() - before
        stderr = list(service.stderr)
    last = samples[len(samples) // 3 :]
    grown = {name: round(growth(last, name), 2) for name in BOUNDS}
    broken = [name for name, bound in BOUNDS.items() if grown[name] > bound]
    traced = [line for line in stderr if "Traceback" in line]
    result: dict[str, Any] = {
        "verdict": "failed" if broken or traffic.wrong or traced else "passed",
        "minutes": options.minutes,
        "growth over the last two thirds": grown,
        "bounds": BOUNDS,
        "grown too much": broken,
        "requests": dict(sorted(traffic.seen.items())),
        "unexpected": traffic.wrong[:50],
        "tracebacks": len(traced),
        "cpu share of one core": round(cpu / samples[-1]["seconds"], 3),
        "settings": SETTINGS,
        "backend": os.environ.get("BACKEND", "tensorflow"),
        "tensorflow": service.ready["tensorflow"],
        "model": options.model.name,
        "machine": machine(),
        "note": options.note,
        "samples": samples,
    }
    write(f"{options.name}.json", result)
    return 0 if result["verdict"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
