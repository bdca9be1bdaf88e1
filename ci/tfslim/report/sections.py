"""The folded parts of a report: why an image is as it is, and what a reader needs to check it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tfslim.bench.results import COLD_START_PHASES, ColdStarts, HttpRun, InProcessRun
from tfslim.bench.run import Measurement
from tfslim.bench.stats import Ratio, percentile, summarize
from tfslim.images.inspection import Inspection
from tfslim.report import charts, figures
from tfslim.report.budgets import BudgetResult
from tfslim.report.causes import CAUSES, by_cause, is_library, library_name
from tfslim.report.compare import LayerChange, SubjectChange
from tfslim.report.content import Block, Chart, Facts, Pairs, Paragraph, Section, Table
from tfslim.report.inert import plain
from tfslim.report.record import ModelRecord, RunRecord
from tfslim.report.summary import Source

__all__ = ["make_sections"]

_TOP = 12  # rows of a table of the largest things
_LAYERS = 30
_SENTENCE = 300


def make_sections(source: Source) -> tuple[Section, ...]:
    """Return the sections that have something to say, in the order of reading."""
    record = source.record
    found = (
        ("changes", "What changed against the baseline", _changes(source), 3),
        ("budgets", "Budgets", _budgets(source.budgets), 2),
        ("sizes", "Why the images are this big", _by_part(record, _sizes), 4),
        ("removals", "What was removed, by rule", _by_part(record, _removals), 5),
        ("cold-start", "Cold start by phase", _by_part(record, _cold_start), 1),
        ("latency", "Throughput and latency", _by_part(record, _loads), 6),
        ("parity", "Same answers?", _by_part(record, _parity), 7),
        ("builds", "Builds, bases and pins", _by_part(record, _builds), 8),
        ("layers", "Layers", _by_part(record, _layers), 9),
        ("environment", "Environment, and how to do it again", _environment(source), 0),
    )
    made = [(key, title, tuple(blocks), rank) for key, title, blocks, rank in found]
    return tuple(Section(key, title, blocks, rank) for key, title, blocks, rank in made if blocks)


def _by_part(record: RunRecord, make: Callable[[RunRecord], Iterator[Block]]) -> Iterator[Block]:
    """Yield the blocks of each machine's part, under its name where there are several."""
    for part in record.parts:
        blocks = list(make(part))
        if blocks and len(record.parts) > 1:
            yield Paragraph("", strong=f"On {plain(part.environment.machine_key, 80)}")
        yield from blocks


# -- against the baseline ------------------------------------------------------------------------


def _changes(source: Source) -> Iterator[Block]:
    if source.comparison is None or not source.compared:
        return
    base = source.comparison.baseline
    when = f", made {base.started:%Y-%m-%d %H:%M} UTC" if base.started else ""
    commit = f", commit {plain(base.commit, 12)}" if base.commit else ""
    where = "the same machine" if source.comparison.same_machine else plain(base.machine, 80)
    yield Paragraph(f"Baseline: {source.baseline}{when}{commit}, on {where}.")
    for subject in source.comparison.subjects[:_TOP]:
        yield from _subject_changes(subject)


def _subject_changes(subject: SubjectChange) -> Iterator[Block]:
    name = plain(subject.subject, 60)
    if subject.state == "removed":
        yield Paragraph("not in this run.", strong=name)
        return
    if subject.state == "added":
        yield Paragraph("not in the baseline.", strong=name)
        return
    yield Paragraph("", strong=name)
    yield from _table(
        ("measure", "baseline", "now", "change", "ratio [95 %]", "verdict"),
        (
            (
                plain(m.measure, 60),
                figures.quantity(m.baseline, m.unit),
                figures.quantity(m.value, m.unit),
                figures.change(m.delta, m.unit),
                _ratio(m.ratio, m.basis),
                plain(f"{m.verdict}: {m.why}" if m.why else m.verdict, 160),
            )
            for m in subject.measures[:40]
        ),
    )
    layers = [layer for layer in subject.layers if layer.state != "same"]
    same = len(subject.layers) - len(layers)
    if subject.layers:
        yield Paragraph(f"Layers: {same} of {len(subject.layers)} are the same.")
    yield from _table(
        ("layer", "", "pull", "change", "disk", "change"),
        (_layer_change(layer) for layer in layers[:_LAYERS]),
        left=2,
    )
    yield from _table(
        ("package", "version", "disk", "change"),
        (
            (
                plain(p.name, 60),
                _versions(p.baseline_version, p.version),
                figures.size(p.disk_bytes),
                figures.change(p.disk_bytes - p.baseline_disk_bytes, "bytes"),
            )
            for p in subject.packages[:_TOP]
        ),
        left=2,
    )
    yield from _table(
        ("library", "", "disk", "change"),
        (
            (plain(item.name, 60), item.state, figures.size(item.disk_bytes),
             figures.change(item.disk_bytes - item.baseline_disk_bytes, "bytes"))
            for item in subject.libraries[:_TOP]
        ),
        left=2,
    )  # fmt: skip
    yield from _table(
        ("rule", "", "removes", "change"),
        (
            (plain(rule.rule, 60), rule.state, figures.size(rule.removed_bytes),
             figures.change(rule.removed_bytes - rule.baseline_removed_bytes, "bytes"))
            for rule in subject.removals[:_TOP]
        ),
        left=2,
    )  # fmt: skip


