"""A report as GitHub-flavoured Markdown that fits a comment.

GitHub's message says "maximum is 65536 characters"; what people measured is 262,144 bytes of
UTF-8. 65,536 bytes are within both, whichever is counted where. Whole sections are left out until
the text fits, in the order of their rank, and the text says which; no table is cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfslim.report import mermaid
from tfslim.report.blocks import Block, Facts, Paragraph, Report, Section, Status, Table
from tfslim.report.inert import line, markdown_text

__all__ = ["LIMIT_BYTES", "SIGNS", "markdown"]

LIMIT_BYTES = 65_536
_ROOM = 1_000  # for what a workflow adds to a comment (a link to the run, say)
SIGNS: dict[Status, str] = {"good": "✅", "bad": "❌", "unsure": "❔"}


def markdown(report: Report, limit_bytes: int = LIMIT_BYTES - _ROOM) -> str:
    """Return the report.

    Args:
        report: What to say.
        limit_bytes: Most bytes of UTF-8. Sections are dropped one by one, highest rank first, then
            rows of the summary from its end; the verdict always stands.
    """
    kept = list(report.sections)
    dropped: list[str] = []
    text = _text(report, kept, dropped, len(report.summary.rows))
    while _too_long(text, limit_bytes) and kept:
        last = max(kept, key=lambda section: section.rank)
        kept.remove(last)
        dropped.append(last.title)
        text = _text(report, kept, dropped, len(report.summary.rows))
    rows = len(report.summary.rows)
    while _too_long(text, limit_bytes) and rows > 1:
        rows //= 2
        text = _text(report, kept, dropped, rows)
    return text


def _too_long(text: str, limit_bytes: int) -> bool:
    return len(text.encode("utf-8", "replace")) > limit_bytes


def _text(report: Report, kept: Sequence[Section], dropped: Sequence[str], rows: int) -> str:
    summary = report.summary
    marker = re.sub(r"[^A-Za-z0-9._]+", "-", report.marker)[:60].strip("-") or "report"
    shown = Table(summary.header, summary.rows[:rows], summary.left)
    parts = [
        f"<!-- tfslim-report:{marker} -->\n{SIGNS[report.status]} **{line(report.verdict)}**",
        "\n".join(f"- {line(alarm)}" for alarm in report.alarms),
        _table(shown),
        _left_out(dropped, len(summary.rows) - rows),
        *(_section(section) for section in kept),
        _details("What the columns mean", ["\n".join(f"- {line(note)}" for note in report.notes)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _left_out(dropped: Sequence[str], rows: int) -> str:
    """Say what a comment had no room for."""
    parts = [f"{rows} image(s) of the table"] if rows else []
    parts += [f"“{markdown_text(title)}”" for title in dropped]
    if not parts:
        return ""
    return f"_Left out for length, and whole in report.html: {', '.join(parts)}._"


def _section(section: Section) -> str:
    """Return a folded section; nothing where Markdown can show none of it."""
    parts = [_block(block) for block in section.blocks]
    return _details(section.title, parts) if any(parts) else ""


def _details(title: str, parts: Sequence[str]) -> str:
    body = "\n\n".join(part for part in parts if part)
    return f"<details><summary>{markdown_text(title)}</summary>\n\n{body}\n\n</details>"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        text = line(block.text)
        return f"**{line(block.strong)}** {text}".rstrip() if block.strong else text
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Facts):
        return _table(Table(("", ""), block.rows, left=2))
    drawn = mermaid.diagram(block)
    return f"```mermaid\n{drawn}\n```\n\n{line(mermaid.legend(block))}" if drawn else ""


def _table(table: Table) -> str:
    rule = ["---:" if figures else "---" for figures in table.figures]
    rows = [[markdown_text(cell) for cell in row] for row in (table.header, *table.rows)]
    rows.insert(1, rule)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
