"""The other half of a fork's pull request: post what its run measured, and believe it nothing.

It runs in a `workflow_run` workflow, with this repository's rights and the default branch's code.
What it takes from the fork's run is one artifact, read as data (`parcel`). In the order of checks:

1. The event: a finished run of this repository for a pull request. All numbers and commits come
   from GitHub's payload, none from the artifact.
2. The pull request: the one of the event; for a fork, where the event names none, the open ones
   that come from the run's head repository and branch. It has to be open, be for this repository,
   and its newest commit has to be the run's. Of an older run nothing is posted. This is looked at
   again at the last moment before the comment is written.
3. The artifact: size, members, names; `action.json` and `report.json` against their schemas, with
   limits on depth, numbers and lengths. Its own account of run, commit and repository has to be
   GitHub's.
4. The verdict: made again from the record, by the limits of `tfslim.yaml` on the branch that the
   pull request is for, and against a baseline of this repository's own runs. Limits and verdict
   that the artifact brings are dropped.
5. The text: made again from the record's typed fields, each of them made harmless by
   `report.inert`. No Markdown, page or picture of the artifact is opened.

What cannot be checked are the figures: the job that measured ran the fork's code. The comment says
so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from tfslim.cli_report import Held, Options, judge
from tfslim.config import DEFAULT_FILE, Config
from tfslim.errors import ConfigError, InputError, TfslimError
from tfslim.github.api import Answer, Api, Named, Pull, Run
from tfslim.github.artifacts import Sought, earlier_record, no_record
from tfslim.github.comment import CommentOutcome, Origin, body_of, upsert
from tfslim.github.event import Event
from tfslim.github.inputs import Inputs, configuration, read_inputs
from tfslim.github.parcel import MOST_BYTES, Parcel, open_parcel
from tfslim.github.state import COMMIT, JobState
from tfslim.report import render
from tfslim.report.baseline import Found
from tfslim.report.inert import line, plain
from tfslim.report.record import RunRecord

__all__ = ["publish"]

_FROM: Final = "pull_request"
_MOST_PULLS: Final = 10


class _Numbered(Answer):
    number: int


class _Measured(Run):
    """The run that measured, as GitHub's event has it.

    Attributes:
        pull_requests: Empty for a fork's.
    """

    head_sha: str = Field(pattern=rf"^({COMMIT})$")
    run_attempt: int = 1
    repository: Named
    pull_requests: tuple[_Numbered, ...] = ()


class _NotNowError(Exception):
    """There is nothing to post, and nobody did wrong."""


@dataclass(frozen=True)
class _Judged:
    """A report, and what a reader of it has to know, a sentence each."""

    text: str
    notes: tuple[str, ...]


def publish(api: Api, event: Event, env: Mapping[str, str]) -> CommentOutcome:
    """Post the report of the run that a `workflow_run` event is of.

    Args:
        api: GitHub, with a token that may comment.
        event: The event.
        env: The step's environment, with the inputs.

    Returns:
        What became of the comment; "skipped" with a reason where nothing is to be posted.

    Raises:
        ConfigError: It is no such event, or an input cannot be used.
        InputError: The artifact is refused.
        ApiError: GitHub refuses or cannot be reached.
    """
    inputs = read_inputs(env)
    run = _measured(event)
    if inputs.comment == "never":
        return CommentOutcome("skipped", note="no comment is wanted")
    try:
        pull = _pull_of(api, run)
        parcel = _parcel(api, run, pull, inputs)
        return _post(api, run, pull, parcel, inputs)
    except _NotNowError as reason:
        return CommentOutcome("skipped", note=str(reason))


def _measured(event: Event) -> _Measured:
    """Return the run of the event.

    Raises:
        ConfigError: The event is not the end of a run of this repository.
    """
    if event.name != "workflow_run":
        raise ConfigError(
            f"mode publish belongs into a workflow on `workflow_run`, not on {plain(event.name)!r}",
            way_out="docs/workflows/pr-comment.yml is such a workflow.",
        )
    try:
        run = _Measured.model_validate(event.payload.get("workflow_run"))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:5])
        raise ConfigError("the event names no workflow run", why=fields) from error
    if not _same(run.repository.full_name, event.repository) or event.action != "completed":
        raise ConfigError("the event is not of a finished run of this repository")
    return run


def _pull_of(api: Api, run: _Measured) -> Pull:
    """Return the one open pull request that the run was for.

    Raises:
        _NotNowError: There is none any more, it has moved on, or it cannot be told which.
    """
    if run.event != _FROM:
        raise _NotNowError(f"run {run.id} was not for a pull request ({plain(run.event)})")
    here = run.repository.full_name
    numbers = [item.number for item in run.pull_requests] or _numbers(api, run)
    found = [api.pull(here, number) for number in dict.fromkeys(numbers[:_MOST_PULLS])]
    of_run = [pull for pull in found if _comes_from(pull, run)]
    newest = [pull for pull in of_run if not _problem(pull, run)]
    if len(newest) == 1:
        return newest[0]
    if newest:
        told = ", ".join(f"#{pull.number}" for pull in newest)
        raise _NotNowError(
            f"{told} have the same newest commit, and nobody can tell whose run {run.id} is"
        )
    for pull in of_run:
        raise _NotNowError(_problem(pull, run))
    branch = f"{run.source or 'a repository that is gone'}:{run.head_branch}"
    raise _NotNowError(f"no open pull request comes from {plain(branch, 200)}")


def _numbers(api: Api, run: _Measured) -> list[int]:
    """Return the pull requests that a fork's run may be for: the event does not say."""
    here, owner = run.repository.full_name, run.source.partition("/")[0]
    found = api.pulls_from(here, owner, run.head_branch) if owner and run.head_branch else []
    mine = [pull for pull in found if _comes_from(pull, run)]
    return [pull.number for pull in mine or api.pulls_of(here, run.head_sha)]


