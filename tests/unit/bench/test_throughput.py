"""Side by side, with subjects that are threads of this process: turns, loads, verdicts."""

from __future__ import annotations

import http.server
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from tfslim.bench import throughput
from tfslim.bench.results import HttpRun, InProcessRun
from tfslim.bench.throughput import (
    Subject,
    compare_runs,
    doubts,
    measure_calls,
    measure_services,
)
from tfslim.bench.turns import rotated
from tfslim.config import BenchConfig
from tfslim.ui import Ui

METADATA = {
    "default_signature": "s",
    "signatures": {"s": {"inputs": {"x": {"dtype": "float32", "shape": [-1, 2]}}}},
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    seconds_a_sample = 0.002

    def do_GET(self) -> None:
        self.answer({"gpus": []} if self.path == "/health" else METADATA)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds_a_sample * len(np.load(io.BytesIO(body))))
        self.answer({})

    def answer(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


@dataclass
class Service:
    http: httpx.Client
    marks: dict[str, float] = field(default_factory=lambda: {"created": 0.1, "ready": 1.0})

    def ready_event(self) -> dict[str, float]:
        return {"load_s": 0.5}

    def memory_bytes(self) -> int | None:
        return 123


def subject(name: str, seconds: float, order: list[str]) -> Subject:
    @contextmanager
    def serve() -> Iterator[Service]:
        order.append(name)
        handler = type("Mine", (Handler,), {"seconds_a_sample": seconds})
        with Server(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}") as client:
                yield Service(client)
            server.shutdown()

    return Subject(name, None, None, "m", serve)  # type: ignore[arg-type]


SETTINGS = BenchConfig(launches=2, batch_sizes=(1, 3), seconds=0.15, concurrency=(1, 2), rate=30.0)


def test_launches_take_turns_and_every_load_is_there() -> None:
    order: list[str] = []
    sides = [subject("a", 0.002, order), subject("b", 0.002, order)]
    launches, runs = measure_services(sides, SETTINGS, group=4, gpu=False, ui=Ui(quiet=True))
    assert order == ["a", "b", "b", "a"]
    assert [(one.subject, one.round) for one in launches] == [
        ("a", 0),
        ("b", 0),
        ("b", 1),
        ("a", 1),
    ]
    assert launches[0].phases_s["first_answer"] > 1.0
    assert launches[0].memory_bytes == 123
    mine = [run for run in runs if run.subject == "a" and run.round == 0]
    assert [(r.kind, r.batch_size, r.concurrency, r.rate) for r in mine[:3]] == [
        ("closed", 1, 1, None),
        ("closed", 3, 1, None),
        ("closed", 1, 2, None),
    ]
    assert (mine[3].kind, mine[3].rate) == ("open", 30.0)
    assert 1 <= mine[3].concurrency <= 32
    assert {run.group for run in runs} == {4}
    assert all(min(run.latencies_s) >= 0.002 * run.batch_size for run in runs)


def test_the_rate_is_found_once_and_is_the_same_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    settings = SETTINGS.model_copy(update={"rate": "auto"})
    sides = [subject("a", 0.004, []), subject("b", 0.001, [])]
    _, runs = measure_services(sides, settings, group=0, gpu=False, ui=Ui(interactive=False))
    rates = {run.rate for run in runs if run.kind == "open"}
    assert len(rates) == 1
    assert 5 < (rates.pop() or 0) <= 250  # two clients of a service that takes 4 ms at least
    assert "about half of what a answered" in capsys.readouterr().err


def test_without_a_rate_there_is_no_open_loop() -> None:
    settings = SETTINGS.model_copy(update={"rate": "off", "launches": 1})
    _, runs = measure_services(
        [subject("a", 0.001, [])], settings, group=0, gpu=False, ui=Ui(quiet=True)
    )
    assert {run.kind for run in runs} == {"closed"}


def test_a_subject_without_a_service_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tree = Subject("tree", None, None, "m", None, "it is a tree")  # type: ignore[arg-type]
    found = measure_services([tree], SETTINGS, group=0, gpu=False, ui=Ui(interactive=False))
    assert found == ([], [])
    assert "tree: nothing over HTTP: it is a tree" in capsys.readouterr().err


def test_processes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def call(target: Any, job: Any, plan: Any, **given: Any) -> list[InProcessRun]:
        seen.append((given["subject"], given["turn"]))
        return []

    monkeypatch.setattr(throughput, "call_in_process", call)
    sides = [subject("a", 0, []), subject("b", 0, []), subject("c", 0, [])]
    measure_calls(sides, SETTINGS, group=0, gpu=False, ui=Ui(quiet=True))
    assert seen == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1), ("a", 1)]
    assert [one.name for one in rotated(sides, 5)] == ["c", "a", "b"]


def call_run(name: str, turn: int, seconds: float) -> InProcessRun:
    return InProcessRun(
        subject=name,
        group=0,
        round=turn,
        device="CPU",
        batch_size=1,
        first_call_s=1.0,
        latencies_s=(seconds,) * 5,
        stable=True,
    )


def http_run(name: str, turn: int, seconds: float, limited_by: str = "") -> HttpRun:
    return HttpRun(
        subject=name,
        group=0,
        round=turn,
        device="CPU",
        kind="closed",
        batch_size=2,
        concurrency=1,
        rate=None,
        seconds=10 * seconds,
        latencies_s=(seconds,) * 10,
        limited_by=limited_by,
    )


def test_every_measure_is_compared_with_the_first_subject() -> None:
    calls = [call_run(n, t, s) for n, s in (("a", 1.0), ("b", 0.5), ("c", 1.0)) for t in range(5)]
    runs = [http_run(name, t, s) for name, s in (("a", 1.0), ("b", 0.5)) for t in range(5)]
    found = compare_runs(calls, runs, 0.03)
    assert [(item.subject, item.baseline, item.comparison.verdict) for item in found] == [
        ("b", "a", "faster"),
        ("c", "a", "same"),
        ("b", "a", "faster"),
    ]
    assert found[2].measure == "http closed, batch 2, 1 client: samples/s"
    assert found[2].comparison.ratio is not None
    assert found[2].comparison.ratio.value == 2.0


def test_nothing_is_claimed_from_runs_that_the_generator_limited() -> None:
    good = [http_run("a", turn, 1.0) for turn in range(5)]
    limited = [http_run("b", turn, 0.5, "the generator was busy") for turn in range(5)]
    assert compare_runs([], [*good, *limited], 0.03) == []


def test_what_makes_figures_doubtful_is_told_once_with_its_number() -> None:
    calls = [call_run("a:1", turn, 1.0).model_copy(update={"stable": False}) for turn in range(3)]
    runs = [http_run("a:1", turn, 1.0, "it was late") for turn in range(2)]
    assert doubts([*calls, call_run("b", 0, 1.0)], [*runs, http_run("b", 0, 1.0)]) == [
        "a:1: calls in a process, batch 1: windows did not agree within 10 % in 3 launches",
        "a:1: closed loop over HTTP, batch 2: the load generator may have limited 2 runs "
        "(it was late)",
    ]
