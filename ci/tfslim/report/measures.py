"""What a record measured, as one flat list: each measure with samples, unit and machine.

Comparing, budgets, dashboards and the history read this list and nothing else of a record's
figures, so that a name means the same in all of them. Thresholds match these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from tfslim.report.record import RunRecord

__all__ = ["YARDSTICK", "Measured", "Unit", "measures"]

Unit = Literal["bytes", "seconds", "samples/s"]
YARDSTICK = "stock"
"""The subject that others are held against where it took turns with them."""


class Measured(BaseModel):
    """One measure of one subject on one machine.

    Attributes:
        subject: A variant's name, or an image reference.
        measure: Stable name, see docs/record.md ("Measures").
        unit: Of the values.
        better: Which way is good.
        machine: Key of the machine (`Environment.machine_key`); empty for sizes, which no machine
            changes.
        device: "CPU" or the GPUs' names; empty for sizes.
        values: One a launch (the median within it); one alone for a size, which has no spread.
        yardstick: The same of `stock`, from launches that took turns with these; empty without.
        detail: Part of another measure (a phase of a start), or made too seldom to be judged (a
            pull): in the history alone.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    measure: str
    unit: Unit
    better: Literal["smaller", "larger"]
    machine: str = ""
    device: str = ""
    values: tuple[float, ...]
    yardstick: tuple[float, ...] = ()
    detail: bool = False

    @property
    def exact(self) -> bool:
        """True for sizes: the same input gives the same number."""
        return not self.machine

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two of them comparable: subject, measure, machine, device."""
        return self.subject, self.measure, self.machine, self.device

    @property
    def median(self) -> float:
        """The middle value."""
        return float(np.median(self.values))


class _Sample(NamedTuple):
    """One launch's figure; `group` tells which launches took turns."""

    subject: str
    measure: str
    device: str
    group: int
    value: float
    unit: Unit = "seconds"
    detail: bool = False


def measures(record: RunRecord) -> list[Measured]:
    """Return everything that a record and its `others` measured, sizes first.

    Where several parts have the same measure of the same subject and machine, the first counts.
    """
    found: dict[tuple[str, str, str, str], Measured] = {}
    for part in record.parts:
        for item in (*_sizes(part), *_timed(part)):
            found.setdefault(item.key, item)
    order = {subject: number for number, subject in enumerate(record.subjects)}
    return sorted(found.values(), key=lambda item: (order.get(item.subject, 0), not item.exact))


def _sizes(record: RunRecord) -> Iterator[Measured]:
    for subject, size in record.sizes.items():
        gpu = size.gpu.total_bytes if size.gpu else None
        for measure, value in (
            ("pull", size.pull_bytes),
            ("disk", size.disk_bytes),
            ("wasted", size.waste.wasted_bytes),
            ("gpu-code", gpu),
        ):
            if value is not None:
                yield Measured(
                    subject=subject,
                    measure=measure,
                    unit="bytes",
                    better="smaller",
                    values=(value,),
                )


def _timed(record: RunRecord) -> Iterator[Measured]:
    samples = [
        *_launches(record),
        *_cold_starts(record),
        *_in_process(record),
        *_http(record),
    ]
    groups: dict[tuple[str, str, str], list[_Sample]] = {}
    for item in samples:
        groups.setdefault((item.subject, item.measure, item.device), []).append(item)
    for (subject, measure, device), items in groups.items():
        turns = {item.group for item in items}
        stock = groups.get((YARDSTICK, measure, device), [])
        if subject == YARDSTICK or items[0].unit == "bytes":
            stock = []  # a busy machine changes times, not memory
        yield Measured(
            subject=subject,
            measure=measure,
            unit=items[0].unit,
            better="larger" if items[0].unit == "samples/s" else "smaller",
            machine=record.environment.machine_key,
            device=device,
            values=tuple(item.value for item in items),
            yardstick=tuple(item.value for item in stock if item.group in turns),
            detail=items[0].detail,
        )


def _launches(record: RunRecord) -> Iterator[_Sample]:
    """What every launch of `tfslim bench` measures: the first answer, memory, a closed loop."""
    for launch in record.measurements:
        at = (launch.device, launch.group)
        if "first_answer" in launch.phases_s:
            yield _Sample(launch.variant, "first-answer", *at, launch.phases_s["first_answer"])
        if launch.memory_bytes is not None:
            yield _Sample(launch.variant, "memory", *at, launch.memory_bytes, "bytes")
        for load in launch.loads:
            name = f"batch={load.batch_size} clients=1"
            if load.latencies_s and load.seconds > 0:
                rate = load.samples_per_second
                yield _Sample(launch.variant, f"http-rate {name}", *at, rate, "samples/s")
                middle = _median(load.latencies_s)
                yield _Sample(launch.variant, f"http-latency {name}", *at, middle)


def _cold_starts(record: RunRecord) -> Iterator[_Sample]:
    starts = record.cold_starts
    if starts is None:
        return
    for launch in starts.launches:
        at = (starts.device, launch.group)
        cache = f"{launch.page_cache}-cache"
        if launch.jit_cache != "none":
            cache += f" {launch.jit_cache}-jit"
        name = launch.subject
        yield _Sample(name, f"cold-start {cache}", *at, launch.first_answer_s)
        for phase, seconds in launch.phases_s.items():
            yield _Sample(name, f"phase {phase} {cache}", *at, seconds, detail=True)
        if launch.rss_bytes is not None:
            yield _Sample(name, f"resident {cache}", *at, launch.rss_bytes, "bytes")
        if launch.read_bytes is not None:
            yield _Sample(name, f"read {cache}", *at, launch.read_bytes, "bytes", detail=True)
    for pull in starts.pulls:
        at = (starts.device, 0)
        yield _Sample(pull.subject, "pull-time", *at, pull.pull_s, detail=True)
        yield _Sample(pull.subject, "unpack-time", *at, pull.unpack_s, detail=True)


def _in_process(record: RunRecord) -> Iterator[_Sample]:
    for run in record.in_process:
        at = (run.device, run.group)
        batch = f"batch={run.batch_size}"
        yield _Sample(run.subject, f"first-call {batch}", *at, run.first_call_s)
        seconds = sum(run.latencies_s)
        if seconds > 0:
            rate = run.batch_size * len(run.latencies_s) / seconds
            yield _Sample(run.subject, f"rate {batch}", *at, rate, "samples/s")
            yield _Sample(run.subject, f"latency {batch}", *at, _median(run.latencies_s))


def _http(record: RunRecord) -> Iterator[_Sample]:
    for run in record.http:
        at = (run.device, run.group)
        if not run.latencies_s:
            continue
        load = f"clients={run.concurrency}" if run.kind == "closed" else f"due={run.rate:g}/s"
        name = f"batch={run.batch_size} {load}"
        if run.kind == "closed" and run.seconds > 0:
            rate = run.samples_per_second
            yield _Sample(run.subject, f"http-rate {name}", *at, rate, "samples/s")
        yield _Sample(run.subject, f"http-latency {name}", *at, _median(run.latencies_s))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
