"""Start, serve, stop: the socket first, the model behind it, and a quick way out."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import uvicorn

from tfserve_app.api import create_app
from tfserve_app.backend import Backend
from tfserve_app.errors import ModelLoadError
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
    config = uvicorn.Config(
        create_app(service),
        access_log=False,
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    log_event("listening", host=settings.host, port=port)
    threading.Thread(target=_load, args=(service, open_backend, marks), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listener])
    leave()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error}; set PORT", EXIT_SOCKET)


def _load(service: Service, open_backend: Callable[[], Backend], marks: dict[str, float]) -> None:
    """Load and warm the model, then say so; a failure ends the process."""
    try:
        service.load(open_backend)
    except ModelLoadError as error:
        fail(f"model cannot be served: {error}", EXIT_MODEL)
    except BaseException as error:  # noqa: BLE001 (half-alive is the one thing not allowed)
        traceback.print_exc()
        fail(f"model cannot be served: {type(error).__name__}: {error}", EXIT_MODEL)
    _log_ready(service, marks)


def _log_ready(service: Service, marks: dict[str, float]) -> None:
    warmup = service.warmup
    now = time.monotonic()
    seconds = {
        "interpreter_s": marks["first_line"] - marks["process_start"],
        "http_import_s": marks["http_imported"] - marks["first_line"],
        **service.backend.timings,
        "warmup_s": warmup.seconds if warmup else 0.0,
        "process_s": now - marks["process_start"],
        "monotonic_s": now,
    }
    reached = {**marks, **service.backend.marks, "warm": now}
    info = service.backend.info
    log_event(
        "ready",
        **{name: round(value, 4) for name, value in seconds.items()},
        marks={name: round(value, 4) for name, value in reached.items()},
        tensorflow=info.tensorflow_version,
        gpus=list(info.gpus),
        warmup_failed=warmup.failed if warmup else {},
    )
