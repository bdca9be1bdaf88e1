"""Containers whose start is followed from the moment they are asked for."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
import httpx
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container

from tfslim.engine.gpu_request import gpu_options
from tfslim.errors import EngineError, InputError, ServiceError

__all__ = [
    "OK",
    "Lines",
    "Running",
    "Spec",
    "no_image",
    "started",
    "status",
    "wait_for_text",
    "warm_engine",
]

OK = range(200, 300)
_JIT_FOLDER = "/tmp/tfslim-jit"  # noqa: S108 (in the container, a folder of its own)
_LOG_LINES = 30


@dataclass(frozen=True)
class Spec:
    """How an image is run.

    Attributes:
        image: Its reference.
        model: Folder to mount as /model; None where the model is in the image.
        model_name: Name in /v1/models/NAME; None to take the image's own MODEL_NAME.
        gpu: Ask the engine for all GPUs.
        jit: Folder for CUDA's cache of compiled PTX; None for none.
        ready_timeout: Seconds until it has to be ready.
    """

    image: str
    model: Path | None
    model_name: str | None
    gpu: bool
    jit: Path | None
    ready_timeout: float


class Lines:
    """What a container prints, each line with the moment at which it arrived."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._changed = threading.Condition()
        self._lines: list[tuple[float, str]] = []
        self._ended = False
        threading.Thread(target=self._read, args=(chunks,), daemon=True).start()

    def _read(self, chunks: Iterator[bytes]) -> None:
        rest = b""
        # Whatever ends the stream (the container was removed under it), it has ended.
        with contextlib.suppress(DockerException, OSError, ValueError, httpx.HTTPError):
            for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\n")
                self._add([line.decode(errors="replace") for line in whole])
        self._add([rest.decode(errors="replace")] if rest else [], ended=True)

    def _add(self, lines: list[str], *, ended: bool = False) -> None:
        now = time.monotonic()
        with self._changed:
            self._lines += [(now, line) for line in lines]
            self._ended = self._ended or ended
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """True once nothing more will come: the container has exited."""
        return self._ended

    def since(self, start: int, wait: float) -> list[tuple[float, str]]:
        """Return the lines from number `start` on; wait up to `wait` seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) > start or self._ended, wait)
            return self._lines[start:]

    def tail(self) -> str:
        """Return the last lines, for a message."""
        said = "\n".join(line for _, line in self._lines[-_LOG_LINES:])
        return said or "It printed nothing."


@dataclass
class Running:
    """A started container.

    Attributes:
        asked: When it was asked for, on this process's monotonic clock.
        started: When the engine said that it runs.
    """

    client: docker.DockerClient
    container: Container
    spec: Spec
    lines: Lines
    asked: float
    started: float
    port: str | None

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """Yield a client of the service."""
        bindings = self.container.ports.get(self.port or "")
        if not bindings:
            self.lines.since(0, wait=1.0)  # what it said may be on its way
            raise ServiceError(
                f"{self.spec.image} exited as soon as it was started", why=self.lines.tail()
            )
        address = f"http://127.0.0.1:{bindings[0]['HostPort']}"
        # Without a context of its own httpx reads all certificates of the machine, for a tenth of
        # a second in which the container wants to start.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with httpx.Client(base_url=address, timeout=60.0, verify=tls, trust_env=False) as client:
            yield client

    def check(self) -> None:
        """Raise if it has ended, or took too long."""
        if self.lines.ended:
            status = self.container.wait(timeout=30)["StatusCode"]
            raise ServiceError(
                f"{self.spec.image} exited with status {status} before it was ready",
                why=self.lines.tail(),
                way_out=f"`docker run --rm {self.spec.image}` shows it live.",
            )
        if time.monotonic() - self.asked > self.spec.ready_timeout:
            raise ServiceError(
                f"{self.spec.image} was not ready within {self.spec.ready_timeout:.0f} s",
                why=self.lines.tail(),
                way_out="Raise `bench.ready-timeout`; for an image of your own say how it is asked "
                "(--port, --path) or what it prints (--ready-text).",
            )


@contextmanager
def started(client: docker.DockerClient, spec: Spec, port: str | None) -> Iterator[Running]:
    """Create and start a container whose output is followed; remove it in any case."""
    options = _options(client, spec, port)
    asked = time.monotonic()
    container = _create(client, spec.image, options)
    try:
        # Before the start, so that not one line is missed or late.
        chunks = container.attach(stream=True, stdout=True, stderr=True, logs=False)
        lines = Lines(cast("Iterator[bytes]", chunks))
        try:
            container.start()
        except APIError as error:
            raise EngineError(
                f"{spec.image} could not be started", why=str(error.explanation or error)
            ) from error
        started = time.monotonic()
        container.reload()
        yield Running(client, container, spec, lines, asked, started, port)
    finally:
        with contextlib.suppress(DockerException):
            container.remove(force=True, v=True)


def warm_engine(client: docker.DockerClient, image: str) -> None:
    """Let the engine start a container that runs nothing of the image.

    Emptying the machine's page cache takes the engine's own programs along. On a node that pulls
    an image they are in memory, and they are the same for every image.
    """
    container = client.containers.create(image, entrypoint=["/tfslim/no-such-program"])
    with contextlib.suppress(APIError):
        container.start()
    container.remove(force=True, v=True)


def no_image(reference: str) -> InputError:
    """Return the error that an image which is not there is."""
    return InputError(
        f"there is no image {reference} in the engine",
        way_out="Build or pull it first, or name one of `docker images`.",
    )


def wait_for_text(running: Running, text: str) -> float:
    """Return when a line with `text` arrived."""
    seen = 0
    while True:
        lines = running.lines.since(seen, 1.0)
        for arrived, line in lines:
            if text in line:
                return arrived
        seen += len(lines)
        running.check()


def status(http: httpx.Client, path: str) -> int | None:
    """Return the status of an answer; None where there is none."""
    try:
        return http.get(path).status_code
    except httpx.HTTPError:
        return None


def _options(client: docker.DockerClient, spec: Spec, port: str | None) -> dict[str, Any]:
    """Return what a container is created with."""
    volumes: dict[str, dict[str, str]] = {}
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if spec.model is not None:
        volumes[str(spec.model.resolve())] = {"bind": "/model", "mode": "ro"}
    if spec.jit is not None:
        volumes[str(spec.jit.resolve())] = {"bind": _JIT_FOLDER, "mode": "rw"}
        environment["CUDA_CACHE_PATH"] = _JIT_FOLDER
    if spec.model_name is not None:
        environment["MODEL_NAME"] = spec.model_name
    return {
        "labels": {"io.tfslim.bench": "1"},
        # A check would start another process in the middle of the start, in some images only.
        "healthcheck": {"test": ["NONE"]},
        "ports": {} if port is None else {port: ("127.0.0.1", 0)},  # the engine chooses a free one
        "volumes": volumes,
        "environment": environment,
        **(gpu_options(client) if spec.gpu else {}),
    }


def _create(client: docker.DockerClient, image: str, options: dict[str, Any]) -> Container:
    try:
        return client.containers.create(image, **options)
    except ImageNotFound as error:
        raise no_image(image) from error
    except APIError as error:
        raise EngineError(
            f"a container of {image} could not be created", why=str(error.explanation or error)
        ) from error
