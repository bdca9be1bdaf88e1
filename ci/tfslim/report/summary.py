"""The first screen of a report: the verdict in a sentence, and one row for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tfslim.bench.stats import MIN_LAUNCHES, Ratio, ratio_of_medians
from tfslim.images.inspection import Inspection
from tfslim.report import figures
from tfslim.report.blocks import Table
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import Comparison, MeasureChange
from tfslim.report.compare import parity_of as worst_outcome
from tfslim.report.contents import grouped
from tfslim.report.inert import plain
from tfslim.report.measures import YARDSTICK, Measured, measures
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
# How a start was measured, the best way first, and rates that a table may show.
_STARTS = ("cold-start cold-cache", "cold-start warm-cache", "first-answer")
_RATES = ("http-rate ", "rate ")
_CACHES = {
    "cold-cache": "cold cache",
    "warm-cache": "warm cache",
    "cold-jit": "cold JIT",
    "warm-jit": "warm JIT",
}
_BESIDE_STOCK = (
    " Beside stock: the change of the ratio to stock of the same run, which a machine that is"
    " busier today leaves alone."
)


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
        if self.comparison is None:
            return ""
        return plain(self.comparison.baseline.source.removesuffix("/report.json"), 60)


@dataclass(frozen=True)
class _Row:
    """What the cells of one row are made of; `measured` is of this subject on this machine."""

    source: Source
    part: RunRecord
    subject: str
    measured: tuple[Measured, ...]
    rate: str

    @property
    def size(self) -> Inspection | None:
        """What the image is made of, where that is known."""
        return self.part.sizes.get(self.subject)

    def named(self, name: str) -> Measured | None:
        """Return a measure by its name, with any CUDA cache."""
        return next((m for m in self.measured if f"{m.measure} ".startswith(f"{name} ")), None)


def summary_table(source: Source) -> Table:
    """Return one row for each image, and for each machine where there are several."""
    several = len({part.environment.machine_key for part in source.record.parts}) > 1
    columns = [*_COLUMNS[:1], *([_MACHINE] if several else []), *_COLUMNS[1:]]
    rows = [tuple(cell(row) for _, cell in columns) for row in islice(_rows(source), MOST_ROWS)]
    return Table(tuple(title for title, _ in columns), tuple(rows), left=2 if several else 1)


def _rows(source: Source) -> Iterator[_Row]:
    for part in source.record.parts:
        found = measures(part.model_copy(update={"others": []}))
        rate = _shown_rate(found)
        by_subject = grouped(found, lambda item: item.subject)
        for subject in own_subjects(part):
            yield _Row(source, part, subject, tuple(by_subject.get(subject, ())), rate)


def _shown_rate(found: Sequence[Measured]) -> str:
    """Return the load to show: the best rate among those that most images have."""
    rates = next(filter(None, ([i for i in found if i.measure.startswith(k)] for k in _RATES)), [])
    have = {name: [i for i in rates if i.measure == name] for name in {i.measure for i in rates}}
    return max(
        sorted(have),
        key=lambda name: (len(have[name]), max(item.median for item in have[name])),
        default="",
    )


def notes(source: Source) -> tuple[str, ...]:
    """Return what the columns mean and what a reader has to know, a sentence each."""
    record = source.record
    against = (
        f"the baseline {source.baseline}" if source.compared else "stock, launched in turn with it"
    )
    images = sum(len(own_subjects(part)) for part in record.parts)
    found = [
        "pull: compressed layers and configuration, ~ where estimated; disk: the unpacked file "
        "system; cold start: from asking for a container to its first answer, median; page cache "
        "as it was where nothing else is said.",
        f"In brackets: the change against {against}; ? where the samples cannot tell it from none, "
        "⚠ where it is worse than its threshold." + _BESIDE_STOCK * source.compared,
    ]
    rates = sorted({row.rate for row in islice(_rows(source), MOST_ROWS) if row.rate})
    if rates:
        found.append(f"throughput: {plain(', '.join(rates), 160)}, median over launches.")
    found.append(
        f"GPU: bytes of GPU code, and where the image ran; {plain(record.environment.gpu, 120)}."
    )
    if images > MOST_ROWS:
        found.append(f"The first {MOST_ROWS} of {images} images; report.json has all.")
    said = [*(source.comparison.notes if source.comparison else ()), *record.notes]
    return (*found, *(plain(note, 300) for note in dict.fromkeys(said[:20]) if note))


def parity_of(part: RunRecord, subject: str) -> str:
    """Return the worst outcome of the parity gate, with how many models agreed."""
    outcome = worst_outcome(part, subject)
    models = [found for gate in part.parity.get(subject, []) for found in gate.models.values()]
    passed = sum(found == "passed" for found in models)
    return f"{outcome} ({passed} of {len(models)} models)" if models else outcome


def measure_changes(source: Source) -> Iterator[MeasureChange]:
    """Yield every measure that was put beside the baseline."""
    if source.comparison is not None:
        for subject in source.comparison.subjects:
            yield from subject.measures


def own_subjects(part: RunRecord) -> list[str]:
    """Return what was measured on one machine, without the parts made elsewhere."""
    return part.model_copy(update={"others": []}).subjects


def _pull(row: _Row) -> str:
    estimated = row.size is not None and row.size.pull_bytes_source == "estimated"
    shown = _size(row, "pull")
    return f"~{shown}" if estimated and row.named("pull") else shown


def _disk(row: _Row) -> str:
    return _size(row, "disk")


def _size(row: _Row, measure: str) -> str:
    item = row.named(measure)
    if item is None:
        return figures.NOT_MEASURED
    stock = row.part.sizes.get(YARDSTICK)
    base = None if stock is None else stock.pull_bytes if measure == "pull" else stock.disk_bytes
    beside = ""
    if base and base > 0 and row.subject != YARDSTICK:
        beside = figures.percent(item.median / base)
    return figures.size(item.median) + _bracket(row, item, beside)


def _cold_start(row: _Row) -> str:
    """Return the median with cold page cache where it was measured, else as it was launched."""
    item = next(filter(None, map(row.named, _STARTS)), None)
    if item is None:
        return figures.NOT_MEASURED
    caches = [_CACHES.get(word, "") for word in item.measure.split()]
    shown = ", ".join([figures.quantity(item.median, "seconds"), *filter(None, caches)])
    return shown + _bracket(row, item, _beside_stock(item))


def _throughput(row: _Row) -> str:
    item = row.named(row.rate) if row.rate else None
    if item is None:
        return figures.NOT_MEASURED
    shown = figures.rate(item.median)
    return shown + _bracket(row, item, _beside_stock(item))


def _gpu(row: _Row) -> str:
    """Return the GPU code in an image, and the device it ran on."""
    devices = sorted({plain(item.device, 40) for item in row.measured if item.device})
    ran = f"ran on {', '.join(devices)}" if devices else figures.NOT_MEASURED
    if row.size is None or row.size.gpu is None:
        return ran
    return f"{figures.size(row.size.gpu.total_bytes)} code; {ran}"


def _beside_stock(item: Measured) -> str:
    """Return the ratio to stock, which took turns with it.

    ? stands where its interval holds 1, and where there are too few launches for an interval.
    """
    ratio: Ratio | None = ratio_of_medians(item.values, item.yardstick)
    if ratio is None:
        return ""
    few = min(len(item.values), len(item.yardstick)) < MIN_LAUNCHES
    unsure = few or ratio.low <= 1 <= ratio.high
    return figures.percent(ratio.value) + (" ?" if unsure else "")


def _bracket(row: _Row, item: Measured, beside_stock: str) -> str:
    """Return the change of a measure in brackets: against the baseline, else against stock."""
    if not row.source.compared:
        return f" ({beside_stock})" if beside_stock else ""
    for changed in measure_changes(row.source):
        same = (changed.subject, changed.measure, changed.machine, changed.device)
        if same == item.key:
            mark = {"worse": " ⚠", "inconclusive": " ?", "not compared": ", not judged"}
            return f" ({delta(changed)}{mark.get(changed.verdict, '')})"
    return ""


def delta(item: MeasureChange) -> str:
    """Return a change with its unit, and the percentage that it was judged by."""
    if item.baseline is None or item.delta is None:
        return "new"
    if item.delta == 0:
        return "±0"
    ratio = item.adjusted if item.basis == "stock" else item.ratio
    shown = figures.change(item.delta, item.unit)
    share = "" if ratio is None else f", {figures.percent(ratio.value)}"
    return shown + share + (" beside stock" if item.basis == "stock" else "")


_Cell = Callable[[_Row], str]
_MACHINE: tuple[str, _Cell] = (
    "machine",
    lambda row: plain(row.part.environment.machine_key, 40),
)
_COLUMNS: list[tuple[str, _Cell]] = [
    ("image", lambda row: plain(row.subject, 40)),
    ("pull", _pull),
    ("disk", _disk),
    ("cold start", _cold_start),
    ("throughput", _throughput),
    ("GPU", _gpu),
    ("parity", lambda row: parity_of(row.part, row.subject)),
]
