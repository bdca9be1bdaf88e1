"""Start, serve, stop: the socket first, the model behind it, and a quick way out."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tfserve_app.api import create_app
from tfserve_app.backend import Backend
from tfserve_app.connection import Connection
from tfserve_app.errors import ModelLoadError
from tfserve_app.lean_uvicorn import Config, Server
from tfserve_app.process import EXIT_MODEL, EXIT_SOCKET, fail, leave, log_event
from tfserve_app.service import Service
from tfserve_app.settings import Settings

__all__ = ["serve"]


def serve(
    settings: Settings, version: str, open_backend: Callable[[], Backend], marks: dict[str, float]
) -> NoReturn:
    """Serve until SIGTERM or SIGINT; this process ends here and never returns.

    `/health` answers from the first moment; the model loads in a second thread meanwhile.

    Args:
        settings: The service's settings.
        version: The model's version.
        open_backend: Loads the model; called once, in a thread of its own.
        marks: When the start came how far, for the `ready` line: `process_start`, `first_line`
            and `http_imported`, seconds on CLOCK_MONOTONIC.
    """
    listener = _listen(settings)
    port = listener.getsockname()[1]
    service = Service(settings, version)
    config = Config(
        create_app(service),
        http=functools.partial(Connection, settings),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,  # errors reach standard error without it
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    log_event("listening", host=settings.host, port=port)
    threading.Thread(target=_load, args=(service, open_backend, marks), daemon=True).start()
    _Server(config, service).run(sockets=[listener])
    leave()


class _Server(Server):
    """Uvicorn's server with this service's way to stop, and a watch over slow clients."""

    def __init__(self, config: Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = float("inf")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; the process ends itself afterwards."""
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGINT, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what is in flight; while loading, or when told again, end at once."""
        if self._service.stopping or not self._service.ready:
            leave(sig, frame)
        self._service.stopping = True
        self._stop_at = time.monotonic() + self._service.settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections once a second, and stop when it is time."""
        now = time.monotonic()
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)
        self.should_exit = self.should_exit or now >= self._stop_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish within GRACE_SECONDS; the rest is told that the service stops."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error}; set PORT", EXIT_SOCKET)
    # An answer's head and body are two writes. Without this the body of every answer after a
    # connection's first few waits 40 ms for the client's delayed acknowledgement of the head.
    # Linux hands it down to accepted sockets; asyncio sets it only where a socket names its
    # protocol, and Python's create_server names none.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _load(service: Service, open_backend: Callable[[], Backend], marks: dict[str, float]) -> None:
    """Load and warm the model, then say so; a failure ends the process."""
    try:
        service.load(open_backend)
    except ModelLoadError as error:
        fail(f"model cannot be served: {error}", EXIT_MODEL)
    except BaseException as error:  # noqa: BLE001 (half-alive is the one thing not allowed)
        traceback.print_exc()
        fail(f"model cannot be served: {type(error).__name__}: {error}", EXIT_MODEL)
    marks["warm"] = time.monotonic()
    # What a start has made stays: the collector need not look through it again and again.
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    _log_ready(service, marks)


def _log_ready(service: Service, marks: dict[str, float]) -> None:
    warmup = service.warmup
    now = marks["warm"]
    seconds = {
        "interpreter_s": marks["first_line"] - marks["process_start"],
        "http_import_s": marks["http_imported"] - marks["first_line"],
        **service.backend.timings,
        "warmup_s": warmup.seconds if warmup else 0.0,
        "process_s": now - marks["process_start"],
        "monotonic_s": now,
    }
    reached = {**marks, **service.backend.marks}
    info = service.backend.info
    log_event(
        "ready",
        **{name: round(value, 4) for name, value in seconds.items()},
        marks={name: round(reached[name], 4) for name in sorted(reached, key=reached.__getitem__)},
        tensorflow=info.tensorflow_version,
        gpus=list(info.gpus),
        warmup_failed=warmup.failed if warmup else {},
    )
