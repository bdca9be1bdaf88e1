"""The first start of an image, which does not count: how can its cold start be measured?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import docker
import httpx
from docker.errors import ImageNotFound

from tfslim.bench.coldcontainer import OK, Running, Spec, no_image, started, status, wait_for_text
from tfslim.bench.coldlaunch import POLL_SECONDS, Ask
from tfslim.bench.coldmarks import ENDS, ready_marks
from tfslim.bench.coldusage import visible_pid
from tfslim.bench.load import make_request
from tfslim.bench.pagecache import image_folders
from tfslim.errors import ServiceError

__all__ = ["Find", "Found", "find_out"]

_SERVICE_PORT = "8080/tcp"
_FIND_POLL_SECONDS = 0.05  # looking often slows the start; it matters in the launches that count


@dataclass(frozen=True)
class Find:
    """What a user said about an image that is not ours.

    Attributes:
        port: Port its service listens on in the container; None to take what the image exposes.
        path: Asked by GET where there is no /predict that describes itself.
        ready_text: It is ready once it prints a line with this.
    """

    port: int | None = None
    path: str = "/"
    ready_text: str | None = None


@dataclass(frozen=True)
class Found:
    """What the first start of an image, which does not count, showed.

    Attributes:
        ask: How it is asked from now on.
        folders: Its layers as folders on this machine; empty where they cannot be seen.
        gpus: Names of the GPUs that the service says it uses.
        notes: What cannot be told for this image.
    """

    ask: Ask
    folders: tuple[Path, ...]
    gpus: tuple[str, ...]
    notes: tuple[str, ...]


def find_out(client: docker.DockerClient, spec: Spec, wish: Find) -> Found:
    """Start an image once, without counting it, and find out how its cold start can be measured.

    Raises:
        InputError: There is no such image.
        EngineError: The engine refused to create or start the container.
        ServiceError: It exited, or was not ready in time; with the end of its log.
    """
    port = None if wish.ready_text is not None else _port(client, spec, wish)
    with started(client, spec, port) as running:
        found = _first_line(running, wish) if port is None else _first_answer(running, wish)
    # What the engine put below this one container is gone with it.
    return replace(found, folders=tuple(folder for folder in found.folders if folder.is_dir()))


def _first_line(running: Running, wish: Find) -> Found:
    """Wait for the line that counts."""
    text = wish.ready_text or ""
    wait_for_text(running, text)
    which = f"the first line with {text!r}" if text else "the first line that it prints"
    note = f"{running.spec.image} is not asked anything: its answer is {which}"
    return Found(Ask("text", None, text=text), _folders(running), (), (note,))


def _first_answer(running: Running, wish: Find) -> Found:
    """Wait until the service is ready, and ask it."""
    with running.http() as http:
        ready = _first_contact(running, http, wish)
        ask, notes = _request(http, running.spec, ready, wish)
        notes = (*_missing_marks(running, ask), *notes)
        return Found(ask, _folders(running), _gpus(http), notes)


def _port(client: docker.DockerClient, spec: Spec, wish: Find) -> str | None:
    """Return the port that an image's service listens on; None where it exposes none."""
    if wish.port is not None:
        return f"{wish.port}/tcp"
    try:
        config = client.images.get(spec.image).attrs.get("Config") or {}
    except ImageNotFound as error:
        raise no_image(spec.image) from error
    exposed = [port for port in config.get("ExposedPorts") or {} if port.endswith("/tcp")]
    if _SERVICE_PORT in exposed:
        return _SERVICE_PORT
    return min(exposed, key=lambda port: int(port.partition("/")[0]), default=None)


def _first_contact(running: Running, http: httpx.Client, wish: Find) -> Ask:
    """Wait until a service is ready, and return by what it could be told."""
    seen = 0
    while True:
        running.check()
        lines = running.lines.since(seen, _FIND_POLL_SECONDS)
        seen += len(lines)
        if any(ready_marks(line) for _, line in lines):
            return Ask("marks", running.port)
        path = _answering(http, wish)
        if path is None:
            continue
        # Our own service says so on its log in the same moment.
        if any(ready_marks(line) for _, line in running.lines.since(seen, 0.5)):
            return Ask("marks", running.port)
        return Ask("answer", running.port, ready_path=path)


def _answering(http: httpx.Client, wish: Find) -> str | None:
    """Return the path by which a service says that it is ready; None while it is not."""
    ready = status(http, "/ready")
    if ready in OK:
        return "/ready"
    if ready == httpx.codes.NOT_FOUND and status(http, wish.path) in OK:
        return wish.path
    return None


def _request(http: httpx.Client, spec: Spec, ask: Ask, wish: Find) -> tuple[Ask, tuple[str, ...]]:
    """Return what a ready service is to be asked: a prediction, if it describes its model."""
    name = spec.model_name or "model"
    try:
        body = make_request(http, name, 1)
        answer = http.post(
            "/predict", content=body.content, headers={"Content-Type": body.content_type}
        )
        if answer.status_code in OK:
            asked = replace(ask, method="POST", path="/predict", content=body.content)
            return replace(asked, content_type=body.content_type), ()
        why = f"POST /predict: {answer.status_code}"
    except (ServiceError, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        why = str(error).splitlines()[0]
    if status(http, wish.path) not in OK:
        raise ServiceError(
            f"{spec.image} is ready, and answers neither /predict nor GET {wish.path}",
            why=why,
            way_out="Name a path that it answers: --path.",
        )
    return replace(ask, method="GET", path=wish.path), (
        f"{spec.image}: asked by GET {wish.path}, not for a prediction ({why})",
    )


def _missing_marks(running: Running, ask: Ask) -> tuple[str, ...]:
    """Say which phases an image's service does not tell apart."""
    if ask.kind == "answer":
        return (
            f"{running.spec.image}: its service gives no marks; interpreter, imports, gpu_init, "
            f"model_load and warm_up cannot be told apart and lie in first_answer, which ends when "
            f"{ask.ready_path} was polled (every {POLL_SECONDS * 1000:.0f} ms) and asked",
        )
    marks = next(filter(None, (ready_marks(line) for _, line in running.lines.since(0, 0))), {})
    missing = [phase for mark, phase in ENDS if mark not in marks]
    if not missing:
        return ()
    return (
        f"{running.spec.image}: its service does not mark the end of {', '.join(missing)}; that "
        "time lies in the phase after it",
    )


def _gpus(http: httpx.Client) -> tuple[str, ...]:
    """Return the GPUs that a service of ours says it uses; none for any other."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
        return tuple(str(name) for name in http.get("/health").json()["gpus"] or ())
    return ()


def _folders(running: Running) -> tuple[Path, ...]:
    pid = visible_pid(running.container)
    found = image_folders(pid) if pid is not None else ()
    return (*found, running.spec.model) if found and running.spec.model else found