def _comes_from(pull: Pull, run: _Measured) -> bool:
    """True for a pull request for this repository, from the run's own branch."""
    return (
        bool(run.source)
        and _same(pull.base.repository, run.repository.full_name)
        and _same(pull.head.repository, run.source)
        and pull.head.ref == run.head_branch
    )


def _problem(pull: Pull, run: _Measured) -> str:
    """Say why nothing is posted on a pull request; empty where all is well."""
    if pull.state != "open":
        return f"#{pull.number} is {plain(pull.state)}"
    if pull.head.sha != run.head_sha:
        return (
            f"#{pull.number} has moved on to {pull.head.sha[:12]}; run {run.id} measured "
            f"{run.head_sha[:12]}"
        )
    return ""


def _parcel(api: Api, run: _Measured, pull: Pull, inputs: Inputs) -> Parcel:
    """Fetch and open the run's artifact, and hold its account of itself against GitHub's.

    Raises:
        InputError: It is refused.
        _NotNowError: There is none.
    """
    here, name = run.repository.full_name, inputs.artifact
    of_name = [item for item in api.artifacts(here, run.id, name) if item.name == name]
    of_run = [item for item in of_name if item.workflow_run and item.workflow_run.id == run.id]
    usable = [item for item in of_run if not item.expired]
    if not usable:
        why = "has expired" if of_run else "is not there"
        raise _NotNowError(f"the artifact {name} of run {run.id} {why}")
    with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
        path = api.download(here, usable[0], Path(scratch), most=MOST_BYTES)
        parcel = open_parcel(path)
    for what, said, known in _claims(parcel.state, run, pull, inputs):
        if said != known:
            raise InputError(
                f"the artifact says it is of another {what}, and is not posted",
                why=f"It says {plain(said)!r}; GitHub says {plain(known)!r}.",
            )
    return parcel


def _claims(
    state: JobState, run: _Measured, pull: Pull, inputs: Inputs
) -> tuple[tuple[str, object, object], ...]:
    """Return what an artifact says of its own run, and what GitHub does."""
    return (
        ("report", state.id, inputs.id),
        ("repository", state.repository.lower(), run.repository.full_name.lower()),
        ("run", state.run_id, run.id),
        ("commit", state.head_sha, run.head_sha),
        ("pull request", state.pull_request, pull.number),
    )


def _post(api: Api, run: _Measured, pull: Pull, parcel: Parcel, inputs: Inputs) -> CommentOutcome:
    """Judge, render and write."""
    here = run.repository.full_name
    judged = (
        _without_report(parcel.state)
        if parcel.record is None
        else _judged(api, run, pull, parcel.record, inputs)
    )
    origin = Origin(
        repository=here,
        number=pull.number,
        report_id=inputs.id,
        run_id=run.id,
        attempt=run.run_attempt,
        run_url=run.html_url,
        sha=run.head_sha,
        artifact=inputs.artifact,
    )

    def still() -> None:
        problem = _problem(api.pull(here, pull.number), run)
        if problem:
            raise _NotNowError(problem)

    remarks = "\n".join(f"- {line(note)}" for note in judged.notes)
    return upsert(api, origin, body_of(judged.text, origin, remarks=remarks), still, once=True)


