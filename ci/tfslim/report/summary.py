"""The first screen of a report: the verdict in a sentence, and one row for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tfslim.bench.run import Measurement
from tfslim.bench.stats import Ratio, Summary, ratio_of_medians, summarize
from tfslim.report import figures
from tfslim.report.blocks import Table
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import Comparison, MeasureChange
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord

__all__ = [
    "Source",
    "delta",
    "measure_changes",
    "notes",
    "own_subjects",
    "parity_of",
    "summary_table",
]

MOST_ROWS = 40
_WORST = ("failed", "inconclusive", "off", "not asked", "passed")  # any other word comes first


@dataclass(frozen=True)
class Source:
    """Everything that a report is made of.

    Attributes:
        record: The run, with its parts on other machines.
        comparison: The run beside its baseline, if there is one.
        budgets: What the budgets say; empty without budgets.
    """

    record: RunRecord
    comparison: Comparison | None
    budgets: tuple[BudgetResult, ...]

    @property
    def compared(self) -> bool:
        """Whether there is a baseline."""
        return self.comparison is not None and self.comparison.baseline.found

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return plain(self.comparison.baseline.source, 60) if self.comparison else ""


def summary_table(source: Source) -> Table:
    """Return one row for each image, and for each machine where there are several."""
    several = len({part.environment.machine_key for part in source.record.parts}) > 1
    columns = [*_COLUMNS[:1], *([_MACHINE] if several else []), *_COLUMNS[1:]]
    rows = [
        tuple(cell(source, part, subject) for _, cell in columns)
        for part in source.record.parts
        for subject in own_subjects(part)
    ]
    return Table(
        tuple(title for title, _ in columns), tuple(rows[:MOST_ROWS]), left=2 if several else 1
    )


def notes(source: Source) -> tuple[str, ...]:
    """Return what the columns mean and what a reader has to know, a sentence each."""
    record = source.record
    against = (
        f"the baseline {source.baseline}" if source.compared else "stock, launched in turn with it"
    )
    found = [
        "pull: compressed layers and configuration, ~ where estimated; disk: the unpacked file "
        "system; cold start: from asking for a container to its first answer, median.",
        f"In brackets: the change against {against}; ? where the samples cannot tell it from none, "
        "⚠ where it is worse than the threshold.",
        *_load_note(record),
        f"GPU: bytes of GPU code, and where the image ran; {plain(record.environment.gpu, 120)}.",
    ]
    shown = sum(len(own_subjects(part)) for part in record.parts)
    if shown > MOST_ROWS:
        found.append(f"The first {MOST_ROWS} of {shown} images are shown; report.json has all.")
    if source.comparison is not None:
        found += [plain(note, 300) for note in source.comparison.notes[:10]]
        if source.comparison.baseline.note:
            found.append(plain(source.comparison.baseline.note, 300))
    return (*found, *(plain(note, 300) for note in record.notes[:10]))


def parity_of(part: RunRecord, subject: str) -> str:
    """Return the worst outcome of the parity gate, with how many models agreed."""
    gates = part.parity.get(subject) or (part.sizes[subject].gates if subject in part.sizes else [])
    if not gates:
        return figures.NOT_MEASURED
    worst = min((gate.outcome for gate in gates), key=_badness)
    models = [outcome for gate in gates for outcome in gate.models.values()]
    passed = sum(outcome == "passed" for outcome in models)
    shown = plain(worst, 30)
    return f"{shown} ({passed} of {len(models)} models)" if models else shown


def _badness(outcome: str) -> int:
    return _WORST.index(outcome) if outcome in _WORST else -1


def measure_changes(source: Source) -> Iterator[MeasureChange]:
    if source.comparison is not None:
        for subject in source.comparison.subjects:
            yield from subject.measures


def own_subjects(part: RunRecord) -> list[str]:
    return part.model_copy(update={"others": []}).subjects


# -- the table -----------------------------------------------------------------------------------

_Cell = Callable[[Source, RunRecord, str], str]


def _size_cell(measure: str) -> _Cell:
    def cell(source: Source, part: RunRecord, subject: str) -> str:
        size = part.sizes.get(subject)
        value = None if size is None else size.pull_bytes if measure == "pull" else size.disk_bytes
        if size is None or value is None:
            return figures.NOT_MEASURED
        about = "~" if measure == "pull" and size.pull_bytes_source == "estimated" else ""
        stock = part.sizes.get("stock")
        base = stock and (stock.pull_bytes if measure == "pull" else stock.disk_bytes)
        ratio = value / base if base and base > 0 and subject != "stock" else None
        shown = about + figures.size(value)
        return shown + _bracket(source, part, subject, (measure,), _plain_percent(ratio))

    return cell


def _plain_percent(ratio: float | None) -> str:
    return "" if ratio is None else figures.percent(ratio)


def _cold_start(source: Source, part: RunRecord, subject: str) -> str:
    """Return the median with cold page cache where it was measured, else as it was launched."""
    for measure, values in _starts(part, subject):
        found = summarize(values)
        if found is not None:
            stock = dict(_starts(part, "stock", subject)).get(measure, ())
            ratio = None if subject == "stock" else ratio_of_medians(values, stock)
            cache = measure.removeprefix("cold-start ").removesuffix("-cache")
            of = f" {cache} cache" if measure.startswith("cold-start") else ""
            shown = figures.number(found.median, 2, "s") + of
            return shown + _bracket(source, part, subject, (measure,), _judged(ratio))
    return figures.NOT_MEASURED


def _starts(part: RunRecord, subject: str, like: str = "") -> Iterator[tuple[str, list[float]]]:
    """Yield the ways in which a subject's start was measured, the best one first.

    With `like`, only launches that took turns with those of another subject.
    """
    launches = part.cold_starts.launches if part.cold_starts is not None else ()
    for cache in ("cold", "warm"):
        yield (
            f"cold-start {cache}-cache",
            [
                item.first_answer_s
                for item in launches
                if item.subject == subject and item.page_cache == cache
            ],
        )
    yield (
        "first-answer",
        [
            item.phases_s["first_answer"]
            for item in _launches(part, subject, like)
            if "first_answer" in item.phases_s
        ],
    )


def _launches(part: RunRecord, subject: str, like: str) -> list[Measurement]:
    """Return the launches of a subject, with `like` only those of the groups that it was in."""
    groups = {item.group for item in part.measurements if item.variant == (like or subject)}
    return [i for i in part.measurements if i.variant == subject and i.group in groups]


def _throughput(source: Source, part: RunRecord, subject: str) -> str:
    """Return the median rate of the load that every image had, the largest batch of it."""
    rates = _rates(part, subject)
    if not rates:
        return figures.NOT_MEASURED
    key = _shown_rate(part, subject)
    found = summarize(rates[key])
    if found is None:
        return figures.NOT_MEASURED
    stock = _rates(part, "stock", subject).get(key, ())
    ratio = None if subject == "stock" else ratio_of_medians(rates[key], stock)
    shown = figures.number(found.median, 1, "samples/s")
    return shown + _bracket(source, part, subject, (key,), _judged(ratio))


def _rates(part: RunRecord, subject: str, like: str = "") -> dict[str, list[float]]:
    """Return samples a second by the name of the measure; `like` as for `_starts`."""
    found: dict[str, list[float]] = {}
    groups = {run.group for run in part.http if run.subject == (like or subject)}
    for run in part.http:
        mine = run.subject == subject and run.group in groups
        if mine and run.kind == "closed" and run.seconds > 0:
            key = f"http-rate batch={run.batch_size} clients={run.concurrency}"
            found.setdefault(key, []).append(run.samples_per_second)
    for item in _launches(part, subject, like):
        for load in item.loads:
            if load.seconds > 0:
                key = f"rate batch={load.batch_size}"
                found.setdefault(key, []).append(load.samples_per_second)
    return found


def _shown_rate(part: RunRecord, subject: str) -> str:
    """Return the load with the best median of stock, or of the subject where stock had none."""
    rates = _rates(part, subject)
    beside = _rates(part, "stock")
    shared = {key: values for key, values in (beside or rates).items() if key in rates} or rates
    medians = {key: summarize(values) for key, values in shared.items()}
    return max(medians, key=lambda key: _median(medians[key]))


def _median(found: Summary | None) -> float:
    return found.median if found else 0.0


def _load_note(record: RunRecord) -> Iterator[str]:
    keys = {
        _shown_rate(part, subject)
        for part in record.parts
        for subject in own_subjects(part)
        if _rates(part, subject)
    }
    if keys:
        yield f"throughput: {plain(', '.join(sorted(keys)), 160)}, median over launches."


def _gpu(_: Source, part: RunRecord, subject: str) -> str:
    """Return the GPU code in an image, and the device it ran on."""
    size = part.sizes.get(subject)
    code = ""
    if size is not None and size.gpu is not None:
        code = f"{figures.size(size.gpu.total_bytes)} code"
    devices = _devices(part, subject)
    ran = ", ".join(sorted(plain(device, 40) for device in devices)) or figures.NOT_MEASURED
    return f"{code}; {ran}" if code else ran


def _devices(part: RunRecord, subject: str) -> set[str]:
    found = {item.device for item in part.measurements if item.variant == subject}
    found |= {run.device for run in part.http if run.subject == subject}
    found |= {run.device for run in part.in_process if run.subject == subject}
    starts = part.cold_starts
    if starts is not None and any(item.subject == subject for item in starts.launches):
        found.add(starts.device)
    return found


def _judged(ratio: Ratio | None) -> str:
    """Return a ratio to stock; ? where its interval holds 1."""
    if ratio is None:
        return ""
    return figures.percent(ratio.value) + (" ?" if ratio.low <= 1 <= ratio.high else "")


def _bracket(
    source: Source, part: RunRecord, subject: str, measures: Sequence[str], beside_stock: str
) -> str:
    """Return the change of a measure in brackets: against the baseline, else against stock."""
    if not source.compared:
        return f" ({beside_stock})" if beside_stock else ""
    for item in measure_changes(source):
        mine = item.subject == subject and item.machine in ("", part.environment.machine_key)
        if mine and item.measure in measures:
            return f" ({delta(item)})"
    return ""


def delta(item: MeasureChange) -> str:
    """Return a change with unit, percentage and what is thought of it."""
    if item.baseline is None or item.delta is None:
        return "new"
    if item.delta == 0:
        return "±0"
    ratio = item.adjusted if item.basis == "stock" else item.ratio
    shown = figures.change(item.delta, item.unit)
    share = "" if ratio is None else f", {figures.percent(ratio.value)}"
    if item.basis == "stock":
        share += " beside stock"
    mark = {"worse": " ⚠", "inconclusive": " ?", "not compared": ", not judged"}
    return f"{shown}{share}{mark.get(item.verdict, '')}"


def _subject(_: Source, __: RunRecord, subject: str) -> str:
    return plain(subject, 40)


_MACHINE: tuple[str, _Cell] = (
    "machine",
    lambda _, part, __: plain(part.environment.machine_key, 40),
)
_COLUMNS: list[tuple[str, _Cell]] = [
    ("image", _subject),
    ("pull", _size_cell("pull")),
    ("disk", _size_cell("disk")),
    ("cold start", _cold_start),
    ("throughput", _throughput),
    ("GPU", _gpu),
    ("parity", lambda _, part, subject: parity_of(part, subject)),
]
