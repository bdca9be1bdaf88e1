"""`tfslim report` and `tfslim history`: what a run is held against, what it comes to, its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfslim.bench.results import ColdStarts
from tfslim.config import Config, Threshold
from tfslim.errors import ConfigError, InputError
from tfslim.files import write_whole
from tfslim.report import charts, plots, render
from tfslim.report.baseline import Found, find_baseline, open_records
from tfslim.report.budgets import BudgetResult, check_budgets
from tfslim.report.compare import Comparison, compare
from tfslim.report.dashboards import write_dashboards
from tfslim.report.figures import quantity
from tfslim.report.history import ChangePoint, History, HistorySeries, make_history, sparkline
from tfslim.report.inert import plain
from tfslim.report.machine import Environment
from tfslim.report.record import RunRecord, merge, now
from tfslim.ui import Ui

__all__ = [
    "EXIT_BUDGET",
    "EXIT_INCONCLUSIVE",
    "EXIT_REGRESSED",
    "Held",
    "Options",
    "chosen",
    "hold",
    "judge",
    "keep_cold_starts",
    "read_history",
    "read_runs",
    "render_history",
    "write_files",
    "write_history",
]

EXIT_BUDGET: Final = 20
EXIT_INCONCLUSIVE: Final = 21
EXIT_REGRESSED: Final = 22

_NO_BASELINE: Final = "none"
_SMALLEST: Final = 0.0005  # a change that is shown
_BARS: Final = 40  # runs that a sparkline shows


@dataclass(frozen=True)
class Options:
    """How a run is judged.

    Attributes:
        baseline: As `--baseline` takes it; None takes the configuration's, "none" takes none.
        strict: What a budget asks for and nobody measured counts as broken.
        allow_inconclusive: What the samples cannot tell does not fail the run.
    """

    baseline: str | None = None
    strict: bool = False
    allow_inconclusive: bool = False


@dataclass(frozen=True)
class Held:
    """A run, held against budgets and a baseline.

    Attributes:
        record: The run, with the budgets that it is held against.
        comparison: None where no baseline was asked for.
        budgets: What came of each limit.
        exit_code: 20: a budget is broken; 22: a measure regressed; 21: one may have; else 0. The
            first of these that holds.
        why: What decided it, a sentence each.
    """

    record: RunRecord
    comparison: Comparison | None
    budgets: tuple[BudgetResult, ...]
    exit_code: int
    why: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "exit_code": self.exit_code,
            "why": list(self.why),
            "budgets": [item.model_dump(mode="json") for item in self.budgets],
            "comparison": self.comparison.model_dump(mode="json") if self.comparison else None,
            "record": self.record.model_dump(mode="json"),
        }


def read_runs(paths: Sequence[Path]) -> RunRecord:
    """Read one record, or the parts of a run that was spread over jobs.

    Raises:
        InputError: One is missing or not a record.
    """
    records = [RunRecord.load(path) for path in paths]
    return records[0] if len(records) == 1 else merge(records)


def hold(record: RunRecord, config: Config, options: Options) -> Held:
    """Hold a run against the baseline and the budgets.

    Budgets are the configuration's if it has any, else those that the run was made with: a
    record that others made does not bring its own.

    Raises:
        InputError: The baseline is there, and not a record.
        ConfigError: The baseline's name means nothing.
    """
    if config.budgets:
        record = record.model_copy(update={"budgets": dict(config.budgets)})
    wanted = options.baseline or config.baseline or _NO_BASELINE
    found = None if wanted == _NO_BASELINE else find_baseline(wanted)
    return judge(record, config.thresholds, options, found)


def judge(
    record: RunRecord,
    thresholds: Sequence[Threshold],
    options: Options,
    baseline: Found | None,
) -> Held:
    """Hold a run against a baseline that was found already, and against its own budgets.

    Args:
        record: The run.
        thresholds: From which change on a measure counts.
        options: How a run is judged; the baseline that it names is not looked for.
        baseline: What the run is compared with, or what is known of its absence; None where none
            was asked for.
    """
    then, comparison = None, None
    if baseline is not None:
        then, info = baseline
        comparison = compare(record, then, info, thresholds)
    budgets = tuple(check_budgets(record, then))
    code, why = _outcome(comparison, budgets, options)
    return Held(record, comparison, budgets, code, tuple(why))


def _outcome(
    comparison: Comparison | None, budgets: Sequence[BudgetResult], options: Options
) -> tuple[int, list[str]]:
    """Return the exit code and what decided it."""
    states = ("broken", "not measured") if options.strict else ("broken",)
    broken = [f"{b.subject}: {b.budget} {b.state}" for b in budgets if b.state in states]
    if broken:
        return EXIT_BUDGET, broken
    worse = [
        f"{item.subject}: {item.measure} is worse than in the baseline"
        for subject in (comparison.subjects if comparison else ())
        for item in subject.measures
        if item.verdict == "worse"
    ]
    if worse:
        return EXIT_REGRESSED, worse
    unsure = [f"{b.subject}: {b.budget} {b.state}" for b in budgets if b.state == "inconclusive"]
    if comparison is not None and comparison.verdict == "inconclusive":
        unsure.append("a measure looks worse than in the baseline, and the samples cannot tell")
    return (0 if options.allow_inconclusive or not unsure else EXIT_INCONCLUSIVE), unsure


def write_files(held: Held, folder: Path, history: History | None, ui: Ui) -> None:
    """Write the report's files and the dashboards', and name them."""
    files = render.write_report(
        held.record, held.comparison, folder, budgets=held.budgets, history=history
    )
    files += write_dashboards(held.record, folder / "dashboards")
    ui.note(f"written: {folder} ({', '.join(_names(files, folder))})")


def keep_cold_starts(starts: ColdStarts, where: Environment, folder: Path) -> Path:
    """Put cold starts into the record of a folder, and lose nothing that is there.

    Args:
        starts: What was measured.
        where: The machine it was measured on.
        folder: Holds report.json, or will. What another machine measured stays a part of its own;
            a file that is no record stays as it is.

    Returns:
        The record.
    """
    path = folder / "report.json"
    record = RunRecord(started=now(), environment=where, cold_starts=starts)
    if path.is_file():
        try:
            there = RunRecord.load(path)
        except InputError:
            path = folder / "report-cold-starts.json"
        else:
            same = there.environment.machine_key == where.machine_key
            update = there.model_copy(update={"cold_starts": starts})
            record = update if same else merge([there, record])
    record.save(path)
    return path


def read_history(place: str) -> History:
    """Read all records of a folder, a zip or a branch.

    Raises:
        ConfigError: There is no such place.
        InputError: It holds no record.
    """
    records = open_records(place)
    if records is None:
        raise ConfigError(
            f"there is no {place}",
            way_out="Name a folder of records, git:BRANCH or git:BRANCH:FOLDER.",
        )
    history = make_history(records, place)
    if not history.records:
        why = "\n".join(history.skipped[:5])
        raise InputError(f"{place} holds no run record", why=why)
    return history


def chosen(history: History, variant: str, measure: str, *, details: bool) -> History:
    """Return a history with the series that were asked for.

    Args:
        history: All series.
        variant: Pattern of subjects.
        measure: Pattern of measures.
        details: Phases, and what else is part of another measure, too.
    """
    series = [
        item
        for item in history.series
        if fnmatchcase(item.subject, variant)
        and fnmatchcase(item.measure, measure)
        and (details or not item.detail)
    ]
    return history.model_copy(update={"series": series})


def render_history(history: History) -> RenderableType:
    """Return one row for each series, and a line for each change."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("variant", "measure"):
        table.add_column(title, no_wrap=True)
    for title in ("runs", "first", "last", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("machine", overflow="fold", style="dim")
    lines = []
    for series in history.series:
        values = [point.value for point in series.points]
        shown = (plain(series.subject), plain(series.measure), str(len(values)))
        ends = (quantity(values[0], series.unit), quantity(values[-1], series.unit))
        where = plain(", ".join(filter(None, (series.machine, series.device))))
        trend = Text(sparkline(values[-_BARS:]))
        table.add_row(
            *map(Text, shown), *map(Text, ends), Text(_change(values)), trend, Text(where)
        )
        lines += [_told(series, change) for change in series.changes]
    notes = [Text(f"skipped: {plain(reason, 200)}", style="yellow") for reason in history.skipped]
    return Group(table, *lines, *notes)


def _change(values: Sequence[float]) -> str:
    change = values[-1] / values[0] - 1 if values[0] > 0 else 0.0
    return f"{change:+.1%}" if abs(change) >= _SMALLEST else "–"


def _told(series: HistorySeries, change: ChangePoint) -> Text:
    """Say one change in a line."""
    point = series.points[change.index]
    commit = f" ({plain(point.commit)[:12]})" if point.commit else ""
    sure = "" if change.p_value is None else f", p = {change.p_value:.2g}"
    return Text(
        f"{change.kind}: {plain(series.subject)} {plain(series.measure)} "
        f"{quantity(change.before, series.unit)} → {quantity(change.after, series.unit)} "
        f"({change.ratio - 1:+.1%}{sure}) from {point.started:%Y-%m-%d %H:%M}{commit}",
        style="green" if change.kind == "better" else "red",
    )


def write_history(history: History, folder: Path, ui: Ui) -> None:
    """Write history.json and its plots."""
    files = [write_whole(folder / "history.json", history.model_dump_json(indent=1))]
    files += [write_whole(folder / name, content) for name, content in _pictures(history)]
    ui.note(f"written: {folder} ({', '.join(_names(files, folder))})")


def _pictures(history: History) -> Iterator[tuple[str, bytes]]:
    for chart in charts.trends(history):
        for mode in plots.THEMES:
            yield f"plots/{chart.name}-{mode}.svg", plots.svg(chart, mode).encode()
            yield f"plots/{chart.name}-{mode}.png", plots.png(chart, mode)


def _names(files: Sequence[Path], folder: Path) -> list[str]:
    """Return the files of a folder's top, and its other folders by name."""
    inside = [file.relative_to(folder) for file in files]
    return list(
        dict.fromkeys(
            f"{name.parts[0]}/" if len(name.parts) > 1 else name.parts[0] for name in inside
        )
    )
