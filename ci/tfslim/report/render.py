"""What is shown of a run: one table and its notes, in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfslim.bench.run import Measurement
from tfslim.bench.stats import Ratio, percentile, ratio_of_medians, summarize
from tfslim.config import VariantName
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import Comparison
from tfslim.report.history import History
from tfslim.report.record import RunRecord, broken_budgets
from tfslim.ui import human_bytes

__all__ = ["markdown", "terminal", "write_report"]

_MISSING = "–"
_LARGEST = 12


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[RunRecord, VariantName], str]


def terminal(record: RunRecord) -> RenderableType:
    """Return the table for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(_COLUMNS):
        table.add_column(column.title, justify="left" if number == 0 else "right", no_wrap=True)
    for row in _rows(record):
        table.add_row(*row)
    return Group(table, *(Text(line, style="dim") for line in _notes(record)))


def markdown(record: RunRecord) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    parts = [
        "# tfslim report",
        _md_table([column.title for column in _COLUMNS], _rows(record)),
        "\n".join(f"- {_escape(line)}" for line in _notes(record)),
        _details("Cold start by phase", _phase_table(record)),
        _details("Latency over HTTP", _latency_table(record)),
        _details("What the images are made of", _package_tables(record)),
        _details("Layers", _layer_tables(record)),
        _details("Bases", _base_table(record)),
        _details("Environment", _environment_table(record)),
    ]
    return "\n\n".join(parts) + "\n"


