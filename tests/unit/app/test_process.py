"""The service as a process behind a real socket: its log, its clients, its end. No TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
APP = HERE.parents[2] / "dockerfiles" / "app"


@dataclass
class Server:
    """A running service: its process, port, and the lines of its log."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.wait_for("listening")["port"])

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        while not any(seen["event"] == event for seen in self.events):
            self.events.append(json.loads(self.process.stdout.readline()))
        return next(seen for seen in self.events if seen["event"] == event)


@contextmanager
def serving(**env: str) -> Iterator[Server]:
    paths = os.pathsep.join([str(APP), str(HERE)])
    child = subprocess.Popen(
        [sys.executable, str(HERE / "fake_server.py")],
        env={**os.environ, "PYTHONPATH": paths, "HOST": "127.0.0.1", "PORT": "0", **env},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(child)
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_the_ready_line_tells_when_each_phase_ended() -> None:
    before = time.monotonic()
    with serving(LOAD_SECONDS="0.2") as server:
        ready = server.wait_for("ready")
    marks = ready["marks"]
    # The clock of the process's start has ticks of 10 ms.
    assert before - 0.02 < marks["process_start"] < marks["first_line"] < marks["warm"]
    assert marks["http_imported"] < marks["warm"] - 0.2
    assert {"tensorflow_imported", "model_loaded"} <= set(marks), "the backend's marks are there"
    assert marks["warm"] < time.monotonic()
    assert 0 < ready["interpreter_s"] < ready["process_s"]
    assert ready["monotonic_s"] == marks["warm"]
