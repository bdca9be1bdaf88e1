"""One client's connection: what slow, silent and endless clients may not do.

Uvicorn's protocol on top of llhttp, with limits it does not have: on the size of a request's head,
on the time for a request and for taking an answer, on the number of connections.
"""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any

from tfserve_app.asgi import ABORT
from tfserve_app.lean_uvicorn import Config, HttpToolsProtocol, ServerState
from tfserve_app.settings import Settings

__all__ = ["Connection"]

_MAX_HEAD_BYTES = 64 * 1024
_MAX_PIPELINED = 16
_SILENT_SECONDS = 1.0
# The application itself answers a body that comes too slowly; after this the connection ends.
_PATIENCE_SECONDS = 5.0


class Connection(HttpToolsProtocol):
    """A connection with limits.

    Args:
        settings: The service's settings.
        config: Uvicorn's.
        server_state: What the connections of this server share.
        app_state: Unused.
    """

    def __init__(
        self,
        settings: Settings,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self._heard = time.monotonic()
        self._begun: float | None = self._heard  # when the request that is coming in began
        self._in_head = True
        self._overhead = 0  # bytes since the last piece of a body or end of a head
        self._unsent_since = self._heard
        self._unsent_cycle: object = None

    @property
    def may_go(self) -> bool:
        """Whether the next step is the client's: it has sent no whole request; open as yet."""
        return (self._idle or self._begun is not None) and not self.transport.is_closing()

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, the place of a silent one, or say that there is none."""
        super().connection_made(transport)
        if len(self.connections) <= self._settings.max_connections:
            return
        others = [other for other in self.connections if other is not self]
        silent = min(
            (other for other in others if isinstance(other, Connection) and other.may_go),
            key=lambda other: other._heard,
            default=None,
        )
        if silent is not None and self._heard - silent._heard >= _SILENT_SECONDS:
            silent.transport.abort()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections (MAX_CONNECTIONS)")

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head, or what is around a body, may not be endless."""
        self._heard = time.monotonic()
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > _MAX_HEAD_BYTES and not self.transport.is_closing():
            text = f"the request's head is larger than {_MAX_HEAD_BYTES} bytes"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)

    def on_message_begin(self) -> None:
        """Note when a request begins."""
        super().on_message_begin()
        self._begun = self._heard
        self._in_head = True
        self.scope["state"][ABORT] = self.transport.abort

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep headers; what comes after a chunked body is dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless too many wait on this connection already."""
        self._in_head = False
        self._overhead = 0
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_PIPELINED:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._begun = None
        self._overhead = 0
        super().on_message_complete()

    def check(self, now: float) -> None:
        """End the connection if its client is too slow; called about once a second.

        Args:
            now: Seconds on CLOCK_MONOTONIC.
        """
        if self._begun is not None and not self.transport.is_closing():
            late = now - self._begun - self._settings.read_seconds
            if not self._in_head and late > _PATIENCE_SECONDS:
                self.transport.abort()
            elif self._in_head and late > 0 and self._idle:
                text = "the request's head took longer than READ_SECONDS"
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, text)
        if not self.transport.get_write_buffer_size() or self.cycle is not self._unsent_cycle:
            self._unsent_since, self._unsent_cycle = now, self.cycle
        elif now - self._unsent_since > self._settings.write_seconds:
            self.transport.abort()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer for the application, and close; in the middle of an answer just close."""
        if not self._idle:
            self.transport.abort()
            return
        body = json.dumps({"error": message}).encode()
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "retry-after: 1",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
