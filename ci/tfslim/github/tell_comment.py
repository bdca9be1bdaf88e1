"""The steps that comment: from a step's environment to a comment, and what the log says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tfslim.errors import TfslimError
from tfslim.github.api import Api
from tfslim.github.commands import Commands
from tfslim.github.comment import CommentOutcome, Wish, post_comment
from tfslim.github.event import Event, read_event
from tfslim.github.inputs import variable
from tfslim.github.publish import publish as publish_run
from tfslim.github.rest import Clock, Rest
from tfslim.github.state import STATE_FILE, JobState
from tfslim.ui import Ui

__all__ = ["comment", "publish"]

_TITLE: Final = "tfslim: comment"
_WISHES: Final[dict[str, Wish]] = {"auto": "auto", "always": "always", "never": "never"}


def comment(
    env: Mapping[str, str], folder: Path, commands: Commands, clock: Clock | None = None
) -> None:
    """Post a job's report; whatever fails becomes a warning, and nothing fails the job.

    Args:
        env: The step's environment.
        folder: The report's.
        commands: The runner.
        clock: Time; a test's own.
    """
    try:
        outcome = _posted(env, folder, commands, clock)
    except TfslimError as error:
        why = " ".join(f"{error.what}. {error.why}".split())
        outcome = CommentOutcome("failed", note=f"no comment: {why}", level="warning")
    _tell(outcome, commands)


def _posted(
    env: Mapping[str, str], folder: Path, commands: Commands, clock: Clock | None
) -> CommentOutcome:
    event = read_event(env)
    state = JobState.load(folder / STATE_FILE)
    wish = _WISHES.get(env.get(variable("comment"), ""), "auto")
    with _api(env, event, commands, clock) as api:
        return post_comment(api, event, state, folder, wish)


def publish(env: Mapping[str, str], commands: Commands, ui: Ui, clock: Clock | None = None) -> int:
    """Post what another run measured, and return the step's exit code.

    Here the comment is all there is to do: what fails, fails the step, with its code of
    docs/exit-codes.md. What is refused by design (no pull request, an old run) is a notice and 0.
    """
    try:
        event = read_event(env)
        with _api(env, event, commands, clock) as api:
            outcome = publish_run(api, event, env)
    except TfslimError as error:
        with commands.verbatim():
            ui.error(error)
        why = f"\n{error.why}" if error.why else ""
        way_out = f"\nWhat you can do: {error.way_out}" if error.way_out else ""
        commands.annotate("error", f"{error.what}{why}{way_out}", title="tfslim: publish")
        return error.exit_code
    _tell(outcome, commands)
    return 0


def _api(env: Mapping[str, str], event: Event, commands: Commands, clock: Clock | None) -> Api:
    token = env.get("TFSLIM_TOKEN", "")
    commands.mask(token)

    def say(text: str) -> None:
        with commands.verbatim():
            commands.say(text)

    return Api(Rest(event.api_url, token, say=say, clock=clock))


def _tell(outcome: CommentOutcome, commands: Commands) -> None:
    """Say what became of it, in the log and as an output."""
    commands.output("comment-url", outcome.url)
    if outcome.note and outcome.level == "warning":
        commands.annotate("warning", outcome.note, title=_TITLE)
        return
    told = ": ".join(part for part in (outcome.done, outcome.url, outcome.note) if part)
    with commands.verbatim():
        commands.say(f"comment {told}")