def write_report(
    record: RunRecord,
    comparison: Comparison | None,
    folder: Path,
    *,
    budgets: Sequence[BudgetResult] = (),
    history: History | None = None,
    marker: str = "report",
) -> list[Path]:
    """Write the report of a run and return the files written, in the order to name them.

    `report.md` for a comment, `report.html` for a browser, `report.json` for machines (the record,
    what was compared, and the budgets), `plots/*.svg` and `plots/*.png`. Files are replaced whole,
    never left half-written.

    Args:
        record: The run.
        comparison: The run beside its baseline; None without one.
        folder: Where to write; made where it is missing.
        budgets: What the budgets say.
        history: Earlier runs, for the plot over runs; None leaves it out.
        marker: Which report this is among several in one conversation: the first line of the
            Markdown is `<!-- tfslim-report:MARKER -->`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (
        ("report.md", markdown(record)),
        ("report.json", record.model_dump_json(indent=1)),
    ):
        aside = folder / f".{name}.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
        written.append(folder / name)
    return written


def _rows(record: RunRecord) -> list[list[str]]:
    return [
        [column.cell(record, image.build.variant) for column in _COLUMNS] for image in record.images
    ]


def _launches(record: RunRecord, variant: VariantName) -> list[Measurement]:
    return [item for item in record.measurements if item.variant == variant]


def _pull(record: RunRecord, variant: VariantName) -> str:
    size = record.sizes[variant]
    if size.pull_bytes is None:
        return "not measured"
    about = "~" if size.pull_bytes_source == "estimated" else ""
    return about + human_bytes(size.pull_bytes)


def _disk(record: RunRecord, variant: VariantName) -> str:
    return human_bytes(record.sizes[variant].disk_bytes)


def _wasted(record: RunRecord, variant: VariantName) -> str:
    return human_bytes(record.sizes[variant].waste.wasted_bytes)


def _build(record: RunRecord, variant: VariantName) -> str:
    """Seconds of the build, and of the same build at once again."""
    first = next(image for image in record.images if image.build.variant == variant)
    again = next((i for i in record.rebuilds if i.build.variant == variant), None)
    cold = f"{first.seconds:.0f} s" if first.cached_steps < first.steps else "cached"
    return f"{cold} / {again.seconds:.1f} s" if again else cold


def _first_answer(record: RunRecord, variant: VariantName) -> str:
    found = summarize([item.phases_s["first_answer"] for item in _launches(record, variant)])
    return f"{found.median:.2f} s" if found else "not measured"


def _against_stock(record: RunRecord, variant: VariantName) -> str:
    if variant == "stock":
        return "1"
    ratio = _ratio(record, variant, lambda item: item.phases_s["first_answer"])
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else _MISSING


def _ratio(
    record: RunRecord, variant: VariantName, value: Callable[[Measurement], float]
) -> Ratio | None:
    """Compare a variant with stock, among launches that took turns only."""
    launches = _launches(record, variant)
    groups = {item.group for item in launches}
    stock = [item for item in _launches(record, "stock") if item.group in groups]
    return ratio_of_medians([value(i) for i in launches], [value(i) for i in stock])


def _rates(record: RunRecord, variant: VariantName) -> str:
    """Samples per second, one median per batch size."""
    sizes = {load.batch_size for item in _launches(record, variant) for load in item.loads}
    medians = []
    for size in sorted(sizes):
        found = summarize(
            [
                load.samples_per_second
                for item in _launches(record, variant)
                for load in item.loads
                if load.batch_size == size
            ]
        )
        medians.append(f"{found.median:.1f}" if found else _MISSING)
    return " / ".join(medians) or "not measured"


def _memory(record: RunRecord, variant: VariantName) -> str:
    known = [i.memory_bytes for i in _launches(record, variant) if i.memory_bytes is not None]
    found = summarize(known)
    return human_bytes(found.median) if found else "not measured"


def _device(record: RunRecord, variant: VariantName) -> str:
    return ", ".join(sorted({item.device for item in _launches(record, variant)})) or _MISSING


_COLUMNS = [
    _Column("variant", lambda _, variant: variant),
    _Column("pull", _pull),
    _Column("disk", _disk),
    _Column("wasted", _wasted),
    _Column("build / again", _build),
    _Column("first answer", _first_answer),
    _Column("× stock [95 %]", _against_stock),
    _Column("samples/s", _rates),
    _Column("memory", _memory),
    _Column("device", _device),
]


def _notes(record: RunRecord) -> list[str]:
    batches = sorted({load.batch_size for item in record.measurements for load in item.loads})
    launches = max((item.round + 1 for item in record.measurements), default=0)
    groups = len({item.group for item in record.measurements})
    notes = [
        f"model {record.model.name} ({record.model.source}, "
        f"{human_bytes(record.model.disk_bytes)}, {record.model.mode}).",
        "pull: compressed layers and configuration; disk: the unpacked file system; wasted: bytes "
        "in layers that later layers hide.",
        f"first answer: seconds from the container's creation, median of {launches} launches "
        "taking turns; × stock: ratio of medians with a bootstrap interval.",
        f"samples/s: one client over HTTP, batch {' / '.join(map(str, batches))}; memory: after "
        "the second answer.",
        f"GPU columns: {record.environment.gpu}",
    ]
    if groups > 1:
        notes.append(
            f"The disk holds not all images at once: they were measured in {groups} groups, each "
            "with stock; ratios compare within a group."
        )
    if record.model.dropped:
        dropped = ", ".join(f"{n} ({human_bytes(b)})" for n, b in record.model.dropped.items())
        notes.append(f"one model format is kept; left out: {dropped}.")
    return notes + [
        f"BUDGET BROKEN: {item.variant}: {item.measure} {human_bytes(item.actual_bytes)} is over "
        f"{human_bytes(item.limit_bytes)}"
        for item in broken_budgets(record)
    ]


_PHASES = ["created", "started", "alive", "ready", "first_answer", "second_answer"]


def _phase_table(record: RunRecord) -> str:
    rows = []
    for image in record.images:
        launches = _launches(record, image.build.variant)
        cells = []
        for phase in _PHASES:
            found = summarize([item.phases_s[phase] for item in launches])
            cells.append(
                f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})" if found else _MISSING
            )
        rows.append([image.build.variant, *cells])
    lead = "Seconds since the container was asked for: median (smallest–largest)."
    return lead + "\n\n" + _md_table(["variant", *(p.replace("_", " ") for p in _PHASES)], rows)


def _latency_table(record: RunRecord) -> str:
    rows = []
    for image in record.images:
        loads = [load for item in _launches(record, image.build.variant) for load in item.loads]
        for size in sorted({load.batch_size for load in loads}):
            values = [s for load in loads if load.batch_size == size for s in load.latencies_s]
            shares = [percentile(values, share) for share in (0.5, 0.9, 0.99)]
            cells = [_MISSING if share is None else f"{share * 1000:.1f}" for share in shares]
            rows.append([image.build.variant, str(size), str(len(values)), *cells])
    lead = (
        "Milliseconds, all launches together. A percentile is given where at least ten requests "
        "lie beyond it."
    )
    header = ["variant", "batch", "requests", "p50", "p90", "p99"]
    return lead + "\n\n" + _md_table(header, rows)


def _package_tables(record: RunRecord) -> str:
    parts = []
    for variant, size in record.sizes.items():
        packages = sorted(size.packages, key=lambda p: -p.disk_bytes)[:_LARGEST]
        rows = [[p.kind, p.name, p.version, human_bytes(p.disk_bytes)] for p in packages]
        kinds = sorted(size.kinds, key=lambda k: -k.disk_bytes)[:_LARGEST]
        by_kind = ", ".join(f"{kind.kind} {human_bytes(kind.disk_bytes)}" for kind in kinds)
        parts.append(f"**{variant}**: {by_kind}.")
        if size.gpu is not None:
            archs = sorted(size.gpu.by_arch_bytes.items(), key=lambda item: -item[1])[:_LARGEST]
            by_arch = ", ".join(f"{arch} {human_bytes(count)}" for arch, count in archs)
            parts.append(f"GPU code, as stored: {by_arch or 'none'}.")
        parts.append(_md_table(["kind", "package", "version", "disk"], rows))
    return "\n\n".join(parts)


def _layer_tables(record: RunRecord) -> str:
    parts = []
    for variant, size in record.sizes.items():
        rows = [
            [
                layer.digest.removeprefix("sha256:")[:12],
                human_bytes(layer.pull_bytes) if layer.pull_bytes is not None else _MISSING,
                human_bytes(layer.unpacked_bytes),
                layer.created_by[:80],
            ]
            for layer in size.layers
        ]
        parts.append(f"**{variant}**\n\n{_md_table(['layer', 'pull', 'disk', 'made by'], rows)}")
    return "\n\n".join(parts)


def _base_table(record: RunRecord) -> str:
    bases = {name: base for image in record.images for name, base in image.bases.items()}
    rows = [[base.name, base.origin, base.pin] for base in bases.values()]
    return _md_table(["FROM", "origin", "pin"], rows)


def _environment_table(record: RunRecord) -> str:
    env = record.environment
    rows = [
        ["tfslim", env.tfslim],
        ["processor", f"{env.cpu}, {env.cpus} usable"],
        ["memory", human_bytes(env.memory_bytes)],
        ["kernel", f"{env.kernel} {env.machine}"],
        ["engine", ", ".join(f"{name} {version}" for name, version in env.engine.items())],
        ["builder", env.builder],
        ["GPU", env.gpu],
        ["started", f"{record.started:%Y-%m-%d %H:%M} UTC"],
    ]
    return _md_table(["", ""], rows)


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    cells = [[cell if cell.startswith("---") else _escape(cell) for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _escape(text: str) -> str:
    """Make text inert in a Markdown table cell, whatever an image's metadata says."""
    for old, new in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "'"), ("\n", " ")):
        text = text.replace(old, new)
    return text
