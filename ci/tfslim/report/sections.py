"""The folded parts of a report, in the order of reading and with their rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tfslim.report import section_changes, section_origins, section_sizes, section_times
from tfslim.report.blocks import Block, Paragraph, Section
from tfslim.report.inert import plain
from tfslim.report.record import RunRecord
from tfslim.report.summary import Source

__all__ = ["make_sections"]


def make_sections(source: Source) -> tuple[Section, ...]:
    """Return the sections that have something to say, in the order of reading."""
    record = source.record
    # Rank: what a comment can do without goes first, the highest rank before all.
    found = (
        ("budgets", "Budgets", section_changes.budgets(source.budgets), 2),
        ("changes", "What changed against the baseline", section_changes.changes(source), 3),
        ("sizes", "Why the images are this big", _parts(record, section_sizes.sizes), 4),
        ("removals", "What was removed, by rule", _parts(record, section_sizes.removals), 5),
        ("cold-start", "Cold start by phase", _parts(record, section_times.cold_start), 1),
        ("latency", "Throughput and latency", _parts(record, section_times.loads), 6),
        ("parity", "Same answers?", _parts(record, section_origins.parity), 7),
        ("builds", "Builds, bases and pins", _parts(record, section_origins.builds), 8),
        ("layers", "Layers", _parts(record, section_sizes.layers), 9),
        ("environment", "Environment, and how to do it again",
         section_origins.environment(source), 0),
    )  # fmt: skip
    made = [(key, title, tuple(blocks), rank) for key, title, blocks, rank in found]
    return tuple(Section(key, title, blocks, rank) for key, title, blocks, rank in made if blocks)


def _parts(record: RunRecord, make: Callable[[RunRecord], Iterator[Block]]) -> Iterator[Block]:
    """Yield the blocks of each machine's part, under its name where there are several."""
    for part in record.parts:
        blocks = list(make(part))
        if blocks and len(record.parts) > 1:
            yield Paragraph("", strong=f"On {plain(part.environment.machine_key, 80)}")
        yield from blocks
