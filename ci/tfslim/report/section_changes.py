"""What changed against the baseline, and what the budgets say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfslim.bench.stats import Ratio
from tfslim.report import figures
from tfslim.report.blocks import Block, Paragraph, table
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import LayerChange, MeasureChange, SubjectChange
from tfslim.report.inert import plain
from tfslim.report.measures import YARDSTICK
from tfslim.report.summary import Source

__all__ = ["budgets", "changes"]

_TOP = 12  # rows of a table of the largest changes
_LAYERS = 30


def changes(source: Source) -> Iterator[Block]:
    """Yield what changed, image by image: measures, layers, packages, libraries, rules."""
    if source.comparison is None or not source.compared:
        return
    base = source.comparison.baseline
    when = f", made {base.started:%Y-%m-%d %H:%M} UTC" if base.started else ""
    commit = f", commit {plain(base.commit)[:12]}" if base.commit else ""
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
    yield from table(
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
            if _worth_a_row(m)
        ),
    )
    rest = [plain(m.measure, 60) for m in subject.measures[:40] if not _worth_a_row(m)]
    if rest:
        yield Paragraph(f"The same, or only there to compare with: {', '.join(rest)}.")
    layers = [layer for layer in subject.layers if layer.state != "same"]
    same = len(subject.layers) - len(layers)
    if subject.layers:
        yield Paragraph(f"Layers: {same} of {len(subject.layers)} are the same.")
    yield from table(
        ("layer", "state", "pull", "change", "disk", "change"),
        (_layer_change(layer) for layer in layers[:_LAYERS]),
        left=2,
    )
    yield from table(
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
    yield from table(
        ("library", "state", "disk", "change"),
        (
            (plain(item.name, 60), item.state, figures.size(item.disk_bytes),
             figures.change(item.disk_bytes - item.baseline_disk_bytes, "bytes"))
            for item in subject.libraries[:_TOP]
        ),
        left=2,
    )  # fmt: skip
    yield from table(
        ("rule", "state", "removes", "change"),
        (
            (plain(rule.rule, 60), rule.state, figures.size(rule.removed_bytes),
             figures.change(rule.removed_bytes - rule.baseline_removed_bytes, "bytes"))
            for rule in subject.removals[:_TOP]
        ),
        left=2,
    )  # fmt: skip


def _worth_a_row(item: MeasureChange) -> bool:
    """True for what changed, may have, or cannot be told; not for stock, the yardstick itself."""
    if item.verdict == "not compared":
        return item.subject != YARDSTICK
    return item.verdict != "same"


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
    return value if basis == "size" else f"{value} [{low}–{high}]"


def budgets(results: Sequence[BudgetResult]) -> Iterator[Block]:
    """Yield the limits and what was measured against them."""
    yield from table(
        ("image", "budget", "measured", "limit", "state"),
        (
            (
                plain(item.subject, 60),
                plain(item.budget, 60),
                figures.quantity(item.actual, item.unit),
                figures.quantity(item.limit, item.unit),
                plain(f"{item.state}: {item.why}" if item.why else item.state, 160),
            )
            for item in results[:60]
        ),
        left=2,
    )
