"""Where a start of Python in an image goes, and which levers would make it faster.

The probe (`explain_probe.py`) runs inside, mounted: the image is not changed and needs no shell.
A lever's gain is measured in the image itself where it can be switched there: starts with and
without it take turns. The others carry no figure here.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import docker
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound
from pydantic import BaseModel, ConfigDict

from tfslim.bench.explain_levers import Lever, levers_of
from tfslim.bench.pagecache import PageCache, choose
from tfslim.bench.stats import Summary, summarize
from tfslim.errors import EngineError, InputError, ServiceError
from tfslim.ui import Ui

__all__ = ["Cold", "Explanation", "explain"]

_PROBE = "/tfslim-explain/probe.py"
_PYTHONS = (
    "python",
    "python3",
    "/opt/venv/bin/python",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
)


class Cold(BaseModel):
    """Starts out of an empty page cache.

    Attributes:
        start_s: Seconds from the process's start to the end of the code.
        read_bytes: Bytes read from storage.
        major_faults: Page faults that waited for storage.
    """

    model_config = ConfigDict(frozen=True)

    start_s: Summary
    read_bytes: float
    major_faults: float


class Explanation(BaseModel):
    """Everything that was found about an image's start; seconds are medians where several ran.

    Attributes:
        image: Its reference.
        code: What was run.
        interpreter: How Python was built, and what of ours is there.
        phases_s: Seconds of interpreter, code and teardown.
        cpu_s: Seconds of processor time, teardown included.
        imports: The modules that took longest, by themselves and with what they import.
        counts: What one process opened, looked up, loaded and collected.
        relocations: Symbols that the dynamic loader looked up.
        cold: Starts out of an empty page cache; None where that is not permitted.
        levers: What makes starts faster.
        notes: What a reader has to know.
    """

    model_config = ConfigDict(frozen=True)

    image: str
    code: str
    interpreter: dict[str, Any]
    phases_s: dict[str, Summary]
    cpu_s: Summary
    imports: dict[str, Any]
    counts: dict[str, Any]
    relocations: dict[str, int]
    cold: Cold | None
    levers: tuple[Lever, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Image:
    """An image, and the name under which it has a Python."""

    client: docker.DockerClient
    reference: str
    python: str

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run the probe in a container of its own; return what it printed.

        Raises:
            ServiceError: It failed, with what it said.
        """
        with resources.as_file(resources.files(__package__) / "explain_probe.py") as probe:
            return _output(
                self.client,
                self.reference,
                entrypoint=[self.python, _PROBE],
                command=list(arguments),
                # What a start of a fresh container finds is what is in the image.
                environment={"PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
                volumes={str(probe): {"bind": _PROBE, "mode": "ro"}},
            )


def explain(
    client: docker.DockerClient, image: str, *, code: str, rounds: int, cold: int, ui: Ui
) -> Explanation:
    """Explain an image's start.

    Args:
        client: The engine that has the image.
        image: Its reference.
        code: What to run; `import tensorflow` where it is there if empty.
        rounds: Starts of each kind out of a warm page cache.
        cold: Starts of each kind out of an empty one, where that is permitted.
        ui: Shows progress.

    Raises:
        InputError: There is no such image, no Python in it, or the code fails there.
        EngineError: The engine cannot run it.
        ServiceError: The probe failed.
    """
    subject = _Image(client, image, _python_of(client, image))
    with ui.step(f"start {image} again and again"):
        found = json.loads(subject.run("explain", json.dumps({"code": code, "rounds": rounds})))
    if found["failed"]:
        raise InputError(
            f"{image} cannot run {found['code']!r}",
            why=found["failed"].strip(),
            way_out="Name other code, such as the imports of your service: --explain-code CODE",
        )
    launches, note = _cold(subject, found, cold, ui)
    now = launches.get("on", [])
    times = found["times"]["as it is"]
    return Explanation(
        image=image,
        code=found["code"],
        interpreter=found["interpreter"],
        phases_s={
            phase: _summary([one[f"{phase}_s"] for one in times])
            for phase in ("interpreter", "code", "teardown")
        },
        cpu_s=_summary([one["cpu_s"] for one in times]),
        imports=found["imports"],
        counts=found["counts"],
        relocations=found["relocations"],
        cold=_cold_part(now) if now else None,
        levers=levers_of(found, launches),
        notes=(note,) if note else (),
    )


def _python_of(client: docker.DockerClient, image: str) -> str:
    """Return the name under which an image's Python can be run."""
    try:
        config = client.images.get(image).attrs["Config"]
    except ImageNotFound as error:
        raise InputError(
            f"there is no image {image}", way_out="docker images lists them; or pull it first."
        ) from error
    first = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])][:1]
    own = [name for name in first if PurePosixPath(name).name.startswith("python")]
    for name in dict.fromkeys([*own, *_PYTHONS]):
        try:
            _output(client, image, entrypoint=[name], command=["-c", "pass"])
        except (EngineError, ServiceError):
            continue
        return str(name)
    raise InputError(
        f"{image} has no Python that could be found",
        why=f"Tried: {', '.join([*own, *_PYTHONS])}. Only starts of Python can be explained.",
        way_out="tfslim bench --cold-start measures any image, phase by phase.",
    )


