"""Registries on loopback, doors before them, and the engine's BuildKit at an address of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tfslim import proc
from tfslim.bench.registry import find_tools
from tfslim.ui import Ui

__all__ = ["Door", "buildkit_at", "registry"]

_CHUNK = 1 << 16


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(folder: Path, *, htpasswd: str = "") -> Iterator[str]:
    """Run Debian's docker-registry; yield its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd + "\n")
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "registry.yml").write_text(json.dumps(settings))
    found = shutil.which("docker-registry")
    if found is None and os.geteuid() != 0:
        pytest.skip("docker-registry is not installed, and only root may fetch it")
    program = found or find_tools(Ui(quiet=True)).registry
    argv = [str(program), "serve", str(folder / "registry.yml")]
    try:
        with proc.background(argv, folder / "registry.log"):
            _until(lambda: _answers(port))
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    return False


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.05)


class Door:
    """A port before a server: counts the bytes that go in, and shuts after a number of them."""

    def __init__(self, address: str, shuts_after: int | None) -> None:
        host, _, port = address.partition(":")
        self._server = (host, int(port))
        self.shuts_after = shuts_after
        self.bytes_in = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def open_again(self) -> None:
        self.shuts_after, self.bytes_in = None, 0

    def close(self) -> None:
        self._listener.close()

    @property
    def shut(self) -> bool:
        return self.shuts_after is not None and self.bytes_in > self.shuts_after

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.shut:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                for source, target, inwards in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._carry, args=(source, target, inwards), daemon=True
                    ).start()

    def _carry(self, source: socket.socket, target: socket.socket, inwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self.bytes_in += len(data) if inwards else 0
                if self.shut:
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def buildkit_at(engine_socket: str, path: Path) -> Iterator[str]:
    """Offer the BuildKit inside an engine as a BuildKit of its own; yield its address.

    dockerd speaks BuildKit's protocol on a connection that is upgraded from POST /grpc, which is
    how buildx' driver docker reaches it. The driver remote wants the bare protocol: it gets it.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(32)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=join, args=(client,), daemon=True).start()

    def join(client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(engine_socket)
        server.sendall(
            b"POST /grpc HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += server.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, target), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
