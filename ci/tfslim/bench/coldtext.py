"""Cold starts as a person reads them: one table for each state of the machine, one for pulls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tfslim.bench.registry import pull_seconds
from tfslim.bench.results import COLD_START_PHASES, ColdLaunch, ColdStarts, Pull
from tfslim.bench.stats import MIN_LAUNCHES, Ratio, ratio_of_medians, summarize
from tfslim.ui import human_bytes

__all__ = ["markdown", "tables", "terminal"]

_NETWORKS = (("100 Mbit/s", 1e8), ("1 Gbit/s", 1e9), ("10 Gbit/s", 1e10))
_MISSING = "·"
_EXPLAINED = (
    "Seconds, medians of launches that took turns; × is the ratio of medians against the first "
    "row, with its 95 % bootstrap interval over launches."
)
_PULLS_EXPLAINED = (
    "Seconds. Measured on loopback: pull (all layers fetched) and unpack, one after the other. The "
    "columns at the right are computed from the bytes and the measured unpacking: from perfect "
    "overlap of the two to none."
)


@dataclass(frozen=True)
class TextTable:
    """A table as text: a title, what is to be known first, headings, and cells by row."""

    title: str
    explained: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: ColdStarts) -> tuple[TextTable, ...]:
    """Return every table of a result that has anything in it."""
    found = [_launches(state, launches) for state, launches in _by_state(result.launches)]
    if result.pulls:
        found.append(_pulls(result.pulls))
    return tuple(found)


def terminal(result: ColdStarts) -> Group:
    """Return a result for a terminal."""
    parts: list[Table | Text] = []
    for table in tables(result):
        shown = Table(title=table.title, title_justify="left", title_style="bold", box=None)
        for number, heading in enumerate(table.head):
            if number:
                shown.add_column("\n".join(heading.rsplit(" ", 1)), justify="right", no_wrap=True)
            else:
                shown.add_column(heading, overflow="fold", min_width=12)
        for row in table.rows:
            shown.add_row(*map(Text, row))
        parts += [shown, Text(f"{table.explained}\n", style="dim")]
    parts.append(Text("\n".join(f"· {note}" for note in _notes(result)), style="dim"))
    return Group(*parts)


def markdown(result: ColdStarts) -> str:
    """Return a result as Markdown."""
    lines = ["# Cold start by phase", ""]
    for table in tables(result):
        lines += [f"## {table.title}", "", table.explained, "", _row(table.head)]
        lines.append(_row(["---", *["---:"] * (len(table.head) - 1)]))
        lines += [_row(cells) for cells in table.rows]
        lines.append("")
    lines += [f"- {note}" for note in _notes(result)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _notes(result: ColdStarts) -> Iterator[str]:
    yield f"device: {result.device}"
    yield f"cold page cache: {result.cold_cache}"
    yield from result.notes
    counts = Counter((x.subject, x.page_cache, x.jit_cache) for x in result.launches)
    if min(counts.values(), default=MIN_LAUNCHES) < MIN_LAUNCHES:
        yield f"fewer than {MIN_LAUNCHES} launches a side: the intervals are too narrow"
    if not result.pulls:
        yield "pull and unpack: not measured"


def _by_state(launches: Sequence[ColdLaunch]) -> Iterator[tuple[str, list[ColdLaunch]]]:
    """Yield launches by the state of the machine, with its name."""
    states = dict.fromkeys((one.page_cache, one.jit_cache) for one in launches)
    for page, jit in states:
        name = f"Page cache {page}" + ("" if jit == "none" else f", CUDA's JIT cache {jit}")
        yield (
            name,
            [one for one in launches if (one.page_cache, one.jit_cache) == (page, jit)],
        )


def _launches(state: str, launches: Sequence[ColdLaunch]) -> TextTable:
    """Return the table of one state: subject by phase."""
    by_subject: dict[str, list[ColdLaunch]] = {}
    for one in launches:
        by_subject.setdefault(one.subject, []).append(one)
    used = [name for name in COLD_START_PHASES if any(name in one.phases_s for one in launches)]
    first = next(iter(by_subject.values()))
    rows = [_launch_row(name, mine, first, used) for name, mine in by_subject.items()]
    counts = sorted({len(mine) for mine in by_subject.values()})
    n = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    phases = tuple(name.replace("_", " ") for name in used)
    head = ("image", *phases, "to first answer", "×", "resident", "×", "memory", "read")
    return TextTable(f"{state} (n = {n})", _EXPLAINED, head, tuple(rows))


def _launch_row(
    name: str, mine: list[ColdLaunch], first: list[ColdLaunch], used: Sequence[str]
) -> tuple[str, ...]:
    same = mine is first
    phases = [_seconds([x.phases_s[key] for x in mine if key in x.phases_s]) for key in used]
    answers = [one.first_answer_s for one in mine]
    ratio = None if same else ratio_of_medians(answers, [one.first_answer_s for one in first])
    resident = None if same else ratio_of_medians(_rss(mine), _rss(first))
    return (
        name,
        *phases,
        _seconds(answers),
        "1" if same else _interval(ratio),
        _bytes(mine, lambda one: one.rss_bytes),
        "1" if same else _interval(resident, interval=False),
        _bytes(mine, lambda one: one.memory_bytes),
        _bytes(mine, lambda one: one.read_bytes),
    )


def _pulls(pulls: Sequence[Pull]) -> TextTable:
    """Return the table of pulls; several of one image by their median."""
    by_subject: dict[str, list[Pull]] = {}
    for one in pulls:
        by_subject.setdefault(one.subject, []).append(one)
    head = ("image", "bytes", "layers", "pull", "unpack", *(name for name, _ in _NETWORKS))
    rows = [_pull_row(name, mine) for name, mine in by_subject.items()]
    n = "–".join(dict.fromkeys(str(len(mine)) for mine in by_subject.values()))
    return TextTable(f"Pull from a registry (n = {n})", _PULLS_EXPLAINED, head, tuple(rows))


def _pull_row(name: str, mine: Sequence[Pull]) -> tuple[str, ...]:
    typical = sorted(mine, key=lambda one: one.pull_s + one.unpack_s)[len(mine) // 2]
    spans = [pull_seconds(typical, rate) for _, rate in _NETWORKS]
    return (
        name,
        human_bytes(typical.pull_bytes),
        str(typical.layers),
        f"{typical.pull_s:.1f}",
        f"{typical.unpack_s:.1f}",
        *(f"{low:.0f}–{high:.0f}" for low, high in spans),
    )


def _rss(launches: Sequence[ColdLaunch]) -> list[float]:
    return [float(one.rss_bytes) for one in launches if one.rss_bytes is not None]


def _seconds(values: Sequence[float]) -> str:
    found = summarize(values)
    return _MISSING if found is None else f"{found.median:.3f}"


def _bytes(launches: Sequence[ColdLaunch], of: Callable[[ColdLaunch], int | None]) -> str:
    found = summarize([float(value) for one in launches if (value := of(one)) is not None])
    return _MISSING if found is None else human_bytes(found.median)


def _interval(ratio: Ratio | None, *, interval: bool = True) -> str:
    if ratio is None:
        return _MISSING
    return f"{ratio.value:.2f}" + (f" ({ratio.low:.2f}–{ratio.high:.2f})" if interval else "")
