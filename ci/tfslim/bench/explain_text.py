"""An explained start as a person reads it in a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tfslim.bench.explain import Explanation
from tfslim.bench.stats import Ratio
from tfslim.ui import human_bytes

__all__ = ["terminal"]

_SHOWN = 12
_STYLES = {"used": "green", "not used": "yellow", "in part": "yellow"}


def terminal(found: Explanation) -> Group:
    """Return where the time goes, what was read and looked up, and the levers."""
    return Group(_head(found), _imports(found), _counts(found), _levers(found), _notes(found))


def _head(found: Explanation) -> Text:
    text = Text()
    text.append(f"{found.image}\n", "bold")
    version = found.interpreter["version"]
    text.append(f"Python {version} ({found.interpreter['executable']}), running: {found.code}\n")
    n = found.cpu_s.n
    parts = [f"{phase} {one.median:.3f}" for phase, one in found.phases_s.items()]
    text.append(f"seconds, warm (medians of {n}): {', '.join(parts)}; processor ")
    text.append(f"{found.cpu_s.median:.2f}\n")
    if found.cold:
        start = found.cold.start_s
        text.append(
            f"seconds, cold (median of {start.n}): {start.median:.2f} to the end of the code; "
            f"{human_bytes(found.cold.read_bytes)} read from storage, "
            f"{found.cold.major_faults:,.0f} page faults waited for it\n"
        )
    return text


def _imports(found: Explanation) -> Table:
    table = Table(
        title=f"slowest of {found.imports['modules']} imports (seconds)",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    for heading in ("by itself", "", "with what it imports", ""):
        table.add_column(heading, justify="left" if heading else "right")
    alone, whole = found.imports["self"][:_SHOWN], found.imports["cumulative"][:_SHOWN]
    for one, other in zip(alone, whole, strict=False):
        cells = (one["name"], f"{one['seconds']:.3f}", other["name"], f"{other['seconds']:.3f}")
        table.add_row(*cells)
    return table


def _counts(found: Explanation) -> Text:
    counts, looked = found.counts, found.relocations
    opened = sorted(counts["opened"].items(), key=lambda item: -item[1])
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts["bytecode"].items()))
    lines = (
        f"files opened     {', '.join(f'{count:,} {kind}' for kind, count in opened[:6])}",
        f"read by calls    {human_bytes(counts['read_bytes'])}; resident "
        f"{human_bytes(counts['resident_bytes'])}; {counts['minor_faults']:,} page faults",
        f"path lookups     {counts['stat_calls']:,} by the import system, over "
        f"{len(found.interpreter['path'])} folders; .pth files: "
        f"{', '.join(found.interpreter['pth']) or 'none'}",
        f"bytecode         {kinds or 'none'}",
        f"libraries        {counts['libraries']}, {counts['loading_libraries_s']:.2f} s to load",
        f"symbols          {looked['looked_up']:,} looked up, {looked['from_cache']:,} more found "
        "in the loader's cache",
        f"collector        {counts['collections']} collections, {counts['collector_s']:.2f} s",
    )
    return Text("\n" + "\n".join(lines) + "\n")


def _levers(found: Explanation) -> Table:
    title = "levers: a start with each by one without"
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    table.add_column("lever", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("processor", justify="right", no_wrap=True)
    table.add_column("found; how measured")
    for lever in found.levers:
        state = Text(lever.state, _STYLES.get(lever.state, "dim"))
        gains = (_gain(lever.gain), _gain(lever.gain_cpu))
        table.add_row(lever.name, state, *gains, f"{lever.detail}; {lever.measured}")
    return table


def _gain(ratio: Ratio | None) -> str:
    if ratio is None:
        return "·"
    return f"×{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _notes(found: Explanation) -> Text:
    return Text("\n".join(f"note: {note}" for note in found.notes), "dim")