def _layer_change(layer: LayerChange) -> tuple[str, ...]:
    gone = layer.state == "removed"
    known = layer.pull_bytes is not None and layer.baseline_pull_bytes is not None
    new = layer.state == "added"
    pull = layer.pull_bytes
    if known and layer.pull_bytes is not None and layer.baseline_pull_bytes is not None:
        delta: int | None = layer.pull_bytes - layer.baseline_pull_bytes
    elif gone:
        delta = None if layer.baseline_pull_bytes is None else -layer.baseline_pull_bytes
    else:
        delta = pull if new else None
    return (
        plain(layer.created_by) or "(base)",
        layer.state,
        figures.MISSING if gone else figures.size(pull),
        figures.change(delta, "bytes"),
        figures.MISSING if gone else figures.size(layer.unpacked_bytes),
        figures.change(layer.unpacked_bytes - layer.baseline_unpacked_bytes, "bytes"),
    )


def _versions(before: str | None, after: str | None) -> str:
    old, new = plain(before or figures.MISSING, 30), plain(after or figures.MISSING, 30)
    return new if old == new else f"{old} → {new}"


def _ratio(ratio: Ratio | None, basis: str) -> str:
    if ratio is None:
        return figures.MISSING
    value, low, high = (figures.number(part, 3) for part in (ratio.value, ratio.low, ratio.high))
    return value if basis == "size" else f"{value} [{low}, {high}]"


def _budgets(budgets: Sequence[BudgetResult]) -> Iterator[Block]:
    yield from _table(
        ("image", "budget", "measured", "limit", "state"),
        (
            (
                plain(item.subject, 60),
                plain(item.budget, 60),
                figures.quantity(item.actual, item.unit),
                figures.quantity(item.limit, item.unit),
                plain(f"{item.state}: {item.why}" if item.why else item.state, 160),
            )
            for item in budgets[:60]
        ),
        left=2,
    )


# -- sizes ---------------------------------------------------------------------------------------


def _sizes(part: RunRecord) -> Iterator[Block]:
    chart = charts.size_bars(part)
    if chart is None:
        return
    yield chart
    yield from _cause_table(part)
    pairs = _stock_beside_smallest(part)
    if pairs is not None:
        yield pairs
        yield _pairs_table(pairs)
    for subject, size in list(part.sizes.items())[:_TOP]:
        yield from _one_size(subject, size)


def _cause_table(part: RunRecord) -> Iterator[Table]:
    shown = list(part.sizes.items())[:_TOP]
    parts = [by_cause(size, charts.gpus_of(part, name)) for name, size in shown]
    yield from _table(
        ("disk by cause", *(charts.name_of(name) for name, _ in shown)),
        (
            (label, *(figures.size(found[cause]) for found in parts))
            for cause, label in CAUSES.items()
            if any(found[cause] for found in parts)
        ),
    )


def _stock_beside_smallest(part: RunRecord) -> Pairs | None:
    """Return the libraries of stock beside those of the smallest image; None without stock."""
    others = {name: size for name, size in part.sizes.items() if name != "stock"}
    if "stock" not in part.sizes or not others:
        return None
    smallest = min(others, key=lambda name: others[name].disk_bytes)
    return charts.library_pairs(("stock", part.sizes["stock"]), (smallest, others[smallest]))


def _pairs_table(pairs: Pairs) -> Table:
    def cell(value: float | None, below: float | None) -> str:
        if value is not None:
            return f"{value:.0f} {pairs.unit}"
        return figures.MISSING if below is None else f"gone, or below {below:.0f} {pairs.unit}"

    return Table(
        ("library", *pairs.labels),
        tuple(
            (name, cell(before, pairs.below[0]), cell(after, pairs.below[1]))
            for name, before, after in pairs.rows
        ),
    )


