"""Several subjects side by side: process launches take turns, so that a drifting machine is fair.

A subject is anything that can be launched: an image in an engine, an unpacked image, a tree. What
is measured is the same for all: calls in one process, and load over HTTP where there is a service.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tfslim.bench.drive import Driven, HttpClient, arrivals, closed_loop, open_loop
from tfslim.bench.inprocess import Calls, call_in_process, staged_calls
from tfslim.bench.load import RequestBody, make_request, predict
from tfslim.bench.ready import Running
from tfslim.bench.results import HttpRun, InProcessRun
from tfslim.bench.stats import Comparison, compare_sides
from tfslim.bench.telemetry import Telemetry, watch_gpus
from tfslim.bench.turns import rotated
from tfslim.config import BenchConfig
from tfslim.parity.target import Target
from tfslim.ui import Ui

__all__ = [
    "Compared",
    "Launched",
    "Subject",
    "compare_runs",
    "doubts",
    "measure_calls",
    "measure_services",
]

_OPEN_CLIENTS = 32  # most requests in flight of an open loop; the service queues as many
_GIVE_UP_FACTOR = 2.0  # an open loop ends after twice its time, however far the service is behind
_AUTO_SHARE = 0.5  # of what the first subject answers: an open loop's rate with `rate: auto`


@dataclass(frozen=True)
class Subject:
    """Something that is measured.

    Attributes:
        name: As results show it.
        target: Where scripts run.
        model: SavedModel folder to call; None for the one that is in the target.
        model_name: Name in /v1/models/NAME.
        serve: Starts its service; None where it has none.
        why_no_service: Why not.
    """

    name: str
    target: Target
    model: Path | None
    model_name: str
    serve: Callable[[], AbstractContextManager[Running]] | None = None
    why_no_service: str = ""


@dataclass(frozen=True)
class Launched:
    """One launch of a subject's service.

    Attributes:
        subject: Its name.
        round: Number of the turn, from 0.
        device: "CPU", or the names of the GPUs that the service used.
        phases_s: Seconds since it was asked for: created, started, alive, ready, first_answer,
            second_answer.
        service_s: The service's own phases, as it logged them.
        memory_bytes: Memory after the second answer; None where it is not known.
    """

    subject: str
    round: int
    device: str
    phases_s: dict[str, float]
    service_s: dict[str, float]
    memory_bytes: int | None


class Compared(BaseModel):
    """One measure of a subject against the first one.

    Attributes:
        subject: What is compared.
        baseline: With what.
        measure: Stable name, such as "http closed, batch 1, 4 clients: samples/s".
        comparison: What came of it.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    baseline: str
    measure: str
    comparison: Comparison


@dataclass
class _Rate:
    """Requests a second of open loops: one number for all subjects and launches."""

    value: float | None
    auto: bool
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, settings: BenchConfig) -> _Rate:
        if isinstance(settings.rate, str):
            return cls(None, settings.rate == "auto")
        return cls(settings.rate, auto=False)

    def settle(self, loops: Sequence[HttpRun], subject: str, ui: Ui) -> None:
        """Take half of what the first launch answered in its closed loops, if it is to be found."""
        if self.value is not None or not self.auto:
            return
        first = loops[0].batch_size
        best = max(len(r.latencies_s) / r.seconds for r in loops if r.batch_size == first)
        self.value = float(f"{best * _AUTO_SHARE:.2g}") or None
        ui.note(f"open loops: {self.value} requests/s, about half of what {subject} answered")


def measure_calls(
    subjects: Sequence[Subject], settings: BenchConfig, *, group: int, gpu: bool, ui: Ui
) -> list[InProcessRun]:
    """Launch a process for each subject in turn, `settings.launches` times, and call the model.

    Raises:
        ServiceError: A model cannot be called.
        EngineError: The engine cannot run a process.
    """
    found: list[InProcessRun] = []
    with ExitStack() as held:
        telemetry = held.enter_context(watch_gpus(gpu))
        _tell(telemetry, gpu, ui)
        jobs: dict[Path | None, tuple[Calls, Path]] = {}
        for model in dict.fromkeys(subject.model for subject in subjects):
            plan = Calls(settings.batch_sizes, settings.seconds, model, gpu)
            jobs[model] = plan, held.enter_context(staged_calls(plan))
        for subject, turn, on_line in _turns(subjects, settings, "calls in a process", ui):
            plan, job = jobs[subject.model]
            found += call_in_process(
                subject.target,
                job,
                plan,
                subject=subject.name,
                group=group,
                turn=turn,
                telemetry=telemetry,
                on_line=on_line,
            )
    return found


