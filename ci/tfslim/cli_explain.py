"""`tfslim bench --explain-cold-start IMAGE`: its options, and what they ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import click
from docker import DockerClient

from tfslim.bench import explain as room
from tfslim.cli_options import gathered
from tfslim.errors import ConfigError
from tfslim.ui import Ui

__all__ = ["ExplainOptions", "options", "perform"]

_ROUNDS = 5
_COLD = 3


@dataclass(frozen=True)
class ExplainOptions:
    """What the options say; None where one was not given."""

    image: str
    code: str | None = None
    cold: int | None = None


_OPTIONS = (
    click.option(
        "--explain-cold-start",
        metavar="IMAGE",
        help="Say where the start of Python in an image goes, also one of your own, and which "
        "levers make it faster, each with its gain there. --launches: starts of each kind.",
    ),
    click.option(
        "--explain-code",
        metavar="CODE",
        help="With --explain-cold-start: Python to run in place of `import tensorflow`.",
    ),
    click.option(
        "--explain-cold",
        type=click.IntRange(0, 100),
        help="With --explain-cold-start: starts out of an empty page cache; 3 if not given, none "
        "where this user may not empty it.",
    ),
)


def _asked(
    explain_cold_start: str | None, explain_code: str | None, explain_cold: int | None
) -> ExplainOptions | None:
    """Return what the options say; None without --explain-cold-start.

    Raises:
        ConfigError: Others of them are there without it.
    """
    if explain_cold_start is not None:
        return ExplainOptions(explain_cold_start, explain_code, explain_cold)
    if (explain_code, explain_cold) != (None, None):
        raise ConfigError(
            "--explain-code and --explain-cold say something about an explained start",
            way_out="Add --explain-cold-start IMAGE, or leave them out.",
        )
    return None


options = gathered("explain", _asked, _OPTIONS)
"""Give the verb `bench` these options; it gets them as `explain`, None without the first."""


def perform(
    asked: ExplainOptions, client: Callable[[], DockerClient], *, launches: int | None, ui: Ui
) -> room.Explanation:
    """Explain an image's start.

    Args:
        asked: What the options say.
        client: Gives a client of the engine.
        launches: Starts of each kind; 5 if not given.
        ui: Shows progress.

    Raises:
        TfslimError: See `explain.explain`.
    """
    with contextlib.closing(client()) as engine:
        return room.explain(
            engine,
            asked.image,
            code=asked.code or "",
            rounds=launches or _ROUNDS,
            cold=_COLD if asked.cold is None else asked.cold,
            ui=ui,
        )
