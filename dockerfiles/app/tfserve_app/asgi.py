"""Requests and answers as Uvicorn passes them (https://asgi.readthedocs.io): no framework.

Seven routes need no framework, and every start would pay for one: importing FastAPI and Uvicorn
takes about five times as long as importing all of this service (`benchmarks/service/imports.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tfserve_app.memory import Hold
from tfserve_app.tensors import RequestError

__all__ = [
    "ABORT",
    "BodyTooLargeError",
    "ClientGoneError",
    "Receive",
    "Request",
    "Response",
    "Scope",
    "Send",
    "TooSlowError",
    "send_response",
]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

ABORT = "tfserve.abort"
"""Key of a scope's state under which the server puts what ends the connection at once."""


class BodyTooLargeError(Exception):
    """The request is larger than MAX_BODY_BYTES."""


class ClientGoneError(Exception):
    """The client has closed its connection; nobody waits for an answer."""


class TooSlowError(Exception):
    """The client did not send its request within READ_SECONDS."""


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        body: Its bytes.
        status: HTTP status.
        content_type: Of the body.
        headers: Others, by lower-case name.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Request:
    """A request: its head, and its body once it is read.

    Args:
        scope: The head, as ASGI has it.
        receive: Gives the body piece by piece, then waits until the client goes.
        hold: Counts the bytes of the body.
    """

    def __init__(self, scope: Scope, receive: Receive, hold: Hold) -> None:
        self._receive = receive
        self._hold = hold
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self._query: bytes = scope["query_string"]

    def query(self, name: str) -> str | None:
        """Return a parameter of the URL, the last one where it is repeated.

        Raises:
            RequestError: The URL has an absurd number of parameters.
        """
        try:
            values = parse_qs(self._query.decode("latin-1"), max_num_fields=100).get(name)
        except ValueError as error:
            raise RequestError(f"the URL's query cannot be read: {error}") from None
        return values[-1] if values else None

    async def body(self, limit: int, seconds: float) -> bytearray:
        """Read the body, never keeping more than `limit` bytes of it.

        What a client still sends after an early answer is read and dropped by Uvicorn, so that
        the client gets to see the answer.

        Raises:
            BodyTooLargeError: It is larger.
            ClientGoneError: The client went before its end.
            MemoryFullError: All clients together have sent too much.
            RequestError: It is compressed.
            TooSlowError: It took longer than `seconds`.
        """
        if self.headers.get("content-encoding", "identity") != "identity":
            raise RequestError("compressed request bodies are not supported", status=415)
        if int(self.headers.get("content-length", "0")) > limit:
            raise BodyTooLargeError
        try:
            async with asyncio.timeout(seconds):
                return await self._read(limit)
        except TimeoutError:
            raise TooSlowError from None

    async def _read(self, limit: int) -> bytearray:
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > limit:
                raise BodyTooLargeError
            self._hold.add(len(chunk))
            body += chunk
            more = message.get("more_body", False)
        self._hold.on_client = False
        return body

    async def gone(self) -> None:
        """Wait until the client closes its connection; only after the body is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def send_response(send: Send, response: Response, *, close: bool = False) -> None:
    """Send an answer; returns when the client has taken most of it.

    Args:
        send: Takes ASGI's messages.
        response: The answer.
        close: End the connection after it.
    """
    headers = {
        "content-length": str(len(response.body)),
        "content-type": response.content_type,
        **response.headers,
        **({"connection": "close"} if close else {}),
    }
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [(key.encode(), value.encode("latin-1")) for key, value in headers.items()],
        }
    )
    # Two messages: the second one waits while the connection holds more than a little of the first.
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
