"""Text from a record made harmless: whatever an image says of itself, it stays text.

A record is read from files that anybody may have written (a fork's artifact, an image's labels).
`plain` comes first, wherever text enters a report; each renderer escapes for its own format on top.
"""

from __future__ import annotations

import html
import re
import unicodedata

__all__ = ["keep_together", "line", "markdown_text", "mermaid_label", "plain"]

SHORT = 80
"""Characters of a text in a table; a sentence may have more."""

# ECMA-48: CSI and OSC sequences with their content, then any other two-character escape.
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?|\x9b")
# Controls, bidirectional and zero-width characters, surrogates, private use, line separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# Stands for a zero-width space, which ends a name, number or address for GitHub; `plain` leaves
# none of these in a text.
_BREAK = "\ue000"
# What GitHub turns into links, mentions or pictures after Markdown, on the finished text: people
# and teams, issues, addresses, emoji. A backslash does not help there.
_GITHUB = (
    (re.compile(r"@(?=[\w-])"), "@" + _BREAK),
    (re.compile(r"#(?=\d)"), "#" + _BREAK),
    (re.compile(r"\b(GH)-(?=\d)", re.IGNORECASE), rf"\1-{_BREAK}"),
    (re.compile(r":(?=//)"), ":" + _BREAK),
    (re.compile(r"\b(mailto|xmpp|javascript|data):", re.IGNORECASE), rf"\1:{_BREAK}"),
    (re.compile(r"\b(www)\.", re.IGNORECASE), rf"\1.{_BREAK}"),
    (re.compile(r":(?=[\w+-]+:)"), ":" + _BREAK),
    # A commit's name of 40 digits or more is linked; a shorter one with a few of them may be.
    (re.compile(r"\b([0-9a-f]{12})(?=[0-9a-f]{4,}\b)"), rf"\1{_BREAK}"),
)
_MARKDOWN = re.compile(r"[\\`*\[\]|~!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"^(\d*)([#+\-=]|[.)](?=\s|$))")
# A number and its unit or mark, which stay on one line.
_UNIT = re.compile(r"(?<=\d) (?=%|[kMGT]?B\b|m?s\b|samples/s|\?|\[)|(?<=%) (?=[?⚠])")


def plain(text: object, limit: int = SHORT) -> str:
    """Return text on one line that shows what it is: no controls, no hidden characters, shortened.

    Args:
        text: Anything; it is turned into text.
        limit: Most characters; a longer text ends with "…".
    """
    # A little more than the limit is looked at: a text of megabytes costs nothing.
    shown = _ANSI.sub("", str(text)[: limit * 8 + 64])
    shown = "".join(" " if unicodedata.category(c) in _UNSEEN else c for c in shown)
    shown = " ".join(_without_towers(shown).split())
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def keep_together(text: str) -> str:
    """Return text whose numbers are not parted from their units at the end of a line."""
    return _UNIT.sub("\u00a0", text)


def markdown_text(text: str) -> str:
    """Return text for GitHub-flavoured Markdown, inside a line or a table's cell."""
    text = keep_together(text).replace(_BREAK, "")
    for pattern, replacement in _GITHUB:
        text = pattern.sub(replacement, text)
    text = _MARKDOWN.sub(r"\\\g<0>", html.escape(text, quote=True).replace("$", "&#36;"))
    return text.replace(_BREAK, "&#8203;")


def line(text: str) -> str:
    """Return text for a line of its own, which begins no list, heading, rule or quotation."""
    return _LINE_START.sub(r"\1\\\2", markdown_text(text))


def mermaid_label(text: str, limit: int = 24) -> str:
    """Return text as a quoted label of a Mermaid chart: letters, digits and a few signs."""
    kept = re.sub(r"[^\w .,:/+×%()-]", "", plain(text, limit), flags=re.UNICODE).replace("`", "")
    return f'"{kept.strip() or "?"}"'


def _without_towers(text: str) -> str:
    """Drop combining marks beyond the second on one letter; they would write over other lines."""
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= 2:
            kept.append(character)
    return "".join(kept)
