"""MLPerf's own load generator (mlcommons-loadgen) against a service over HTTP.

LoadGen is C++ and decides by itself when it issues what; a run is a process of its own, so that
whatever it does cannot take the benchmark with it:

    python -m tfslim.bench.loadgen --scenario Server --port 8080 --request FILE … --out DIR

Scenarios as in MLPerf's rules: SingleStream (one after the other), MultiStream (8 samples at
once), Server (Poisson arrivals), Offline (all at once). One sample is one request of batch size 1;
for MultiStream and Offline the samples of a query are sent by several connections.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import queue
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from tfslim import proc
from tfslim.bench.drive import Client, HttpClient
from tfslim.bench.load import RequestBody
from tfslim.bench.results import LoadgenRun
from tfslim.errors import ConfigError, ServiceError

__all__ = ["SCENARIOS", "Scenario", "check_loadgen", "parse_summary", "run_scenario"]

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

_MODULE = "mlperf_loadgen"
_SUMMARY = "mlperf_log_summary.txt"
_SAMPLES = 64  # in the query sample library; all of them are the same request
_STREAMS = 8  # MultiStream's samples per query
_CLIENTS = 32  # connections of Server and Offline
_LATENCY_NS = 100_000_000  # Server's bound for the 99th percentile
_LINE = re.compile(r"^[ *]*([A-Za-z0-9][^:\n]*?) *: *(\S.*?) *$", re.MULTILINE)
_START_SECONDS = 60.0


def check_loadgen() -> None:
    """Refuse early where LoadGen is not installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise ConfigError(
            "MLPerf's load generator is not installed",
            why="--loadgen needs the package mlcommons-loadgen.",
            way_out="pip install 'tfslim[loadgen]' (or leave --loadgen out: closed and open loops "
            "need nothing more).",
        )


def run_scenario(
    scenario: Scenario,
    *,
    subject: str,
    device: str,
    host: str,
    port: int,
    request: RequestBody,
    seconds: float,
    rate: float,
) -> LoadgenRun:
    """Drive a service through one scenario.

    Args:
        scenario: As MLPerf names it.
        subject: What the result calls the service.
        device: What it runs on.
        host: Where it is.
        port: Likewise.
        request: One sample.
        seconds: How long LoadGen is to run at least; MLPerf's rules ask for 600.
        rate: Requests a second that the service answers, about: Server is asked for half of it.

    Raises:
        ConfigError: LoadGen is not installed.
        ServiceError: LoadGen failed, or the service did.
    """
    check_loadgen()
    with tempfile.TemporaryDirectory(prefix="tfslim-loadgen-") as name:
        folder = Path(name)
        (folder / "request").write_bytes(request.content)
        argv = [sys.executable, "-m", __name__, "--out", name, "--scenario", scenario]
        argv += ["--host", host, "--port", str(port), "--request", str(folder / "request")]
        argv += ["--content-type", request.content_type, "--seconds", f"{seconds:g}"]
        argv += ["--rate", f"{rate:g}"]
        package = Path(__file__).resolve().parents[2]
        env = {"PYTHONPATH": str(package)}
        done = proc.run(argv, env=env, timeout=_START_SECONDS + 10 * seconds)
        summary = folder / _SUMMARY
        if not done.ok or not summary.is_file():
            raise ServiceError(
                f"{subject}: MLPerf's load generator failed in scenario {scenario}", why=done.tail
            )
        said = parse_summary(summary.read_text(encoding="utf-8"))
    return LoadgenRun(
        subject=subject,
        device=device,
        scenario=scenario,
        samples_per_query=_STREAMS if scenario == "MultiStream" else 1,
        target_rate=rate / 2 if scenario == "Server" else None,
        settings=_departures(scenario, seconds),
        **said,
    )


def parse_summary(text: str) -> dict[str, Any]:
    """Read LoadGen's summary: `valid`, `early_stopping_met`, and `figures` by name with unit."""
    results, _, _ = text.partition("Test Parameters Used")
    pairs = dict(_LINE.findall(results))
    met = {"Yes": True, "NO": False, "No": False}
    figures = {name: float(value) for name, value in pairs.items() if _is_number(value)}
    return {
        "valid": pairs.get("Result is") == "VALID",
        "early_stopping_met": met.get(pairs.get("Early stopping satisfied", "")),
        "figures": figures,
    }


def main() -> None:
    """Run one scenario in this process; LoadGen writes its logs to --out."""
    options = _options()
    loadgen = importlib.import_module(_MODULE)
    body = RequestBody(options.request.read_bytes(), options.content_type, 1)
    clients = {"SingleStream": 1, "MultiStream": _STREAMS}.get(options.scenario, _CLIENTS)
    sender = _Sender(loadgen, lambda: HttpClient(options.host, options.port, body), clients)
    system = loadgen.ConstructSUT(sender.issue, lambda: None)
    samples = loadgen.ConstructQSL(_SAMPLES, _SAMPLES, lambda _: None, lambda _: None)
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(options.out)
    logs.log_output.copy_summary_to_stdout = False
    loadgen.StartTestWithLogSettings(system, samples, _settings(loadgen, options), logs)
    sender.close()
    if sender.problems:
        sys.exit(f"{sum(sender.problems.values())} requests failed: {json.dumps(sender.problems)}")
    loadgen.DestroyQSL(samples)
    loadgen.DestroySUT(system)


class _Sender:
    """Connections that take samples from a queue and tell LoadGen when each is answered."""

    def __init__(self, loadgen: Any, connect: Callable[[], Client], clients: int) -> None:
        self._loadgen = loadgen
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.problems: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(connect(),)) for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def issue(self, samples: Any) -> None:
        """Take the samples of a query; LoadGen calls this from a thread of its own."""
        for sample in samples:
            self._queue.put(sample.id)

    def close(self) -> None:
        """End all connections."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, client: Client) -> None:
        while (sample := self._queue.get()) is not None:
            problem = client.send()
            if problem:  # LoadGen waits for each sample: it is told, and the run refused at the end
                self.problems[problem] = self.problems.get(problem, 0) + 1
            response = self._loadgen.QuerySampleResponse(sample, 0, 0)
            self._loadgen.QuerySamplesComplete([response])
        client.close()


def _settings(loadgen: Any, options: argparse.Namespace) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, options.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(options.seconds * 1000)
    settings.max_duration_ms = int(options.seconds * 4000)
    settings.min_query_count = 1
    expected_ns = int(1e9 / options.rate)
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = expected_ns * _STREAMS
    settings.multi_stream_samples_per_query = _STREAMS
    settings.server_target_qps = options.rate / 2
    settings.server_target_latency_ns = _LATENCY_NS
    settings.offline_expected_qps = options.rate
    return settings


def _departures(scenario: Scenario, seconds: float) -> tuple[str, ...]:
    notes = [
        f"{seconds:g} s where MLPerf's rules ask for 600 s" if seconds < 600 else "",
        "all samples are the same made-up input; no accuracy run",
        f"99th percentile within {_LATENCY_NS / 1e6:g} ms" if scenario == "Server" else "",
        "the load generator is on the same machine as the service",
    ]
    return tuple(note for note in notes if note)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text) is not None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--scenario", choices=SCENARIOS, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--content-type", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
