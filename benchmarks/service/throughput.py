"""Latency and throughput of settings side by side: they take turns, in windows of a few seconds.

    python benchmarks/service/throughput.py batching --python PYTHON --model SAVEDMODEL
    python benchmarks/service/throughput.py collector --python PYTHON --model SAVEDMODEL

`batching`: MAX_BATCH off, 8 and 16, at 8 and 16 requests at once. `collector`: the collector as the
service leaves it (what the start made is frozen), against one that looks through everything.
Closed loop: each client asks again when it is answered, one row a request.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from running import APP, Service, add_options, machine, npy, serving, write

# A sitecustomize module, run at the start of Python: takes back what the service does.
_NO_FREEZE = "import gc; gc.freeze = lambda: None\n"
CASES: dict[str, dict[str, dict[str, str]]] = {
    "batching": {
        "one by one": {},
        "MAX_BATCH=8": {"MAX_BATCH": "8", "WARMUP_BATCHES": "1,8"},
        "MAX_BATCH=16": {"MAX_BATCH": "16", "WARMUP_BATCHES": "1,16"},
    },
    "collector": {"frozen": {}, "not frozen": {"PYTHONPATH": ""}},
}
CLIENTS = {"batching": (1, 8, 16), "collector": (1, 2)}


@dataclass
class Side:
    """One setting: its service, and the seconds of its requests by number of clients."""

    service: Service
    latencies: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0

    def window(self, clients: int, seconds: float, body: bytes) -> None:
        """Load the service for so long."""
        end = time.monotonic() + seconds
        found: list[float] = []

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
            while (start := time.monotonic()) < end:
                connection.request("POST", "/predict", body, {"content-type": "application/x-npy"})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.wrong += 1
                found.append(time.monotonic() - start)
            connection.close()

        start = time.monotonic()
        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.latencies.setdefault(clients, []).extend(found)
        self.rates.setdefault(clients, []).append(len(found) / (time.monotonic() - start))


def summary(side: Side, clients: int) -> dict[str, object]:
    """Return requests a second (median of the windows) and percentiles of latency."""
    found = side.latencies[clients]
    cuts = statistics.quantiles(found, n=100)
    return {
        "requests": len(found),
        "a second": round(statistics.median(side.rates[clients]), 1),
        "p50 ms": round(cuts[49] * 1000, 1),
        "p90 ms": round(cuts[89] * 1000, 1),
        "p99 ms": round(cuts[98] * 1000, 1) if len(found) >= 1000 else None,
        "max ms": round(max(found) * 1000, 1),
    }


def main() -> None:
    """Run it and write `results/batching.json` or `results/collector.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=CASES)
    add_options(parser)
    parser.add_argument("--seconds", type=float, default=5, help="of a window")
    parser.add_argument("--windows", type=int, default=4, help="for each setting")
    options = parser.parse_args()
    body = npy(np.random.default_rng(0).random((1, 224, 224, 3), np.float32))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "sitecustomize.py").write_text(_NO_FREEZE)
        CASES["collector"]["not frozen"]["PYTHONPATH"] = f"{folder}:{APP}"
        sides = {
            name: Side(stack.enter_context(serving(options.python, options.model, **env)))
            for name, env in CASES[options.what].items()
        }
        for turn in range(options.windows + 1):
            for clients in CLIENTS[options.what]:
                for side in sides.values():
                    side.window(clients, options.seconds if turn else 1, body)
            if not turn:  # warm-up
                for side in sides.values():
                    side.latencies.clear()
                    side.rates.clear()
        memory = {name: side.service.status()["rss"] for name, side in sides.items()}
        version = next(iter(sides.values())).service.ready["tensorflow"]
    result: dict[str, object] = {
        f"{clients} at once": {name: summary(side, clients) for name, side in sides.items()}
        for clients in CLIENTS[options.what]
    }
    about = {
        "resident bytes": memory,
        "answers other than 200": {name: side.wrong for name, side in sides.items()},
        "windows": f"{options.windows} of {options.seconds} s",
        "tensorflow": version,
        "model": options.model.name,
        "machine": machine(),
        "note": options.note,
    }
    write(f"{options.what}.json", {**result, **about})


if __name__ == "__main__":
    main()