def measure_services(
    subjects: Sequence[Subject], settings: BenchConfig, *, group: int, gpu: bool, ui: Ui
) -> tuple[list[Launched], list[HttpRun]]:
    """Launch each service in turn, `settings.launches` times, and load it over HTTP.

    Raises:
        ServiceError: A subject does not serve.
        EngineError: The engine cannot run it.
    """
    for subject in subjects:
        if subject.serve is None:
            ui.note(f"{subject.name}: nothing over HTTP: {subject.why_no_service}")
    served = [subject for subject in subjects if subject.serve is not None]
    launches: list[Launched] = []
    runs: list[HttpRun] = []
    rate = _Rate.of(settings)
    with watch_gpus(gpu) as telemetry:
        _tell(telemetry, gpu, ui)
        for subject, turn, on_line in _turns(served, settings, "load over HTTP", ui):
            assert subject.serve is not None  # noqa: S101 (filtered above)
            with subject.serve() as service:
                launched = _launched(subject, turn, service)
                launches.append(launched)
                load = _Load(subject, launched, group, settings, telemetry, service, on_line)
                loops = load.closed()
                rate.settle(loops, subject.name, ui)
                runs += loops
                if rate.value is not None:
                    runs.append(load.open(rate.value))
    return launches, runs


def compare_runs(
    calls: Sequence[InProcessRun], http: Sequence[HttpRun], margin: float
) -> list[Compared]:
    """Compare every subject with the first one of its group, measure by measure.

    A launch counts with its median latency or its rate. Runs that the load generator limited are
    left out.
    """
    table: dict[tuple[int, str, Literal["lower", "higher"]], dict[str, list[float]]] = {}
    for call in calls:
        measure = f"in process, batch {call.batch_size}: median seconds"
        values = table.setdefault((call.group, measure, "lower"), {})
        values.setdefault(call.subject, []).append(statistics.median(call.latencies_s))
    for run in http:
        if run.limited_by or not run.latencies_s:
            continue
        values = table.setdefault((run.group, *_http_measure(run)), {})
        value = run.samples_per_second
        if run.kind == "open":
            value = statistics.median(run.latencies_s)
        values.setdefault(run.subject, []).append(value)
    return [
        Compared(
            subject=subject,
            baseline=baseline,
            measure=measure,
            comparison=compare_sides(values[subject], values[baseline], better=way, margin=margin),
        )
        for (_, measure, way), values in table.items()
        for baseline, subject in itertools.product(list(values)[:1], list(values)[1:])
    ]


def doubts(calls: Sequence[InProcessRun], http: Sequence[HttpRun]) -> list[str]:
    """Return what makes figures doubtful, a sentence each: no steady speed, a busy generator."""
    unsteady = Counter((call.subject, call.batch_size) for call in calls if not call.stable)
    limited: dict[tuple[str, str, int], list[str]] = {}
    for run in http:
        if run.limited_by:
            key = (run.subject, run.kind, run.batch_size)
            limited.setdefault(key, []).append(run.limited_by)
    return [
        *(
            f"{subject}: calls in a process, batch {size}: windows did not agree within 10 % in "
            f"{count} launches"
            for (subject, size), count in unsteady.items()
        ),
        *(
            f"{subject}: {kind} loop over HTTP, batch {size}: the load generator may have limited "
            f"{len(reasons)} runs ({reasons[0]})"
            for (subject, kind, size), reasons in limited.items()
        ),
    ]


