"""A run's report: as Markdown, for a terminal, as a page, and as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType

from tfslim.files import write_whole
from tfslim.report import charts, plots, sections, summary, verdict
from tfslim.report import html as html_page
from tfslim.report import markdown as markdown_text
from tfslim.report import terminal as terminal_text
from tfslim.report.blocks import Report, Section, Status
from tfslim.report.budgets import BudgetResult
from tfslim.report.compare import Comparison
from tfslim.report.history import History
from tfslim.report.record import RunRecord

__all__ = ["VerdictFile", "html", "make_report", "markdown", "terminal", "write_report"]


class VerdictFile(BaseModel):
    """What `verdict.json` holds: what was made of the record beside it.

    It is a file of its own: a record holds measurements alone, and its reader refuses anything
    that no measurement can be, such as a negative number.

    Attributes:
        status: "good", "bad" or "unsure".
        verdict: The sentence that the report begins with.
        alarms: What else is wrong.
        budgets: Each limit, and whether it was kept.
        comparison: The run beside its baseline; None without one.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    status: Status
    verdict: str
    alarms: tuple[str, ...]
    budgets: tuple[BudgetResult, ...]
    comparison: Comparison | None


def make_report(
    record: RunRecord,
    comparison: Comparison | None = None,
    *,
    budgets: Sequence[BudgetResult] = (),
    history: History | None = None,
    marker: str = "report",
) -> Report:
    """Return the report as data; the arguments are those of `write_report`."""
    record = record.described()  # records of before it have that in their sizes
    source = summary.Source(record, comparison, tuple(budgets))
    status, sentence, alarms = verdict.verdict(source)
    trends = () if history is None else tuple(charts.trends(history))
    over_runs = (Section("history", "Over runs", trends, rank=10),) if trends else ()
    return Report(
        marker=marker,
        status=status,
        verdict=sentence,
        alarms=(*alarms[:8], *([f"and {len(alarms) - 8} more"] if len(alarms) > 8 else [])),
        summary=summary.summary_table(source),
        notes=summary.notes(source),
        sections=(*sections.make_sections(source), *over_runs),
    )


def terminal(
    record: RunRecord,
    comparison: Comparison | None = None,
    *,
    budgets: Sequence[BudgetResult] = (),
    whole: bool = False,
) -> RenderableType:
    """Return the report for a terminal; `whole` adds every section to verdict and table."""
    return terminal_text.terminal(make_report(record, comparison, budgets=budgets), whole=whole)


def markdown(
    record: RunRecord,
    comparison: Comparison | None = None,
    *,
    budgets: Sequence[BudgetResult] = (),
    marker: str = "report",
) -> str:
    """Return the report as Markdown that fits a comment on GitHub."""
    made = make_report(record, comparison, budgets=budgets, marker=marker)
    return markdown_text.markdown(made)


def html(
    record: RunRecord,
    comparison: Comparison | None = None,
    *,
    budgets: Sequence[BudgetResult] = (),
    history: History | None = None,
) -> str:
    """Return the report as one page."""
    return html_page.html(make_report(record, comparison, budgets=budgets, history=history))


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

    `report.md` for a comment, `report.html` for a browser; for machines `report.json` (the record)
    and `verdict.json` (what was compared, and the budgets); `plots/*.svg` and `plots/*.png`. Files
    are replaced whole, never left half-written.

    Args:
        record: The run.
        comparison: The run beside its baseline; None without one.
        folder: Where to write; made where it is missing.
        budgets: What the budgets say.
        history: Earlier runs, for the plot over runs; None leaves it out.
        marker: Which report this is among several in one conversation: the first line of the
            Markdown is `<!-- tfslim-report:MARKER -->`.
    """
    report = make_report(record, comparison, budgets=budgets, history=history, marker=marker)
    made = VerdictFile(
        status=report.status,
        verdict=report.verdict,
        alarms=report.alarms,
        budgets=tuple(budgets),
        comparison=comparison,
    )
    written = [
        write_whole(folder / "report.md", markdown_text.markdown(report)),
        write_whole(folder / "report.html", html_page.html(report)),
        *record.save(folder / "report.json"),
        write_whole(folder / "verdict.json", made.model_dump_json(indent=1) + "\n"),
    ]
    return written + [write_whole(folder / name, content) for name, content in _pictures(report)]


def _pictures(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield each picture's file, in light and dark."""
    for chart in report.charts():
        for mode in plots.THEMES:
            yield f"plots/{chart.name}-{mode}.svg", plots.svg(chart, mode).encode()
            yield f"plots/{chart.name}-{mode}.png", plots.png(chart, mode)
