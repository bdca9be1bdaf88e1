"""The application in front of a backend without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client import Client
from fake_backend import FakeBackend

from tfserve_app.api import create_app
from tfserve_app.service import Service
from tfserve_app.settings import Settings


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def service(backend: FakeBackend) -> Service:
    settings = Settings(Path("/nowhere"), model_name="toy", max_body_bytes=2000)
    service = Service(settings, version="7")
    service.load(lambda: backend)
    backend.calls.clear()  # the warm-up's
    return service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(create_app(service)) as client:
        yield client