@dataclass(frozen=True)
class _Load:
    """The loops on one launch of a service."""

    subject: Subject
    launched: Launched
    group: int
    settings: BenchConfig
    telemetry: Telemetry
    service: Running
    say: Callable[[str], None]

    def closed(self) -> list[HttpRun]:
        """All batch sizes with the first number of clients, the first one with all numbers."""
        sizes, clients = self.settings.batch_sizes, self.settings.concurrency
        wanted = [(size, clients[0]) for size in sizes] + [(sizes[0], n) for n in clients[1:]]
        return [self._closed(size, count) for size, count in wanted]

    def _closed(self, batch_size: int, clients: int) -> HttpRun:
        self.say(f"closed loop, batch {batch_size}, {clients} clients")
        request = self._request(batch_size)
        predict(self.service.http, request)  # a batch size that the model refuses is told here
        driven = closed_loop(lambda: self._client(request), clients, self.settings.seconds)
        return self._run(driven, request, None)

    def open(self, rate: float) -> HttpRun:
        """The first batch size at a rate."""
        seconds = self.settings.seconds
        self.say(f"open loop, {rate} requests/s")
        request = self._request(self.settings.batch_sizes[0])
        driven = open_loop(
            lambda: self._client(request),
            # Another schedule in each turn, and the same for all subjects of a turn.
            arrivals(rate, seconds, seed=self.launched.round),
            _OPEN_CLIENTS,
            give_up=seconds * _GIVE_UP_FACTOR,
        )
        return self._run(driven, request, rate)

    def _request(self, batch_size: int) -> RequestBody:
        return make_request(self.service.http, self.subject.model_name, batch_size)

    def _client(self, request: RequestBody) -> HttpClient:
        url = self.service.http.base_url
        return HttpClient(url.host, url.port or 80, request)

    def _run(self, driven: Driven, request: RequestBody, rate: float | None) -> HttpRun:
        return HttpRun(
            subject=self.subject.name,
            group=self.group,
            round=self.launched.round,
            device=self.launched.device,
            kind="closed" if rate is None else "open",
            batch_size=request.batch_size,
            concurrency=driven.clients if rate is None else _most_in_flight(driven),
            rate=rate,
            seconds=driven.seconds,
            latencies_s=driven.latencies_s,
            failed=driven.failed,
            gpu=self.telemetry.between(driven.start, driven.start + driven.seconds),
            limited_by=driven.limited_by,
            lag_s=driven.lag_s,
            generator_cpu=round(driven.cpu, 3),
        )


def _launched(subject: Subject, turn: int, service: Running) -> Launched:
    """Measure a service that has just become ready."""
    request = make_request(service.http, subject.model_name, 1)
    # Making the request was the benchmark's own time, so the answers' times are added to `ready`.
    first = service.marks["ready"] + predict(service.http, request)
    second = first + predict(service.http, request)
    return Launched(
        subject=subject.name,
        round=turn,
        device=", ".join(service.http.get("/health").json()["gpus"] or []) or "CPU",
        phases_s={**service.marks, "first_answer": first, "second_answer": second},
        service_s=service.ready_event(),
        memory_bytes=service.memory_bytes(),
    )


def _turns(
    subjects: Sequence[Subject], settings: BenchConfig, what: str, ui: Ui
) -> Iterator[tuple[Subject, int, Callable[[str], None]]]:
    """Yield who is next, the number of the turn, and where to say what is being done."""
    with contextlib.ExitStack() as held:
        names = ", ".join(subject.name for subject in subjects)
        total = settings.launches * len(subjects)
        step = held.enter_context(ui.step(f"{what}: {names}", total=total))
        for turn in range(settings.launches if subjects else 0):
            for subject in rotated(subjects, turn):
                where = f"{subject.name}, launch {turn + 1} of {settings.launches}"
                step.update(where)
                yield subject, turn, lambda line, where=where: step.update(f"{where}: {line}")  # type: ignore[misc]
                step.advance(1)


def _tell(telemetry: Telemetry, gpu: bool, ui: Ui) -> None:
    if gpu and telemetry.why_none:
        ui.warn(f"what the GPUs do meanwhile is not measured: {telemetry.why_none}")


def _most_in_flight(driven: Driven) -> int:
    changes = [(answer.sent, 1) for answer in driven.answers]
    changes += [(answer.done, -1) for answer in driven.answers]
    return max(itertools.accumulate(change for _, change in sorted(changes)), default=0)


def _http_measure(run: HttpRun) -> tuple[str, Literal["lower", "higher"]]:
    if run.kind == "open":
        rate = f"{run.rate:g} requests/s"
        return f"http open, batch {run.batch_size}, {rate}: median seconds", "lower"
    clients = f"{run.concurrency} client{'s' * (run.concurrency > 1)}"
    return f"http closed, batch {run.batch_size}, {clients}: samples/s", "higher"
