"""One cold start that counts: from asking for a container to the second answer of its service.

When the service came how far is told by the service itself (`coldmarks`), so that how often this
program looks decides nothing. A service without marks is asked until it answers; what lies between
the start of its process and that answer is one phase.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import docker
import httpx

from tfslim.bench.coldcontainer import OK, Running, Spec, started, status, wait_for_text
from tfslim.bench.coldmarks import phases, ready_marks
from tfslim.bench.coldusage import Usage, process_start, usage
from tfslim.errors import ServiceError

__all__ = ["POLL_SECONDS", "Ask", "Timeline", "launch_cold"]

POLL_SECONDS = 0.002
_SLACK_SECONDS = 0.1  # process starts are known to a clock tick (10 ms)


@dataclass(frozen=True)
class Ask:
    """How a service tells that it is ready, and what it is asked then.

    Attributes:
        kind: marks: it logs when; answer: `ready_path` answers; text: it prints `text`, and is not
            asked anything.
        port: "8080/tcp"; None for text.
        ready_path: Polled for answer.
        method: Of the request.
        path: Of the request.
        content: Of the request; empty for GET.
        content_type: Of the content.
        text: Part of the line that counts; empty for the first line.
    """

    kind: Literal["marks", "answer", "text"]
    port: str | None
    ready_path: str = "/ready"
    method: Literal["GET", "POST"] = "GET"
    path: str = "/"
    content: bytes = b""
    content_type: str = ""
    text: str = ""


@dataclass(frozen=True)
class Timeline:
    """What one start measured; see `ColdLaunch` for each.

    Attributes:
        same_clock: False where the container's clock is another machine's; its marks were then
            moved so that the ready line was written when it arrived.
    """

    phases_s: dict[str, float]
    first_answer_s: float
    ready_s: float
    usage: Usage
    same_clock: bool = True


def launch_cold(client: docker.DockerClient, spec: Spec, ask: Ask) -> Timeline:
    """Start an image, ask it twice, and remove its container in any case.

    Raises:
        InputError: There is no such image.
        EngineError: The engine refused to create or start the container.
        ServiceError: It exited, was not ready in time, or did not answer.
    """
    with started(client, spec, ask.port) as running:
        if ask.kind == "text":
            printed = wait_for_text(running, ask.text)
            return _unmarked(running, ready=printed, first=printed, second=None)
        with running.http() as http:
            return (_marked if ask.kind == "marks" else _polled)(running, http, ask)


def _polled(running: Running, http: httpx.Client, ask: Ask) -> Timeline:
    """Ask until a service is ready, then ask twice what counts."""
    ready = _poll(running, http, ask.ready_path)
    _answer(http, ask, running)
    first = time.monotonic()
    second = _answer(http, ask, running)
    return _unmarked(running, ready=ready, first=first, second=second)


def _marked(running: Running, http: httpx.Client, ask: Ask) -> Timeline:
    """Wait until a service says that it is ready, ask twice, and take its own moments."""
    marks, arrived = _wait_for_marks(running)
    first_s = _answer(http, ask, running)
    second_s = _answer(http, ask, running)
    same = running.asked - _SLACK_SECONDS <= marks["warm"] <= arrived + _SLACK_SECONDS
    if not same:
        marks = {name: value + arrived - marks["warm"] for name, value in marks.items()}
    found = phases(running.asked, marks)
    ready_s = sum(found.values())
    return Timeline(
        # How late this program noticed the line is in none of them.
        phases_s={**found, "first_answer": first_s, "second_answer": second_s},
        first_answer_s=ready_s + first_s,
        ready_s=ready_s,
        usage=usage(running.client, running.container),
        same_clock=same,
    )


def _unmarked(running: Running, *, ready: float, first: float, second: float | None) -> Timeline:
    """Return the timeline of a service that says nothing of itself.

    Args:
        running: The container.
        ready: When it was ready, on this process's clock.
        first: When the first answer was there.
        second: Seconds of the second answer.
    """
    started = max(process_start(running.container) or running.started, running.asked)
    created = min(started, first) - running.asked
    found = {"create": created, "first_answer": first - running.asked - created}
    return Timeline(
        phases_s=found if second is None else {**found, "second_answer": second},
        first_answer_s=first - running.asked,
        ready_s=ready - running.asked,
        usage=usage(running.client, running.container),
    )


def _wait_for_marks(running: Running) -> tuple[dict[str, float], float]:
    """Return the marks of the ready line, and when it arrived."""
    seen = 0
    while True:
        lines = running.lines.since(seen, 1.0)
        for arrived, line in lines:
            marks = ready_marks(line)
            if marks:
                return marks, arrived
        seen += len(lines)
        running.check()


def _poll(running: Running, http: httpx.Client, path: str) -> float:
    """Ask a path until it answers well; return when it did."""
    while status(http, path) not in OK:
        running.check()
        time.sleep(POLL_SECONDS)
    return time.monotonic()


def _answer(http: httpx.Client, ask: Ask, running: Running) -> float:
    """Ask once; return its seconds."""
    headers = {"Content-Type": ask.content_type} if ask.content else {}
    start = time.monotonic()
    try:
        answer = http.request(ask.method, ask.path, content=ask.content, headers=headers)
    except httpx.HTTPError as error:
        raise ServiceError(
            f"{running.spec.image} gave no answer: {error}", why=running.lines.tail()
        ) from error
    seconds = time.monotonic() - start
    if answer.status_code not in OK:
        raise ServiceError(
            f"{running.spec.image} answered {ask.method} {ask.path} with {answer.status_code}",
            why=f"{answer.text[:300]}\n{running.lines.tail()}",
        )
    return seconds
