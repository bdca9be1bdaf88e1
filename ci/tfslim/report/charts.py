"""The charts of a report as data: what `plots` draws and `mermaid` writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tfslim.bench.results import COLD_START_PHASES, ColdLaunch, ColdStarts
from tfslim.bench.run import Measurement
from tfslim.bench.stats import summarize
from tfslim.images.inspection import Inspection
from tfslim.report.blocks import (
    Curve,
    Curves,
    Pairs,
    Panel,
    Segment,
    StackedBars,
    Trend,
    Trends,
)
from tfslim.report.causes import CAUSES, by_cause, is_library, library_name
from tfslim.report.history import History, HistoryPoint, HistorySeries
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord

__all__ = [
    "cold_start_bars",
    "gpus_of",
    "latency_curves",
    "launch_phases",
    "library_pairs",
    "name_of",
    "names_of",
    "sane",
    "size_bars",
    "trends",
]

MOST_ROWS = 12
"""Bars or lines of one picture."""
_MOST_LIBRARIES = 14
_MOST_TRENDS = 6
_MOST_LINES = 8
_MOST_RUNS = 60
_FIRST_TRENDS = ("pull", "disk", "cold-start", "first-answer", "http-rate", "rate", "memory")
_UNITS = {"bytes": (1e-9, "GB"), "seconds": (1.0, "s"), "samples/s": (1.0, "samples/s")}
_NAME = 28  # characters of a name beside a bar

# The launch as `tfslim bench` sees it from outside: the moments, and what ends with each.
_OUTSIDE = {
    "created": "create",
    "started": "start",
    "alive": "interpreter",
    "ready": "imports, model, warm-up",
    "first_answer": "first answer",
}


def name_of(subject: str) -> str:
    """Return a subject's name as a picture shows it: of a long image reference, the end."""
    shown = plain(subject, 400)
    return shown if len(shown) <= _NAME else "…" + shown[1 - _NAME :]


def names_of(subjects: Iterable[str]) -> dict[str, str]:
    """Return a name for each subject, no two alike."""
    names: dict[str, str] = {}
    for subject in dict.fromkeys(subjects):
        name, number = name_of(subject), 2
        while name in names.values():
            name, number = f"{name_of(subject)} ({number})", number + 1
        names[subject] = name
    return names


def sane(value: float) -> float:
    """Return a measure as a length that can be drawn: NaN, infinite and negative are nothing."""
    return float(value) if math.isfinite(value) and value > 0 else 0.0


def gpus_of(record: RunRecord, subject: str) -> tuple[str, ...]:
    """Return the GPUs that an image was built for; none where that is not known."""
    builds = (image.build for image in record.images)
    return next((build.cuda_archs for build in builds if build.variant == subject), ())


def size_bars(record: RunRecord) -> StackedBars | None:
    """Return what the images' bytes on disk are for; None without sizes."""
    rows = list(record.sizes.items())[:MOST_ROWS]
    if not rows:
        return None
    parts = [by_cause(size, gpus_of(record, variant)) for variant, size in rows]
    return StackedBars(
        name="size-by-cause",
        title="Disk by cause",
        unit="GB",
        rows=tuple(names_of(variant for variant, _ in rows).values()),
        segments=tuple(
            Segment(label, cause, tuple(sane(part[cause]) / 1e9 for part in parts))
            for cause, label in CAUSES.items()
            if any(part[cause] > 0 for part in parts)
        ),
    )


def library_pairs(
    before: tuple[str, Inspection], after: tuple[str, Inspection], name: str = "libraries"
) -> Pairs | None:
    """Return the largest libraries of two images, by name; None where no library is known.

    An inspection lists its largest files only. A library that is not listed is smaller than the
    smallest one that is, or gone.
    """
    left, right = _libraries(before[1]), _libraries(after[1])
    names = sorted(left.keys() | right.keys(), key=lambda n: -max(left.get(n, 0), right.get(n, 0)))
    if not names:
        return None
    mb = 1e6
    return Pairs(
        name=name,
        title="Libraries on disk",
        unit="MB",
        labels=(name_of(before[0]), name_of(after[0])),
        rows=tuple(
            (
                plain(name, _NAME + 6),
                left[name] / mb if name in left else None,
                right[name] / mb if name in right else None,
            )
            for name in names[:_MOST_LIBRARIES]
        ),
        below=(_smallest(before[1]), _smallest(after[1])),
    )


def launch_phases(item: ColdLaunch | Measurement) -> dict[str, float]:
    """Return the seconds of each phase of one launch, one after the other, up to the answer."""
    if isinstance(item, ColdLaunch):
        known = {n: s for n, s in item.phases_s.items() if n in COLD_START_PHASES}
        known.pop("second_answer", None)
        return {name.replace("_", " "): sane(seconds) for name, seconds in known.items()}
    phases: dict[str, float] = {}
    before = 0.0
    for moment, name in _OUTSIDE.items():
        if moment in item.phases_s:
            now = max(sane(item.phases_s[moment]), before)
            phases[name] = now - before
            before = now
    return phases