def _one_size(subject: str, size: Inspection) -> Iterator[Block]:
    kinds = sorted(size.kinds, key=lambda kind: -kind.disk_bytes)[:_TOP]
    said = ", ".join(f"{plain(kind.kind, 30)} {figures.size(kind.disk_bytes)}" for kind in kinds)
    yield Paragraph(f"{figures.size(size.disk_bytes)}: {said}.", strong=plain(subject, 60))
    if size.gpu is not None:
        archs = sorted(size.gpu.by_arch_bytes.items(), key=lambda item: -item[1])[:_TOP]
        by_arch = ", ".join(f"{plain(arch, 20)} {figures.size(stored)}" for arch, stored in archs)
        yield Paragraph(f"GPU code, as stored: {by_arch or 'none'}.")
    packages = sorted(size.packages, key=lambda p: -p.disk_bytes)[:_TOP]
    yield from _table(
        ("package", "version", "kind", "disk", "share"),
        (
            (
                plain(p.name, 60),
                plain(p.version, 40),
                plain(p.kind, 20),
                figures.size(p.disk_bytes),
                _share(p.disk_bytes, size.disk_bytes),
            )
            for p in packages
        ),
        left=3,
    )
    gpu = {} if size.gpu is None else size.gpu.by_library
    yield from _table(
        ("library", "disk", "of it GPU code"),
        (
            (
                plain(library_name(file.path), 60),
                figures.size(file.disk_bytes),
                figures.size(gpu[file.path].total_bytes if file.path in gpu else 0),
            )
            for file in [file for file in size.largest_files if is_library(file)][:_TOP]
        ),
    )


def _share(count: int, whole: int) -> str:
    return f"{count / whole:.0%}" if 0 <= count <= whole and whole > 0 else figures.MISSING


def _removals(part: RunRecord) -> Iterator[Block]:
    rules = part.removals or {n: s.removals for n, s in part.sizes.items() if s.removals}
    for subject, removed in rules.items():
        if removed:
            total = sum(max(item.removed_bytes, 0) for item in removed)
            yield Paragraph(
                f"{figures.size(total)} by {len(removed)} rules; docs/rules.md has each one's "
                "reason and risk.",
                strong=plain(subject, 60),
            )
            yield from _table(
                ("rule", "removed", "pieces and files"),
                (
                    (plain(i.rule, 60), figures.size(i.removed_bytes), figures.count(i.count))
                    for i in sorted(removed, key=lambda i: -i.removed_bytes)[:40]
                ),
            )


def _layers(part: RunRecord) -> Iterator[Block]:
    for subject, size in list(part.sizes.items())[:_TOP]:
        hidden = figures.size(size.waste.wasted_bytes)
        yield Paragraph(
            f"{len(size.layers)} layers; {hidden} of them hidden by later ones.",
            strong=plain(subject, 60),
        )
        yield from _table(
            ("layer", "made by", "pull", "disk"),
            (
                (
                    plain(layer.digest, 80).removeprefix("sha256:")[:12],
                    plain(layer.created_by) or "(base)",
                    figures.size(layer.pull_bytes),
                    figures.size(layer.unpacked_bytes),
                )
                for layer in size.layers[:_LAYERS]
            ),
            left=2,
        )


# -- times ---------------------------------------------------------------------------------------


