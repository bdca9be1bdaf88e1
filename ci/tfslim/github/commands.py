"""What a step tells the runner: annotations, groups, masks, outputs and the job's summary.

Format: "Workflow commands for GitHub Actions" in GitHub's documentation. The runner reads commands
out of every line that a step prints, also in the middle of one, so whatever is printed by others
(a build's log) goes into a group, in which commands are stopped.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TextIO

__all__ = ["SUMMARY_LIMIT", "Commands", "Level"]

Level = Literal["error", "warning", "notice"]

SUMMARY_LIMIT: Final = 2**20
"""Bytes of one step's summary; GitHub shows nothing of a longer one."""

_SHORTEST_MASK: Final = 6  # characters: a mask of a few letters would hide half of the log


class Commands:
    """The runner that reads this step's log.

    All goes to one stream, the one the rest of the log goes to: of two, the order is lost.

    Args:
        env: The step's environment. Where it names no file for outputs or the summary, they are
            left out: there is nobody to read them.
        stream: The log; standard error by default.
    """

    def __init__(self, env: Mapping[str, str], stream: TextIO | None = None) -> None:
        self._env = env
        self._stream = stream

    def annotate(
        self, level: Level, message: str, *, title: str = "", file: str = "", line: int = 0
    ) -> None:
        """Show a message beside the run, and beside a line of a file where one is named."""
        properties = {"file": file, "line": str(line) if line else "", "title": title}
        given = ",".join(f"{key}={_property(value)}" for key, value in properties.items() if value)
        self._say(f"::{level}{' ' if given else ''}{given}::{_data(message)}")

    def mask(self, *secrets_: str) -> None:
        """Have the runner replace values by *** in all that is printed from here on."""
        for secret in secrets_:
            for line in secret.splitlines():
                if len(line.strip()) >= _SHORTEST_MASK:
                    self._say(f"::add-mask::{_data(line.strip())}")

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """Fold what is printed inside; none of it is taken for a command."""
        self._say(f"::group::{_data(title)}")
        try:
            with self.verbatim():
                yield
        finally:
            self._say("::endgroup::")

    @contextmanager
    def verbatim(self) -> Iterator[None]:
        """Have the runner take no line that is printed inside for a command."""
        token = secrets.token_hex(16)
        self._say(f"::stop-commands::{token}")
        try:
            yield
        finally:
            self._say(f"::{token}::")

    def say(self, text: str) -> None:
        """Print text; only inside `verbatim` or `group` where others wrote any of it."""
        self._say(text)

    def output(self, name: str, value: str) -> None:
        """Set an output of this step; the value may have several lines."""
        delimiter = f"tfslim-{secrets.token_hex(16)}"
        self._append("GITHUB_OUTPUT", f"{name}<<{delimiter}\n{value}\n{delimiter}\n")

    def summary(self, markdown: str) -> None:
        """Add to the job's summary; what is longer than GitHub shows has to be cut before."""
        self._append("GITHUB_STEP_SUMMARY", markdown.rstrip("\n") + "\n")

    def _append(self, variable: str, text: str) -> None:
        place = self._env.get(variable)
        if place:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(text)

    def _say(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)


def _data(text: str) -> str:
    """Escape a command's message: it stays one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a command's property, which ends at a comma or a colon."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
