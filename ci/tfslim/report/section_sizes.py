"""Why images are as big as they are: causes, packages, libraries, rules, layers."""

from __future__ import annotations

from collections.abc import Iterator

from tfslim.images.inspection import Inspection
from tfslim.report import charts, figures
from tfslim.report.blocks import Block, Pairs, Paragraph, Table, table
from tfslim.report.causes import CAUSES, by_cause, is_library, library_name
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord

__all__ = ["layers", "removals", "sizes"]

_TOP = 12  # rows of a table of the largest things
_LAYERS = 30


def sizes(part: RunRecord) -> Iterator[Block]:
    """Yield what takes the space: by cause, against stock, then image by image."""
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
    yield from table(
        ("disk by cause", *charts.names_of(name for name, _ in shown).values()),
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
    yield from table(
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
    yield from table(
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
    return f"{count / whole * 100:.0f} %" if 0 <= count <= whole and whole > 0 else figures.MISSING


def removals(part: RunRecord) -> Iterator[Block]:
    """Yield what each rule of the slim engine took out."""
    for subject, removed in list(part.removals.items())[:_TOP]:
        if removed:
            total = sum(max(item.removed_bytes, 0) for item in removed)
            yield Paragraph(
                f"{figures.size(total)} by {len(removed)} rules; docs/rules.md has each one's "
                "reason and risk.",
                strong=plain(subject, 60),
            )
            yield from table(
                ("rule", "removed", "pieces and files"),
                (
                    (plain(i.rule, 60), figures.size(i.removed_bytes), figures.count(i.count))
                    for i in sorted(removed, key=lambda i: -i.removed_bytes)[:40]
                ),
            )


def layers(part: RunRecord) -> Iterator[Block]:
    """Yield the layers of each image."""
    for subject, size in list(part.sizes.items())[:_TOP]:
        hidden = figures.size(size.waste.wasted_bytes)
        yield Paragraph(
            f"{len(size.layers)} layers; {hidden} of them hidden by later ones.",
            strong=plain(subject, 60),
        )
        yield from table(
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
