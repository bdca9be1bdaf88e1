"""Run an image as a service and talk to it: the seam between benchmarks and the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import docker
import httpx
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound
from docker.models.containers import Container

from tfslim.bench.ready import Patience, await_ready, ready_event
from tfslim.engine.gpu_request import gpu_options
from tfslim.errors import EngineError, InputError, ServiceError

__all__ = ["Launch", "Service", "launch", "run_once"]

_PORT = "8080/tcp"
_LOG_LINES = 30


@dataclass(frozen=True)
class Launch:
    """How an image is to be run.

    Attributes:
        image: Image reference.
        model: Folder to mount as /model; None where the model is in the image.
        model_name: Name in /v1/models/NAME.
        gpu: Ask the engine for all GPUs.
        ready_timeout: Seconds until /ready has to answer 200.
    """

    image: str
    model: Path | None
    model_name: str
    gpu: bool
    ready_timeout: float


@dataclass
class Service:
    """A running service and the seconds since its container was asked for, by phase."""

    container: Container
    http: httpx.Client
    marks: dict[str, float] = field(default_factory=dict)

    def ready_event(self) -> dict[str, float]:
        """Return the service's own timings, from the line it logs when it is ready."""
        log = self.container.logs(stderr=False).decode(errors="replace")
        return ready_event(log.splitlines())

    def memory_bytes(self) -> int | None:
        """Return the container's memory without page cache that can be dropped; None if unknown."""
        stats = cast("dict[str, Any]", self.container.stats(stream=False)).get("memory_stats", {})
        details = stats.get("stats", {})
        # cgroup v1 and v2 name it differently.
        inactive = details.get("total_inactive_file", details.get("inactive_file", 0))
        return int(stats["usage"]) - int(inactive) if "usage" in stats else None


@contextmanager
def launch(client: docker.DockerClient, spec: Launch) -> Iterator[Service]:
    """Start an image, wait until it is ready, and remove its container in any case.

    Yields:
        The service, with the marks `created`, `started`, `alive` (first answer of /health) and
        `ready` (first 200 of /ready), in seconds since the container was asked for.

    Raises:
        InputError: There is no such image.
        EngineError: The engine refused to create or start the container.
        ServiceError: It exited, or was not ready in time; with the end of its log.
    """
    start = time.monotonic()
    container = _create(client, spec)
    try:
        marks = {"created": time.monotonic() - start}
        try:
            container.start()
        except APIError as error:
            raise EngineError(
                f"{spec.image} could not be started", why=str(error.explanation or error)
            ) from error
        marks["started"] = time.monotonic() - start
        container.reload()
        with httpx.Client(base_url=_address(container, spec), timeout=60.0) as http:
            marks |= await_ready(http, start, _patience(container, spec))
            yield Service(container, http, marks)
    finally:
        with contextlib.suppress(DockerException):
            container.remove(force=True, v=True)


def run_once(
    client: docker.DockerClient, image: str, command: list[str], *, mount: Path, at: str
) -> None:
    """Run a command in an image to its end, as root, with a folder mounted writable.

    Raises:
        ServiceError: It failed; with what it said.
    """
    volumes = {str(mount.resolve()): {"bind": at, "mode": "rw"}}
    try:
        client.containers.run(image, command, user="0", volumes=volumes, remove=True)
    except ContainerError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        raise ServiceError(f"{' '.join(command)} failed in {image}", why=said.strip()) from error


def _create(client: docker.DockerClient, spec: Launch) -> Container:
    options: dict[str, Any] = {}
    environment = {"MODEL_NAME": spec.model_name, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if spec.gpu:
        options |= gpu_options(client)
    else:  # an engine whose default runtime is NVIDIA's would give what the image asks for
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    if spec.model is not None:
        options["volumes"] = {str(spec.model.resolve()): {"bind": "/model", "mode": "ro"}}
    try:
        return client.containers.create(
            spec.image,
            # Port 0 lets the engine choose a free one.
            ports={_PORT: ("127.0.0.1", 0)},
            environment=environment,
            labels={"io.tfslim.bench": "1"},
            **options,
        )
    except ImageNotFound as error:
        raise InputError(
            f"there is no image {spec.image} in the engine",
            way_out="Build it: `tfslim build`, or name one of `docker images`.",
        ) from error
    except APIError as error:
        raise EngineError(
            f"a container of {spec.image} could not be created", why=str(error.explanation or error)
        ) from error


def _address(container: Container, spec: Launch) -> str:
    """Return where the service can be reached from this machine."""
    bindings = container.ports.get(_PORT)
    if not bindings:  # it is gone already, or nothing is published
        raise ServiceError(f"{spec.image} exited as soon as it was started", why=_log(container))
    return f"http://127.0.0.1:{bindings[0]['HostPort']}"


def _patience(container: Container, spec: Launch) -> Patience:
    def exited() -> int | None:
        container.reload()
        if container.status in ("exited", "dead"):
            return int(container.attrs["State"]["ExitCode"])
        return None

    return Patience(
        spec.image,
        spec.ready_timeout,
        exited,
        lambda: _log(container),
        f"`docker run --rm -p 8080:8080 {spec.image}` shows it live.",
    )


def _log(container: Container) -> str:
    return container.logs(tail=_LOG_LINES).decode(errors="replace").strip()
