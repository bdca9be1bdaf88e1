"""What a person sees while tfslim works: steps, progress, notes. Results go to stdout elsewhere.

Everything here goes to standard error, so that `--json` on standard output stays clean. On a
terminal there are colours and a live line; in CI logs there are plain lines, few of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from tfslim.errors import TfslimError

__all__ = ["Step", "Ui", "human_bytes"]

_LOG_EVERY_SECONDS = 30.0


def human_bytes(count: float) -> str:
    """Return a byte count in decimal units, as registries and `df -H` count (1 MB = 10^6)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit in ("B", "kB")
                else f"{count:.{2 if unit == 'GB' else 0}f} {unit}"
            )
        count /= 1000
    return f"{count:.2f} TB"


class Step:
    """One piece of long work: `update` shows where it stands, `advance` moves its bar."""

    def __init__(self, ui: Ui, title: str, total: float | None) -> None:
        self._ui = ui
        self._title = title
        self._total = total
        self._done = 0.0
        self._last_log = time.monotonic()
        self._task: TaskID | None = None
        if ui.progress is not None:
            self._task = ui.progress.add_task(title, total=total, detail="")

    def update(self, detail: str) -> None:
        """Say what is being done now; in a log at most once in 30 seconds."""
        if self._ui.progress is not None and self._task is not None:
            self._ui.progress.update(self._task, detail=detail[-80:])
        elif not self._ui.quiet and time.monotonic() - self._last_log >= _LOG_EVERY_SECONDS:
            self._last_log = time.monotonic()
            share = f" {self._done / self._total:.0%}" if self._total else ""
            self._ui.print(f"    …{share} {detail[-160:]}")

    def advance(self, amount: float) -> None:
        """Move the bar on by `amount` of the step's total."""
        self._done += amount
        if self._ui.progress is not None and self._task is not None:
            self._ui.progress.advance(self._task, amount)

    def close(self) -> None:
        """Take the live line away."""
        if self._ui.progress is not None and self._task is not None:
            self._ui.progress.remove_task(self._task)


class Ui:
    """The terminal or log that a person watches.

    Args:
        quiet: Print errors only.
        interactive: Draw live progress; found from the terminal when not given. `CI` in the
            environment means a log even where a terminal is emulated.
    """

    def __init__(self, *, quiet: bool = False, interactive: bool | None = None) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        live = sys.stderr.isatty() and not os.environ.get("CI")
        if interactive is not None:
            live = interactive
        self.progress: Progress | None = None
        if live and not quiet:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", style="dim", markup=False),
                console=self.console,
                transient=True,
            )

    def print(self, text: str, style: str | None = None) -> None:
        """Print a line as it is (no markup is read from it)."""
        if not self.quiet:
            self.console.print(text, style=style, markup=False)

    def note(self, text: str) -> None:
        """Tell something the user may want to know."""
        self.print(f"  · {text}", style="dim")

    def warn(self, text: str) -> None:
        """Tell something the user should look at; it does not stop the run."""
        self.print(f"  ! {text}", style="yellow")

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Step]:
        """Announce long work, show its progress, and say how long it took."""
        start = time.monotonic()
        if self.progress is None:
            self.print(f"→ {title}")
        elif not self.progress.live.is_started:
            self.progress.start()
        step = Step(self, title, total)
        try:
            yield step
        except BaseException:
            step.close()
            self._stop_if_idle()
            self.print(f"✗ {title} ({time.monotonic() - start:.1f} s)", style="red")
            raise
        step.close()
        self._stop_if_idle()
        self.print(f"✓ {title} ({time.monotonic() - start:.1f} s)", style="green")

    def error(self, error: TfslimError) -> None:
        """Show an error in one screen: what, why, the way out."""
        self.console.print(f"{error.label} error: {error.what}", style="bold red", markup=False)
        for line in error.why.splitlines():
            self.console.print(f"    {line}", markup=False)
        if error.way_out:
            self.console.print("What you can do:", style="bold")
            for line in error.way_out.splitlines():
                self.console.print(f"    {line}", markup=False)

    def _stop_if_idle(self) -> None:
        if self.progress is not None and not self.progress.tasks:
            self.progress.stop()