def cold_start_bars(record: RunRecord) -> StackedBars | None:
    """Return the medians of each phase, by subject and page cache; None without launches."""
    groups = _launch_groups(record)
    if not groups:
        return None
    names = list(groups)[:MOST_ROWS]
    medians = {name: _phase_medians(groups[name]) for name in names}
    order = list(dict.fromkeys(phase for found in medians.values() for phase in found))
    if record.cold_starts is not None:
        order.sort(key=[p.replace("_", " ") for p in COLD_START_PHASES].index)
    return StackedBars(
        name="cold-start",
        title="From asking for a container to its first answer",
        unit="s",
        rows=tuple(names),
        segments=tuple(
            Segment(phase, f"phase-{number}", tuple(medians[n].get(phase, 0.0) for n in names))
            for number, phase in enumerate(order)
        ),
    )


def latency_curves(record: RunRecord) -> Curves | None:
    """Return latencies in milliseconds, a panel for each kind of load; None without any."""
    samples: dict[str, dict[str, list[float]]] = {}

    def add(panel: str, subject: str, values: Sequence[float]) -> None:
        kept = [value * 1000 for value in map(sane, values) if value]
        samples.setdefault(panel, {}).setdefault(subject, []).extend(kept)

    for run in record.http:
        how = f"{run.concurrency} client(s)" if run.rate is None else f"{run.rate:g} requests/s"
        add(f"HTTP, {how}, batch {run.batch_size}, {plain(run.device, 20)}", run.subject,
            run.latencies_s)  # fmt: skip
    for call in record.in_process:
        add(f"in process, batch {call.batch_size}, {plain(call.device, 20)}", call.subject,
            call.latencies_s)  # fmt: skip
    if not record.http:
        for item in record.measurements:
            for load in item.loads:
                add(f"HTTP, 1 client, batch {load.batch_size}, {plain(item.device, 20)}",
                    item.variant, load.latencies_s)  # fmt: skip
    panels = tuple(
        Panel(
            title=title,
            curves=tuple(
                Curve(name, tuple(sorted(found[subject])))
                for subject, name in list(names_of(found).items())[:_MOST_LINES]
                if found[subject]
            ),
        )
        for title, found in samples.items()
    )
    panels = tuple(panel for panel in panels if panel.curves)
    return Curves("latency", "Latency", "ms", panels[:4]) if panels else None


def _libraries(size: Inspection) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in filter(is_library, size.largest_files):
        name = library_name(file.path)
        found[name] = found.get(name, 0) + max(file.disk_bytes, 0)
    return found


def _smallest(size: Inspection) -> float | None:
    """Return the size in MB that every file is below that is not listed."""
    return min((file.disk_bytes / 1e6 for file in size.largest_files), default=None)


def _launch_groups(record: RunRecord) -> dict[str, list[dict[str, float]]]:
    """Return the phases of all launches by bar, in the order of the record."""
    groups: dict[str, list[dict[str, float]]] = {}
    cold: ColdStarts | None = record.cold_starts
    if cold is not None and cold.launches:
        names = names_of(launch.subject for launch in cold.launches)
        for subject, name in names.items():
            for cache in ("cold", "warm"):
                found = [
                    launch_phases(launch)
                    for launch in cold.launches
                    if launch.subject == subject and launch.page_cache == cache
                ]
                if found:
                    groups[f"{name}, {cache}"] = found
        return groups
    for item in record.measurements:
        groups.setdefault(name_of(item.variant), []).append(launch_phases(item))
    return groups


def _phase_medians(launches: Sequence[dict[str, float]]) -> dict[str, float]:
    medians = {}
    for phase in dict.fromkeys(phase for launch in launches for phase in launch):
        found = summarize([launch[phase] for launch in launches if phase in launch])
        medians[phase] = found.median if found else 0.0
    return medians


def trends(history: History) -> Iterator[Trends]:
    """Yield one chart for each measure that has at least two runs, what matters most first."""
    by_measure: dict[str, list[HistorySeries]] = {}
    for series in history.series:
        if len(series.points) > 1:
            by_measure.setdefault(series.measure, []).append(series)
    ordered = sorted(by_measure.items(), key=lambda item: _importance(item[0]))
    for number, (measure, found) in enumerate(ordered[:_MOST_TRENDS]):
        factor, unit = _UNITS[found[0].unit]
        several = len({series.machine for series in found}) > 1
        yield Trends(
            name=f"history-{number + 1}",
            title=f"{plain(measure, 60)} over runs",
            unit=unit,
            lines=tuple(_trend(series, factor, several) for series in found[:_MOST_LINES]),
        )


def _importance(measure: str) -> int:
    begun = (n for n, name in enumerate(_FIRST_TRENDS) if measure.startswith(name))
    return next(begun, len(_FIRST_TRENDS))


def _trend(series: HistorySeries, factor: float, several: bool) -> Trend:
    points = series.points[-_MOST_RUNS:]
    skipped = len(series.points) - len(points)
    machine = f", {plain(series.machine, 16)}" if several and series.machine else ""
    return Trend(
        label=name_of(series.subject) + machine,
        runs=tuple(_run_name(point) for point in points),
        values=tuple(sane(point.value) * factor for point in points),
        changes=tuple(c.index - skipped for c in series.changes if c.index >= skipped),
    )


def _run_name(point: HistoryPoint) -> str:
    commit = f" {plain(point.commit)[:7]}" if point.commit else ""
    return f"{point.started:%m-%d}{commit or point.started.strftime(' %H:%M')}"
