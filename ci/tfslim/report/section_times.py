"""How fast images start and answer: phases, pulls, loads, latencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tfslim.bench.results import COLD_START_PHASES, ColdStarts, HttpRun, InProcessRun
from tfslim.bench.run import Measurement
from tfslim.bench.stats import Quantile, percentile, quantile, samples_needed, summarize
from tfslim.report import charts, figures
from tfslim.report.blocks import Block, Chart, Paragraph, table
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord

__all__ = ["cold_start", "loads"]

_TOP = 12  # images of a table
_SENTENCE = 300


def cold_start(part: RunRecord) -> Iterator[Block]:
    """Yield the phases of starts: with a known page cache where they were measured so."""
    chart = charts.cold_start_bars(part)
    if chart is None:
        return
    yield chart
    if part.cold_starts is not None and part.cold_starts.launches:
        yield from _anatomy(part.cold_starts)
    else:
        yield from _outside(part.measurements)


def _anatomy(starts: ColdStarts) -> Iterator[Block]:
    """Yield phases of launches with known page cache, pulls, and what to know of them."""
    device, cache = plain(starts.device, 60), plain(starts.cold_cache, _SENTENCE)
    yield Paragraph(
        "Seconds of each phase, medians over launches; the bars add them up. Device: "
        f"{device}. Page cache: {cache}."
    )
    phases = [p for p in COLD_START_PHASES if any(p in i.phases_s for i in starts.launches)]
    keys = dict.fromkeys((i.subject, i.page_cache, i.jit_cache) for i in starts.launches)
    rows = []
    for subject, page, jit in list(keys)[:30]:
        key = (subject, page, jit)
        launches = [i for i in starts.launches if (i.subject, i.page_cache, i.jit_cache) == key]
        rows.append(
            (
                plain(subject, 40),
                page if jit == "none" else f"{page}, JIT cache {jit}",
                str(len(launches)),
                *(
                    _middle(i.phases_s[phase] for i in launches if phase in i.phases_s)
                    for phase in phases
                ),
                _middle((i.first_answer_s for i in launches), spread=True),
            )
        )
    titles = (p.replace("_", " ") for p in phases)
    yield from table(("image", "page cache", "launches", *titles, "to first answer"), rows, left=2)
    yield from table(
        ("image", "pulled", "pull, loopback", "unpack", "pulls"),
        (
            (
                plain(subject, 40),
                figures.size(pulls[0].pull_bytes),
                _middle((p.pull_s for p in pulls), spread=True) + " s",
                _middle((p.unpack_s for p in pulls), spread=True) + " s",
                str(len(pulls)),
            )
            for subject in list(dict.fromkeys(p.subject for p in starts.pulls))[:_TOP]
            if (pulls := [p for p in starts.pulls if p.subject == subject])
        ),
    )
    for note in starts.notes[:10]:
        yield Paragraph(plain(note, _SENTENCE))


def _outside(measurements: Sequence[Measurement]) -> Iterator[Block]:
    moments = ("created", "started", "alive", "ready", "first_answer", "second_answer")
    yield Paragraph(
        "Seconds since the container was asked for, median (smallest–largest); the bars show the "
        "medians of the steps between. The page cache was left as it was."
    )
    yield from table(
        ("image", "launches", *(moment.replace("_", " ") for moment in moments)),
        (
            (
                plain(variant, 40),
                str(len(launches)),
                *(
                    _middle((i.phases_s[m] for i in launches if m in i.phases_s), spread=True)
                    for m in moments
                ),
            )
            for variant in list(dict.fromkeys(item.variant for item in measurements))[:_TOP]
            if (launches := [item for item in measurements if item.variant == variant])
        ),
    )


def loads(part: RunRecord) -> Iterator[Block]:
    """Yield throughput and latency of every kind of load."""
    chart = charts.latency_curves(part)
    if chart is not None:
        yield from _latency(part, chart)
    yield from table(
        ("image", "MLPerf scenario", "valid", "figures", "not as MLPerf runs it"),
        (
            (
                plain(run.subject, 40),
                f"{run.scenario}, {plain(run.device, 30)}",
                "yes" if run.valid else "no",
                plain(", ".join(f"{k} {v:g}" for k, v in run.figures.items()), 160),
                plain("; ".join(run.settings) or figures.MISSING, 160),
            )
            for run in part.loadgen[:40]
        ),
        left=5,
    )


def _latency(part: RunRecord, chart: Chart) -> Iterator[Block]:
    """Yield the distribution of latencies, then a row for each load."""
    yield chart
    yield Paragraph(
        "Latency in milliseconds, all launches together. p90 and p99: of the sample where it is as "
        f"large as MLPerf asks for ({figures.count(samples_needed(0.9))} and "
        f"{figures.count(samples_needed(0.99))} requests); ≤: of a smaller one, a bound that holds "
        "with 99 % confidence (early stopping); –: too few for that."
    )
    rows = [*_http_rows(part.http), *_measured_rows(part.measurements)]
    shares = ("samples/s", "p50", "p90", "p99")
    yield from table(("image", "load", "requests", *shares, "failed"), rows[:60], left=2)
    limits = dict.fromkeys((r.subject, _load(r)) for r in part.http if r.limited_by)
    for subject, load in list(limits)[:_TOP]:
        mine = [r for r in part.http if (r.subject, _load(r)) == (subject, load)]
        reasons = [r.limited_by for r in mine if r.limited_by]
        said = f"{subject}, {load}: {len(reasons)} of {len(mine)} runs, the first: {reasons[0]}"
        yield Paragraph(plain(said, _SENTENCE), strong="Limited by the load generator")
    calls = list(_call_rows(part.in_process))[:60]
    header = ("image", "in process", "calls", *shares, "first call", "GPU")
    yield from table(header, calls, left=2)


def _http_rows(runs: Sequence[HttpRun]) -> Iterator[tuple[str, ...]]:
    for subject, load in dict.fromkeys((run.subject, _load(run)) for run in runs):
        mine = [run for run in runs if (run.subject, _load(run)) == (subject, load)]
        failed = sum(count for run in mine for count in run.failed.values())
        yield (
            plain(subject, 40),
            load,
            *_latencies([s for r in mine for s in r.latencies_s],
                        [r.samples_per_second for r in mine if r.seconds > 0]),
            figures.count(failed),
        )  # fmt: skip


def _load(run: HttpRun) -> str:
    """Say how requests came; what an open loop had in flight at most is an outcome, not a load."""
    clients = f"{run.concurrency} client(s)" if run.rate is None else f"{run.rate:g} requests/s due"
    return f"batch {run.batch_size}, {clients}"


def _measured_rows(measurements: Sequence[Measurement]) -> Iterator[tuple[str, ...]]:
    keys = dict.fromkeys((i.variant, load.batch_size) for i in measurements for load in i.loads)
    for variant, batch in keys:
        loads = [
            load
            for item in measurements
            for load in item.loads
            if (item.variant, load.batch_size) == (variant, batch)
        ]
        yield (
            plain(variant, 40),
            f"batch {batch}, 1 client",
            *_latencies([s for load in loads for s in load.latencies_s],
                        [load.samples_per_second for load in loads if load.seconds > 0]),
            figures.MISSING,
        )  # fmt: skip


def _call_rows(runs: Sequence[InProcessRun]) -> Iterator[tuple[str, ...]]:
    for subject, device, batch in dict.fromkeys((r.subject, r.device, r.batch_size) for r in runs):
        mine = [r for r in runs if (r.subject, r.device, r.batch_size) == (subject, device, batch)]
        rates = [
            batch * len(r.latencies_s) / sum(r.latencies_s) for r in mine if sum(r.latencies_s) > 0
        ]
        unstable = sum(not r.stable for r in mine)
        note = f", {unstable} of {len(mine)} not stable" if unstable else ""
        yield (
            plain(subject, 40),
            f"batch {batch}, {plain(device, 30)}{note}",
            *_latencies([s for r in mine for s in r.latencies_s], rates),
            _middle(r.first_call_s for r in mine) + " s",
            plain(", ".join(f"{k} {v}" for k, v in mine[0].gpu.items()) or figures.MISSING, 120),
        )


def _latencies(seconds: Sequence[float], rates: Sequence[float]) -> tuple[str, ...]:
    """Return how many, samples a second, and three percentiles in milliseconds."""
    rate = summarize(rates)
    return (
        figures.count(len(seconds)),
        figures.number(rate.median, 1) if rate else figures.MISSING,
        _milliseconds(percentile(seconds, 0.5)),
        *(_bounded(quantile(seconds, share)) for share in (0.9, 0.99)),
    )


def _milliseconds(seconds: float | None) -> str:
    return figures.MISSING if seconds is None else figures.number(seconds * 1000, 1)


def _bounded(found: Quantile) -> str:
    return ("≤ " if found.kind == "bound" else "") + _milliseconds(found.value)


def _middle(values: Iterable[float], *, spread: bool = False) -> str:
    """Return a median in seconds, with the range where that is asked for."""
    found = summarize(list(values))
    if found is None:
        return figures.MISSING
    shown = figures.number(found.median, 2)
    low, high = figures.number(found.low, 2), figures.number(found.high, 2)
    return f"{shown} ({low}–{high})" if spread and found.n > 1 else shown
