"""The service as a process: its log, and how it ends. No TensorFlow."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from served import Server, serving


def wait_until_refused(server: Server) -> None:
    """Wait until the service takes no new connections."""
    for _ in range(200):
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("it still takes connections")


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


def test_sigterm_finishes_what_runs_and_what_waits_and_takes_nothing_new() -> None:
    with serving(MAX_CONCURRENCY="1") as server, ThreadPoolExecutor() as pool:
        server.wait_for("ready")
        answers = [pool.submit(server.predict, 1000) for _ in range(2)]
        server.wait_for("predicting")
        time.sleep(0.3)  # the other one waits by now
        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert server.process.wait(timeout=5) == 0


def test_what_outlasts_the_grace_is_told_that_the_service_stops() -> None:
    with serving(GRACE_SECONDS="1") as server, ThreadPoolExecutor() as pool:
        server.wait_for("ready")
        answer = pool.submit(server.predict, 20_000)
        server.wait_for("predicting")
        server.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 503
        assert answer.result().json()["state"] == "stopping"
        assert server.process.wait(timeout=10) == 0


def test_draining_readiness_goes_at_once_and_requests_are_still_taken() -> None:
    with serving(DRAIN_SECONDS="2") as server, server.client() as client:
        server.wait_for("ready")
        assert client.get("/ready").status_code == 200
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["state"]) == (503, "stopping")
        assert client.get("/health").json()["state"] == "stopping"
        assert server.predict().status_code == 200
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - start > 2


def test_a_second_sigterm_ends_it_at_once() -> None:
    with serving(GRACE_SECONDS="60") as server, ThreadPoolExecutor() as pool:
        server.wait_for("ready")
        answer = pool.submit(server.predict, 60_000)
        server.wait_for("predicting")
        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        assert isinstance(answer.exception(), httpx.RemoteProtocolError | httpx.ReadError)


@pytest.mark.parametrize("state", ["loading", "ready"])
def test_as_process_1_of_a_container(state: str) -> None:
    """The kernel ignores signals without a handler for process 1 of a PID namespace."""
    wrapper = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*wrapper, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a PID namespace")
    seconds = "60" if state == "loading" else "0"
    with serving(wrapper=wrapper, LOAD_SECONDS=seconds) as server:
        server.wait_for("listening" if state == "loading" else "ready")
        outer = Path(f"/proc/{server.process.pid}")
        inner = int((outer / f"task/{server.process.pid}/children").read_text().split()[0])
        assert f"\nNSpid:\t{inner}\t1\n" in Path(f"/proc/{inner}/status").read_text()
        os.kill(inner, signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0
