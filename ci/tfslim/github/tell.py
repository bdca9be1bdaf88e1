"""What people see of a job: annotations, the job's summary, outputs, and a report of an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim.cli_report import Held
from tfslim.errors import BuildFailedError, TfslimError
from tfslim.github.commands import SUMMARY_LIMIT, Commands, Level
from tfslim.github.inputs import Inputs
from tfslim.github.lines import largest_line
from tfslim.github.measured import SLIM, Made
from tfslim.report import figures, markdown
from tfslim.report.blocks import Report
from tfslim.report.budgets import BudgetResult
from tfslim.report.inert import line, plain
from tfslim.report.measures import YARDSTICK
from tfslim.report.record import RunRecord

__all__ = ["MOST_ANNOTATIONS", "error_markdown", "tell_error", "tell_outputs", "tell_report"]

MOST_ANNOTATIONS: Final = 10
"""GitHub shows no more of one step and level."""

_ROOM: Final = 10_000  # bytes of the summary left for what others add
_TITLE: Final = "tfslim"


@dataclass(frozen=True)
class _Remark:
    level: Level
    text: str
    file: str = ""
    line: int = 0


def tell_report(
    commands: Commands,
    report: Report,
    held: Held,
    inputs: Inputs,
    *,
    before: RunRecord | None,
    fails: bool,
) -> None:
    """Show a report: the summary, and what is wrong beside the lines it comes from.

    Args:
        commands: The runner.
        report: What is to be said.
        held: The run, held against budgets and baseline.
        inputs: The action's inputs.
        before: The baseline.
        fails: Whether what is wrong fails the job: errors then, else warnings.
    """
    commands.summary(markdown.markdown(report, SUMMARY_LIMIT - _ROOM))
    level: Level = "error" if fails else "warning"
    remarks = [*_broken(held, inputs, before, level), *_others(held)]
    for remark in remarks[:MOST_ANNOTATIONS]:
        commands.annotate(
            remark.level, remark.text, title=_TITLE, file=remark.file, line=remark.line
        )
    if len(remarks) > MOST_ANNOTATIONS:
        commands.say(f"and {len(remarks) - MOST_ANNOTATIONS} more; the report has all of them")


def tell_outputs(commands: Commands, made: Made, folder: Path, verdict: str) -> None:
    """Set what a run's later steps may use."""
    size = made.record.sizes.get(made.subject)
    values = {
        "report": folder / "report.md",
        "report-json": folder / "report.json",
        "verdict": verdict,
        "pull-bytes": "" if size is None or size.pull_bytes is None else size.pull_bytes,
        "disk-bytes": "" if size is None else size.disk_bytes,
        "image": made.image,
        "digest": made.digest,
    }
    for name, value in values.items():
        commands.output(name, str(value))


def tell_error(commands: Commands, error: TfslimError, id_: str, dockerfile: str = "") -> None:
    """Show an error, with what can be done, where people look.

    Args:
        commands: The runner.
        error: What happened.
        id_: Name of the report.
        dockerfile: The file that was built: a build that fails is shown at its line, which BuildKit
            names.
    """
    way_out = f"\nWhat you can do: {error.way_out}" if error.way_out else ""
    why = f"\n{_short(error.why)}" if error.why else ""
    at = _failing_line(error, dockerfile)
    commands.annotate(
        "error",
        f"{error.what}{why}{way_out}",
        title=f"{_TITLE}: {error.label}",
        file=dockerfile if at else "",
        line=at,
    )
    commands.summary(error_markdown(error, id_))
    commands.output("verdict", "error")


def _failing_line(error: TfslimError, dockerfile: str) -> int:
    """Return the line that a build failed at, as BuildKit says it ("Dockerfile:7"); else 0."""
    if not dockerfile or not isinstance(error, BuildFailedError):
        return 0
    named = re.findall(
        rf"^{re.escape(Path(dockerfile).name)}:(\d{{1,6}})$", error.why, re.MULTILINE
    )
    return int(named[-1]) if named else 0


def error_markdown(error: TfslimError, id_: str) -> str:
    """Return a report of an error: nothing of it is read as Markdown."""
    verdict = line(plain(f"{error.label} error: {error.what}", 500))
    parts = [
        f"<!-- tfslim-report:{id_} -->\n❌ **{verdict}**",
        _code(error.why),
        f"What you can do:\n\n{_code(error.way_out)}" if error.way_out else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _broken(
    held: Held, inputs: Inputs, before: RunRecord | None, level: Level
) -> Iterator[_Remark]:
    """Yield each broken budget, at a line of the Dockerfile where there is one."""
    for item in held.budgets:
        if item.state != "broken":
            continue
        text = _sentence(item)
        place = _place(item, held.record, inputs, before)
        if place is None:
            yield _Remark(level, text)
        else:
            yield _Remark(
                level, f"{text}. This line: {place[1]}.", str(inputs.dockerfile), place[0]
            )


def _others(held: Held) -> Iterator[_Remark]:
    """Yield what became worse or may have: it fails a job only with `fail-on: regression`."""
    for subject in held.comparison.subjects if held.comparison else ():
        for item in subject.measures:
            if item.verdict == "worse":
                now = figures.quantity(item.value, item.unit)
                then = figures.quantity(item.baseline, item.unit)
                yield _Remark(
                    "warning",
                    f"{plain(item.subject)}: {plain(item.measure)} is worse than in the baseline: "
                    f"{then} → {now}",
                )


def _sentence(item: BudgetResult) -> str:
    actual = figures.quantity(item.actual, item.unit)
    limit = figures.quantity(item.limit, item.unit)
    side = "under" if item.budget.startswith("min-") else "over"
    grown = "grew by " if item.budget.startswith("max-growth") else ""
    return (
        f"{plain(item.subject)}: {plain(item.measure) or 'it'} {grown}{actual} is {side} the limit "
        f"of {limit} ({plain(item.budget)})"
    )


def _place(
    item: BudgetResult, record: RunRecord, inputs: Inputs, before: RunRecord | None
) -> tuple[int, str] | None:
    """Return the line, and why it is that one; a slimmed image is judged by what it was made of."""
    subject = YARDSTICK if item.subject == SLIM else item.subject
    size = record.sizes.get(subject)
    if inputs.dockerfile is None or size is None:
        return None
    then = before.sizes.get(subject) if before and item.budget.startswith("max-growth") else None
    try:
        text = inputs.dockerfile.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    place = largest_line(text, size, inputs.target, before=then)
    return (place.line, place.why) if place else None


def _short(text: str, lines: int = 12) -> str:
    kept = text.splitlines()[-lines:]
    return "\n".join(line[:300] for line in kept)


def _code(text: str) -> str:
    """Return text as a block of code, whose fence is longer than any in it."""
    if not text:
        return ""
    shown = re.sub(r"[^\S\n]|[^\x20-\U0010ffff\n]", " ", text)[-20_000:]
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
