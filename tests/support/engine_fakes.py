"""Stand-ins for outside things: programs in a PATH of their own, and an engine's API socket."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


def program(folder: Path, name: str, script: str) -> Path:
    """Write an executable shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class FakeApi:
    """An engine's API on a Unix socket: answers /version, /_ping and /info."""

    def __init__(self, socket: Path, info: dict[str, Any] | None = None) -> None:
        self.info = {"ServerVersion": "28.0.0", "DriverStatus": [], "Driver": "overlay2"}
        self.info.update(info or {})
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(fake.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "test"

            def log_message(self, *_: object) -> None:
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(socket), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str) -> Any:
        if path.endswith("/info"):
            return self.info
        if path.endswith("/version"):
            return {
                "ApiVersion": "1.45",
                "Arch": "amd64",
                "Components": [{"Name": "containerd", "Version": "1.7"}],
            }
        return "OK"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
