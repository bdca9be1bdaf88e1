"""The service as a process with a fake backend, and bare sockets to misuse it with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

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

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def predict(self, milliseconds: int = 0) -> httpx.Response:
        """Predict on a connection of its own; the fake takes that long."""
        with self.client() as client:
            return client.post("/predict", json={"inputs": [[1000 + milliseconds, 1]]})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def serving(*, wrapper: Sequence[str] = (), **env: str) -> Iterator[Server]:
    """Start the service; `wrapper` goes in front of its command."""
    paths = os.pathsep.join([str(APP), str(HERE)])
    child = subprocess.Popen(
        [*wrapper, sys.executable, str(HERE / "fake_server.py")],
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


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes; a reset counts as closing."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def post(length: int, body: bytes = b"", *headers: str) -> bytes:
    """Return a request to /predict with a raw tensor that claims to be `length` bytes long."""
    lines = ["POST /predict HTTP/1.1", "host: toy", "content-type: application/x-npy"]
    lines += [f"content-length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
