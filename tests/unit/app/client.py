"""Asks an ASGI application without a server, as httpx.Client would ask one over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx

from tfserve_app.api import App


class Client:
    """A client of one application; all requests run on one event loop."""

    def __init__(self, app: App) -> None:
        self._loop = asyncio.new_event_loop()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://toy")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        content = kwargs.get("content")
        if isinstance(content, Iterable) and not isinstance(content, str | bytes):
            kwargs["content"] = _slowly(content)
        return self._loop.run_until_complete(self._client.request(method, path, **kwargs))

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, **kwargs)


async def _slowly(chunks: Iterable[bytes]) -> Any:
    for chunk in chunks:
        yield chunk