def _cold_start(part: RunRecord) -> Iterator[Block]:
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
    yield from _table(("image", "page cache", "launches", *titles, "to first answer"), rows, left=2)
    yield from _table(
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
    yield from _table(
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


def _loads(part: RunRecord) -> Iterator[Block]:
    chart: Chart | None = charts.latency_curves(part)
    if chart is None:
        return
    yield chart
    yield Paragraph(
        "Latency in milliseconds, all launches together. A percentile is given where at least ten "
        "requests lie beyond it."
    )
    rows = [*_http_rows(part.http), *_measured_rows(part.measurements)]
    shares = ("samples/s", "p50", "p90", "p99")
    yield from _table(("image", "load", "requests", *shares, "failed"), rows[:60], left=2)
    calls = list(_call_rows(part.in_process))[:60]
    header = ("image", "in process", "calls", *shares, "first call", "GPU")
    yield from _table(header, calls, left=2)


def _http_rows(runs: Sequence[HttpRun]) -> Iterator[tuple[str, ...]]:
    keys = dict.fromkeys((r.subject, r.kind, r.batch_size, r.concurrency, r.rate) for r in runs)
    for key in keys:
        mine = [r for r in runs if (r.subject, r.kind, r.batch_size, r.concurrency, r.rate) == key]
        how = f"{key[3]} client(s)" if key[4] is None else f"{key[4]:g} requests/s due"
        failed = sum(count for run in mine for count in run.failed.values())
        yield (
            plain(key[0], 40),
            f"batch {key[2]}, {how}",
            *_latencies([s for r in mine for s in r.latencies_s],
                        [r.samples_per_second for r in mine if r.seconds > 0]),
            figures.count(failed),
        )  # fmt: skip


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
        *(_milliseconds(percentile(seconds, share)) for share in (0.5, 0.9, 0.99)),
    )


def _milliseconds(seconds: float | None) -> str:
    return figures.MISSING if seconds is None else figures.number(seconds * 1000, 1)


def _middle(values: Iterable[float], *, spread: bool = False) -> str:
    """Return a median in seconds, with the range where that is asked for."""
    found = summarize(list(values))
    if found is None:
        return figures.MISSING
    shown = figures.number(found.median, 2)
    low, high = figures.number(found.low, 2), figures.number(found.high, 2)
    return f"{shown} ({low}–{high})" if spread and found.n > 1 else shown


# -- where it comes from -------------------------------------------------------------------------


def _parity(part: RunRecord) -> Iterator[Block]:
    rows = [
        (plain(subject, 40), plain(gate.name, 30), plain(gate.outcome, 30),
         str(len(gate.models)) if gate.models else figures.MISSING, _disagreeing(gate.models)
         or plain(gate.why, 160) or figures.MISSING)
        for subject, gates in part.parity.items()
        for gate in gates[:_TOP]
    ]  # fmt: skip
    if rows:
        yield Paragraph(
            "The same models in the packages before slimming and in the image, every answer "
            "compared."
        )
        yield from _table(("image", "gate", "outcome", "models", "not passed, or why"), rows[:60])


def _disagreeing(models: dict[str, str]) -> str:
    found = [f"{plain(name, 40)} {plain(o, 20)}" for name, o in models.items() if o != "passed"]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more


def _builds(part: RunRecord) -> Iterator[Block]:
    again = {image.build.variant: image.seconds for image in part.rebuilds}
    yield from _table(
        ("image", "built in", "cached steps", "again", "digest", "lock"),
        (
            (
                plain(image.build.variant, 40),
                figures.number(image.seconds, 0, "s"),
                f"{image.cached_steps} of {image.steps}",
                figures.number(again.get(image.build.variant), 1, "s"),
                plain(image.digest, 80).removeprefix("sha256:")[:12],
                plain(image.build.lock or "none", 80),
            )
            for image in part.images[:40]
        ),
    )
    bases = {name: base for image in part.images for name, base in image.bases.items()}
    yield from _table(
        ("FROM", "origin", "pin"),
        ((plain(b.name, 60), b.origin, plain(b.pin, 80)) for b in list(bases.values())[:_TOP]),
        left=3,
    )


def _environment(source: Source) -> Iterator[Block]:
    for part in source.record.parts:
        env = part.environment
        rows = [
            ("model", _model(part.model) if part.model else figures.NOT_MEASURED),
            ("tfslim", plain(env.tfslim, 40)),
            ("commit", _commit(part)),
            ("machine", plain(env.machine_key, 120)),
            ("processor", f"{plain(env.cpu, 80)}, {env.cpus} usable"),
            ("memory", figures.size(env.memory_bytes)),
            ("kernel", plain(f"{env.kernel} {env.machine}", 80)),
            ("engine", plain(", ".join(f"{n} {v}" for n, v in env.engine.items()), 160)),
            ("builder", plain(env.builder, 160)),
            ("GPU", plain(env.gpu, 160)),
            ("load when it began", figures.number(env.load_average, 1)),
            ("started", f"{part.started:%Y-%m-%d %H:%M} UTC"),
            ("job", plain(env.ci.url, 160) if env.ci else figures.MISSING),
        ]
        yield Facts(tuple(rows))
    variants = " ".join(plain(subject, 60) for subject in source.record.subjects[:_TOP])
    yield Paragraph(
        f"At this commit, on such a machine: `tfslim bench {variants}`. The record behind this "
        "report is report.json; every raw sample is in it or in the file that it names.",
        strong="Do it again",
    )


def _model(model: ModelRecord) -> str:
    dropped = ", ".join(f"{plain(n, 40)} ({figures.size(b)})" for n, b in model.dropped.items())
    left_out = f"; other formats left out: {dropped}" if dropped else ""
    return plain(
        f"{model.name} ({model.source}, {figures.size(model.disk_bytes)}, {model.mode}){left_out}",
        300,
    )


def _commit(part: RunRecord) -> str:
    found = part.environment.source
    if not found.commit:
        return figures.MISSING
    ref = f" ({plain(found.ref, 60)})" if found.ref else ""
    changed = ", with changes that are not committed" if found.changed else ""
    return plain(found.commit, 12) + ref + changed


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[Table]:
    """Yield a table, or nothing where it has no rows."""
    kept = tuple(tuple(row) for row in rows)
    if kept:
        yield Table(tuple(header), kept, left)
