"""An engine whose containers are small HTTP servers in this process, or only lines of text."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from docker.errors import ImageNotFound

METADATA = {
    "default_signature": "serving_default",
    "signatures": {"serving_default": {"inputs": {"x": {"dtype": "float32", "shape": [-1, 3]}}}},
}
FAR_AWAY = 10.0**6  # seconds: a clock that is another machine's


@dataclass
class FakeImage:
    """How a container of an image behaves.

    Attributes:
        marks: Give marks in a ready line.
        ready_path: Answers 200 once ready; "/ready" as ours does.
        predicts: Has metadata and /predict.
        port: Exposes 8080 and answers there.
        lines: Printed in place of a ready line.
        clock: Added to the marks.
        crashes: Exits with status 3; called for each start with its number, from 0.
    """

    marks: bool = True
    ready_path: str = "/ready"
    predicts: bool = True
    port: bool = True
    lines: tuple[str, ...] = ()
    clock: float = 0.0
    delay: float = 0.03
    crashes: Callable[[int], bool] = lambda number: False
    env: tuple[str, ...] = ("MODEL_NAME=mine",)


class FakeContainer:
    def __init__(self, fake: FakeDocker, name: str, options: dict[str, Any]) -> None:
        self.id = f"{name}-{len(fake.created)}"
        self.options = options
        self.image = fake.images_by_name[name]
        self.number = fake.starts.get(name, 0)
        fake.starts[name] = self.number + 1
        self.ports: dict[str, Any] = {}
        self.attrs = {"State": {"Pid": 0}}
        self.removed = False
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._server: ThreadingHTTPServer | None = None
        self._ready = threading.Event()

    def attach(self, **_: Any) -> Iterator[bytes]:
        while (chunk := self._out.get()) is not None:
            yield chunk

    def start(self) -> None:
        self._begun = time.monotonic()
        if self.image.port:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
            self.ports = {"8080/tcp": [{"HostPort": str(self._server.server_port)}]}
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        self._out.put(b'{"event": "listening", "port": 8080}\nhalf a ')
        time.sleep(self.image.delay)
        if self.image.crashes(self.number):
            self._out.put(b"line\nno space left on device\n")
            self._out.put(None)
            return
        self._ready.set()
        self._out.put(b"line\n" + "".join(f"{line}\n" for line in self.image.lines).encode())
        if self.image.marks:
            now = time.monotonic() + self.image.clock
            begun = self._begun + self.image.clock
            marks = {
                "process_start": begun,
                "first_line": begun + 0.001,
                "http_imported": begun + 0.002,
                "tensorflow_imported": begun + 0.005,
                "gpu_initialised": begun + 0.006,
                "model_loaded": now - 0.001,
                "warm": now,
            }
            self._out.put(json.dumps({"event": "ready", "marks": marks}).encode() + b"\n")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == mine.image.ready_path:
                    self.say(200 if mine._ready.is_set() else 503, {})
                elif mine.image.predicts and self.path == "/v1/models/mine/metadata":
                    self.say(200, METADATA)
                elif self.path == "/health":
                    self.say(200, {"gpus": []})
                else:
                    self.say(404, {})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.say(200 if mine.image.predicts and self.path == "/predict" else 404, {})

            def say(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def reload(self) -> None:
        pass

    def wait(self, timeout: float) -> dict[str, int]:
        return {"StatusCode": 3}

    def remove(self, **_: Any) -> None:
        self.removed = True
        self._out.put(None)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@dataclass
class _ImageRecord:
    id: str
    attrs: dict[str, Any]


@dataclass
class FakeDocker:
    """As much of a Docker client as cold starts use."""

    images_by_name: dict[str, FakeImage]
    created: list[FakeContainer] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)

    @property
    def containers(self) -> FakeDocker:
        return self

    @property
    def images(self) -> FakeDocker:
        return self

    @property
    def api(self) -> FakeDocker:
        return self

    def info(self) -> dict[str, Any]:
        return {"Runtimes": {"nvidia": {}}}

    def create(self, image: str, **options: Any) -> FakeContainer:
        self.get(image)
        self.created.append(FakeContainer(self, image, options))
        return self.created[-1]

    def get(self, name: str) -> _ImageRecord:
        if name not in self.images_by_name:
            raise ImageNotFound(name)
        image = self.images_by_name[name]
        ports = {"ExposedPorts": {"8080/tcp": {}}} if image.port else {}
        return _ImageRecord(f"sha256:{name}", {"Config": {**ports, "Env": list(image.env)}})

    def stats(self, *_: Any, **__: Any) -> dict[str, Any]:
        read = [{"op": "Read", "value": 4096}, {"op": "write", "value": 1}]
        return {
            "memory_stats": {"usage": 1000, "stats": {"inactive_file": 200}},
            "blkio_stats": {"io_service_bytes_recursive": read},
        }

    def close(self) -> None:
        pass
