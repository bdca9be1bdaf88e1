"""Where a script of the parity gate can run: one seam for trees, root file systems and images."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Ended", "Script", "Target"]

_SIGNALLED = 128  # a shell's and a container's exit status for signal N is 128 + N


@dataclass(frozen=True)
class Script:
    """What is to be run.

    Attributes:
        argv: The script and its arguments; paths are relative to the job's folder.
        limit: Seconds after which it is ended.
        env: Variables for it.
        gpu: Give it the machine's GPUs.
    """

    argv: Sequence[str]
    limit: float
    env: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False


@dataclass(frozen=True)
class Ended:
    """How a script ended: its exit status, and the end of what it said."""

    status: int
    tail: str

    @property
    def ok(self) -> bool:
        """True for exit status 0."""
        return self.status == 0

    @property
    def how(self) -> str:
        """Its end in words, a signal by its name."""
        number = -self.status if self.status < 0 else self.status - _SIGNALLED
        try:
            return f"ended by {signal.Signals(number).name}"
        except ValueError:
            return f"exit status {self.status}"


class Target(Protocol):
    """Something with a Python and a TensorFlow in it.

    Attributes:
        name: As the user named it.
        kind: What it is, in words.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102

    def run(self, job: Path, script: Script, on_line: Callable[[str], None]) -> Ended:
        """Run a script to its end.

        Args:
            job: Folder with the script and all it needs. What the script writes into the job's
                folder `out` is there when this returns.
            script: What to run.
            on_line: Gets each line of its output.

        Raises:
            TfslimError: It could not be started at all.
        """