def _without_report(state: JobState) -> _Judged:
    """Say that a job came to nothing, in our words: its own are a stranger's."""
    labels = {kind.exit_code: kind.label for kind in TfslimError.__subclasses__()}
    label = labels.get(state.exit_code, "")
    code = f"exit code {state.exit_code}" + (f", {label}" if label else "")
    text = f"❌ **{line(f'The job ended without a report ({code})')}**\n\nIts log says why.\n"
    return _Judged(text, ())


def _judged(api: Api, run: _Measured, pull: Pull, record: RunRecord, inputs: Inputs) -> _Judged:
    """Make verdict and report again, by this repository's own limits and baseline."""
    config, notes = _configuration(api, pull, inputs)
    found = _baseline(api, run, pull, inputs)
    ours = _with_budgets(record, config)
    try:
        held = judge(ours, config.thresholds, Options(), found)
        text = _rendered(held, inputs)
    except TfslimError:
        raise
    except Exception as error:  # what a stranger wrote must not end in a traceback
        raise InputError(
            "the artifact's record cannot be shown", why=plain(f"{type(error).__name__}", 80)
        ) from error
    limits = f"{_place(inputs)} on {plain(pull.base.ref, 80)}"
    told = (
        "Measured by a job that ran this pull request's own code: the figures are that job's word. "
        "Checked: the pull request and its commit, the record's form, and the "
        f"verdict, made again by the limits of {limits}.",
        "What the report says of commit, machine and job is not verified.",
    )
    return _Judged(text, (*told, *notes))


def _rendered(held: Held, inputs: Inputs) -> str:
    return render.markdown(held.record, held.comparison, budgets=held.budgets, marker=inputs.id)


def _with_budgets(record: RunRecord, config: Config) -> RunRecord:
    """Drop the limits that a record brings, and put ours in their place."""
    others = [part.model_copy(update={"budgets": {}}) for part in record.others]
    return record.model_copy(update={"budgets": dict(config.budgets), "others": others})


def _place(inputs: Inputs) -> str:
    """Return the configuration's path in the repository."""
    path = (inputs.config or DEFAULT_FILE).as_posix()
    return path.removeprefix("./")


def _configuration(api: Api, pull: Pull, inputs: Inputs) -> tuple[Config, tuple[str, ...]]:
    """Return the limits of the branch that the pull request is for, and what is wrong with them.

    They come from GitHub itself: a checkout here may be the pull request's own.
    """
    place, notes = _place(inputs), []
    content: bytes | None = b""
    try:
        content = api.file(pull.base.repository, place, pull.base.ref)
    except TfslimError as error:
        notes.append(f"{place} could not be read, so that its limits are not known: {error.what}.")
    if content is None and inputs.config is not None:
        notes.append(f"{place} is not there: only the limits of this workflow were held against.")
    with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
        path = Path(scratch, DEFAULT_FILE.name)
        path.write_bytes(content or b"")
        try:
            return configuration(replace(inputs, config=path)), tuple(notes)
        except ConfigError as error:
            notes.append(f"{place} cannot be used, so that its limits are not known: {error.what}.")
            path.write_bytes(b"")
            return configuration(replace(inputs, config=path)), tuple(notes)


def _baseline(api: Api, run: _Measured, pull: Pull, inputs: Inputs) -> Found | None:
    """Return the record that the pull request is compared with; its absence is said."""
    if inputs.baseline == "none":
        return None
    sought = Sought(
        repository=run.repository.full_name,
        name=inputs.artifact,
        run_id=run.id,
        workflow_id=run.workflow_id,
        branches=(pull.base.ref,),
        base=pull.base.ref,
        head=run.head_sha,
    )
    try:
        return earlier_record(api, sought)
    except TfslimError as error:
        return no_record(error.what)


def _same(one: str, other: str) -> bool:
    """Compare names of repositories, which GitHub does without case."""
    return bool(one) and one.lower() == other.lower()