def _output(
    client: docker.DockerClient,
    image: str,
    *,
    entrypoint: Sequence[str],
    command: Sequence[str],
    **options: Any,
) -> str:
    name = f"tfslim-explain-{uuid.uuid4().hex[:12]}"
    try:
        said: bytes = client.containers.run(
            image,
            list(command),
            entrypoint=list(entrypoint),
            network_mode="none",
            tmpfs={"/tmp": "exec"},  # noqa: S108 (the container's)
            name=name,
            **options,
        )
    except ContainerError as error:
        text = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        raise ServiceError(
            f"{entrypoint[0]} failed in {image}", why=text.strip()[-2000:]
        ) from error
    except APIError as error:
        raise EngineError(f"{image} cannot be run", why=str(error.explanation or error)) from error
    finally:
        with contextlib.suppress(DockerException):
            client.containers.get(name).remove(force=True, v=True)
    return said.decode(errors="replace")


def _cold(
    subject: _Image, found: Mapping[str, Any], rounds: int, ui: Ui
) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Start out of an empty page cache, with and without read-ahead; or say why not."""
    if not rounds:
        return {}, "cold starts: not measured: switched off (--explain-cold 0)"
    cache = choose("drop", [Path("/")])
    if cache.way == "off":
        return {}, f"cold starts: {cache.text}"
    ways = ["on", "off"] if found["interpreter"]["prefetch"] else ["on"]
    launches: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with ui.step("start out of an empty page cache", total=rounds * len(ways)) as step:
        for turn in range(rounds):
            for way in ways if turn % 2 == 0 else reversed(ways):
                launches[way].append(_cold_launch(subject, found["code"], cache, way))
                step.advance(1)
    return launches, ""


def _cold_launch(subject: _Image, code: str, cache: PageCache, way: str) -> dict[str, float]:
    cache.empty([])
    answer = subject.run("once", code, environment={"TFSLIM_PREFETCH": way})
    launch: dict[str, float] = json.loads(answer.splitlines()[-1])
    return launch


def _cold_part(launches: Sequence[Mapping[str, float]]) -> Cold:
    def median(key: str) -> float:
        return _summary([one[key] for one in launches]).median

    return Cold(
        start_s=_summary([one["start_s"] for one in launches]),
        read_bytes=median("read_bytes"),
        major_faults=median("major_faults"),
    )


def _summary(values: Sequence[float]) -> Summary:
    summary = summarize(values)
    if summary is None:
        raise ServiceError("no start was measured", way_out="Ask for at least one round.")
    return summary
