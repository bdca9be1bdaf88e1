"""Stand-ins for outside things: programs in a PATH of their own, an API socket, engines."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tfslim.engine.engine import Endpoint, Engine
from tfslim.proc import Completed

# What buildx 0.13 prints; newer ones say "Buildkit:" or "BuildKit version:", and may add lines.
_BUILDER = """\
Name:          far
Driver:        {driver}
Last Activity: 2026-11-23 01:55:29 +0000 UTC

Nodes:
Name:             far0
Endpoint:         tcp://buildkit:1234
Status:           {status}
{error}BuildKit version: {version}
Platforms:        {platforms}
Labels:
 org.mobyproject.buildkit.worker.executor: oci
GC Policy rule#0:
 All:           false
"""


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


def shown_builder(
    driver: str = "remote",
    status: str = "running",
    error: str = "",
    version: str = "v0.17.2",
    platforms: str = "linux/amd64*, linux/amd64/v2, linux/386",
) -> str:
    """Return what `buildx inspect` prints of a builder that is called far."""
    text = {"driver": driver, "status": status, "error": error}
    return _BUILDER.format(**text, version=version, platforms=platforms)


# What buildx 0.13 prints of a remote BuildKit that does not answer, unless it is to start it.
SLEEPING_BUILDER = """\
Name:          far
Driver:        remote
Last Activity: 2026-11-23 06:42:40 +0000 UTC

Nodes:
Name:     far0
Endpoint: tcp://buildkit:1234
Status:   inactive
"""


@dataclass(frozen=True)
class FakeEngine(Engine):
    """An engine whose buildx knows builders by what it prints of them; `calls`: what was asked."""

    builders: dict[str, str] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)

    def buildx(self, args: Sequence[str], *_: Any, **__: Any) -> Completed:
        """Answer `inspect`, `create` and `ls`."""
        self.calls.append(list(args))
        if args[0] == "create":
            self.builders[args[2]] = shown_builder(
                "kubernetes" if "kubernetes" in args else "remote"
            )
            return Completed(("buildx",), 0, args[2], "")
        if args[0] == "ls":
            return Completed(("buildx",), 0, "\n".join(self.builders), "")
        text = self.builders.get(args[-1])
        if text is None:
            return Completed(("buildx",), 1, "", f'ERROR: no builder "{args[-1]}" found')
        return Completed(("buildx",), 0, text, "")


def fake_engine(
    *, data_root: Path | None = None, cache_export: bool = True, **builders: str
) -> FakeEngine:
    """Return an engine that builds by itself, and knows these builders besides."""
    return FakeEngine(
        endpoint=Endpoint("unix:///run/x.sock", None, Path("/usr/bin/docker-buildx"), {}),
        embedded=False,
        server_version="28.1.0",
        buildx_version="0.21.3",
        driver="docker",
        builder="default",
        driver_reason="because",
        cache_export=cache_export,
        cache_reason="the store can or cannot",
        build_network="host",
        data_root=data_root,
        builders=builders,
    )
