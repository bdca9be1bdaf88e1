"""A package index on this machine, with small wheels of real libraries in it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_index import FakeIndex

LIBRARIES = Path(__file__).resolve().parents[2] / "fixtures" / "slim"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    """An empty index on the loopback address; pip's variables point to it."""
    fake = FakeIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = fake.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("PIP_INDEX_URL", f"{fake.url}/simple")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def stocked(index: FakeIndex) -> FakeIndex:
    """An index with a TensorFlow and three versions of cuBLAS: the middle one is the smallest."""
    gpu_code = (LIBRARIES / "libwrapped.so").read_bytes()
    plain = (LIBRARIES / "libplain.so").read_bytes()
    index.add(
        "tensorflow",
        "2.21.0",
        requires=(
            "packaging",
            'nvidia-cublas-cu12<13,>=12.5.3.2; extra == "and-cuda"',
            'nvidia-nvjitlink-cu12<13,>=12.5; extra == "and-cuda"',
        ),
    )
    index.add("packaging", "24.0")
    for version, rest in (("12.5.3.2", 500_000), ("12.6.4.1", 350_000), ("12.8.5.5", 600_000)):
        noise = hashlib.shake_256(version.encode()).digest(rest)
        index.add(
            "nvidia-cublas-cu12",
            version,
            files={"nvidia/cublas/lib/libcublas.so.12": gpu_code, "nvidia/cublas/rest": noise},
        )
    for version in ("12.5.82", "12.6.85"):
        index.add(
            "nvidia-nvjitlink-cu12",
            version,
            files={"nvidia/nvjitlink/lib/libnvJitLink.so.12": plain},
        )
    return index
