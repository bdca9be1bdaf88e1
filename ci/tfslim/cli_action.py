"""`tfslim action`: the steps of the GitHub Action, one command each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from tfslim.errors import ConfigError
from tfslim.github.commands import Commands
from tfslim.github.event import in_actions, read_event
from tfslim.ui import Ui

__all__ = ["REPORT_DIR", "action_group", "report_dir"]

REPORT_DIR: Final = "TFSLIM_REPORT_DIR"
"""The variable that tells later steps where `run` put its report."""


@click.group("action")
def action_group() -> None:
    """The steps of the GitHub Action; elsewhere, use the other verbs."""
    if not in_actions(os.environ):
        raise ConfigError(
            "`tfslim action` is what the GitHub Action runs, and this is no GitHub Actions job",
            way_out="The same, on your machine:\n"
            "tfslim bench my/image:1.2 my/image:1.2-slim   measure images side by side\n"
            "tfslim bench stock inference                  build and measure variants\n"
            "tfslim slim my/image:1.2 --cuda-arch 90 --tag my/image:1.2-slim\n"
            "tfslim report --baseline git:main             hold a run against another\n"
            "tfslim plan --json                            the matrix",
        )
    os.environ["NO_COLOR"] = "1"


@action_group.command("run")
def run_step() -> None:
    """Do what the inputs say, in any mode but publish; `finish` ends the job."""
    from tfslim.github import job  # noqa: PLC0415 (the other steps need little of it)

    made = job.Job(os.environ, read_event(os.environ), Commands(os.environ), _ui())
    sys.exit(job.run(made))


@action_group.command("finish")
def finish_step() -> None:
    """Say in one line how the run ended, and exit with its code."""
    from tfslim.github import finish, state  # noqa: PLC0415

    folder = report_dir()
    unfinished = state.aside(os.environ, folder)
    sys.exit(finish.finish(folder, unfinished, Commands(os.environ)))


@action_group.command("comment")
def comment_step() -> None:
    """Post the report on the pull request; what goes wrong here fails nothing."""
    from tfslim.github import tell_comment  # noqa: PLC0415

    tell_comment.comment(os.environ, report_dir(), Commands(os.environ))


@action_group.command("publish")
def publish_step() -> None:
    """Post what a fork's pull request measured, in a workflow of its own (`workflow_run`)."""
    from tfslim.github import tell_comment  # noqa: PLC0415

    sys.exit(tell_comment.publish(os.environ, Commands(os.environ), _ui()))


def report_dir() -> Path:
    """Return the folder that `run` left its report in."""
    return Path(os.environ.get(REPORT_DIR) or "tfslim-report")


def _ui() -> Ui:
    ui = Ui(interactive=False)
    ui.console.no_color = True
    return ui
