"""Scripts run in images: a container without network, files copied in and results copied out.

Copying, unlike mounting, works for any user the image runs as and for an engine on another machine.
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from tfslim.engine.gpu_request import gpu_options
from tfslim.errors import EngineError, InputError
from tfslim.parity.target import Ended, Script

__all__ = ["ImageTarget"]

_FOLDER = "tfslim-parity"
_OUT = "out"
_TAIL_LINES = 60
_NO_PROGRAM = ("executable file not found", "no such file or directory")


@dataclass(frozen=True)
class ImageTarget:
    """An image of the engine.

    Attributes:
        client: Gives the engine.
    """

    name: str
    client: Callable[[], DockerClient]
    kind: str = "image"

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        """Run a script in a new container, as the image's own user; see `Target.run`."""
        with (
            contextlib.closing(self.client()) as client,
            self._started(client, job, script) as container,
        ):
            watchdog = threading.Timer(script.limit, _kill, [container])
            watchdog.start()
            try:
                tail = _follow(container, on_line)
                status = int(container.wait()["StatusCode"])
            finally:
                watchdog.cancel()
            _copy_out(container, job)
            return Ended(status, tail)

    @contextlib.contextmanager
    def _started(self, client: DockerClient, job: Path, script: Script) -> Iterator[Container]:
        """Start a container with the first Python name that the image has; remove it at the end."""
        error: APIError | None = None
        for python in self._pythons(client):
            container = self._create(client, python, script)
            try:
                _copy_in(container, job)
                container.start()
            except APIError as raised:
                _remove(container)
                error = raised
                if not any(text in str(raised).lower() for text in _NO_PROGRAM):
                    break
            else:
                try:
                    yield container
                finally:
                    _remove(container)
                return
        raise EngineError(
            f"{self.name} cannot run Python", why=str(error and (error.explanation or error))
        ) from error

    def check(self) -> None:
        """Ask the engine for the image, so that a mistyped name costs no time.

        Raises:
            InputError: It does not have it.
        """
        with contextlib.closing(self.client()) as client:
            self._pythons(client)

    def _pythons(self, client: DockerClient) -> list[str]:
        """Return the names Python may have, the one that the image itself starts first."""
        try:
            config: dict[str, Any] = client.images.get(self.name).attrs.get("Config") or {}
        except ImageNotFound as error:
            raise InputError(
                f"there is no folder {self.name}, and the engine has no image of that name",
                way_out="Build it (`tfslim build`), or name one of `docker images`.",
            ) from error
        words = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
        own = [word for word in words if PurePosixPath(word).name.startswith("python")]
        return list(dict.fromkeys([*own[:1], "python", "python3"]))

    def _create(self, client: DockerClient, python: str, script: Script) -> Container:
        options: dict[str, Any] = {}
        if script.gpu:
            options |= gpu_options(client)
        try:
            return client.containers.create(
                self.name,
                entrypoint=[python, "-B"],
                command=list(script.argv),
                working_dir=f"/{_FOLDER}",
                environment=dict(script.env),
                network_mode="none",
                labels={"io.tfslim.parity": "1"},
                healthcheck={"test": ["NONE"]},
                **options,
            )
        except APIError as error:
            raise EngineError(
                f"a container of {self.name} could not be created",
                why=str(error.explanation or error),
            ) from error


def _copy_in(container: Container, job: Path) -> None:
    """Copy the job to the container's root, readable, and its folder `out` writable, for anyone."""

    def shared(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inner = PurePosixPath(entry.name).relative_to(_FOLDER)
        if _OUT in inner.parts[:1] and inner.name != _OUT:
            return None  # what was written before stays here
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o777 if entry.isdir() else 0o644
        return entry

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as archive:
            archive.add(job, arcname=_FOLDER, filter=shared)
        file.seek(0)
        container.put_archive("/", file)


def _copy_out(container: Container, job: Path) -> None:
    """Copy the job's folder `out` back; only plain files and folders are taken."""
    chunks, _ = container.get_archive(f"/{_FOLDER}/{_OUT}")
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            plain = [entry for entry in archive if entry.isfile() or entry.isdir()]
            archive.extractall(job, members=plain, filter="data")


def _follow(container: Container, on_line: Callable[[str], None]) -> str:
    """Hand on each line that a container says until it ends; return the last ones."""
    last: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        for line in _lines(container.logs(stream=True, follow=True)):
            last.append(line)
            on_line(line)
    except RequestException as error:  # silent for longer than the client waits
        last.append(f"the engine gave no output any more: {error}")
        _kill(container)
    return "\n".join(last)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Join what comes in pieces of any size to lines."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")


def _kill(container: Container) -> None:
    with contextlib.suppress(DockerException):
        container.kill()


def _remove(container: Container) -> None:
    with contextlib.suppress(DockerException):
        container.remove(force=True, v=True)
