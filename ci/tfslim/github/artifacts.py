"""The record that a run is compared with, out of the artifact of an earlier run.

For a pull request: the run of the commit that it branched off, else the newest of the branch it is
for. For a push: the run before it. Only runs of this repository's own commits count: a fork's pull
request may come from a branch that is called main, too, and its artifact says what it likes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfslim.errors import TfslimError
from tfslim.github.api import Api, ApiError, Artifact, Run
from tfslim.github.event import Event
from tfslim.report.baseline import Found, find_baseline
from tfslim.report.compare import BaselineInfo
from tfslim.report.inert import plain

__all__ = ["MOST_BYTES", "Sought", "baseline_record", "earlier_record", "no_record"]

MOST_BYTES: Final = 128 << 20
"""Bytes of an artifact's zip: record, samples, pages and pictures."""

_TRUSTED: Final = frozenset({"push", "schedule", "workflow_dispatch"})
_CONCLUDED: Final = frozenset({"success", "failure"})  # a broken budget leaves a record, too
_MOST_TRIED: Final = 5  # runs whose artifacts are looked at


@dataclass(frozen=True)
class Sought:
    """Whose baseline is sought.

    Attributes:
        repository: OWNER/NAME.
        name: Of the artifact.
        run_id: The run that is compared: never its own baseline.
        workflow_id: Of its workflow; 0 where that is not known.
        branches: Whose newest run will do, in this order.
        base: Commit or branch that a pull request is for; empty for a push.
        head: Its newest commit.
        before: The commit before a push; empty where nobody knows.
    """

    repository: str
    name: str
    run_id: int
    workflow_id: int
    branches: tuple[str, ...]
    base: str = ""
    head: str = ""
    before: str = ""


@dataclass(frozen=True)
class _Candidate:
    run: Run
    told: str


def baseline_record(api: Api, event: Event, artifact_name: str) -> Found:
    """Fetch the record that this run is compared with.

    Args:
        api: GitHub.
        event: What started this run.
        artifact_name: Name of the artifact that such runs leave.

    Returns:
        The record, whose source is "run 12 of 3f2a9c1d0b7e, the merge base", say; or None and a
        sentence that says why there is none. Nothing is raised: a missing baseline is no error.
    """
    try:
        return earlier_record(api, _sought(api, event, artifact_name))
    except TfslimError as error:
        parts = (error.what, error.why)
        return no_record(". ".join(plain(part.rstrip("."), 300) for part in parts if part))


def no_record(why: str) -> Found:
    """Return what stands for a record that there is not; `why` is a sentence without its end."""
    note = f"No baseline: {why}."
    return None, BaselineInfo(source="an earlier run", found=False, note=note)


def _sought(api: Api, event: Event, name: str) -> Sought:
    request = event.pull_request
    branch = event.ref.removeprefix("refs/heads/") if event.ref.startswith("refs/heads/") else ""
    own = [request.base_ref if request else branch, event.default_branch]
    return Sought(
        repository=event.repository,
        name=name,
        run_id=event.run_id,
        workflow_id=api.run(event.repository, event.run_id).workflow_id if event.run_id else 0,
        branches=tuple(dict.fromkeys(filter(None, own))),
        base=(request.base_sha or request.base_ref) if request else "",
        head=request.head_sha if request else "",
        before="" if request else event.before,
    )


def earlier_record(api: Api, sought: Sought) -> Found:
    """Fetch the record of the first run that has one; see `baseline_record`.

    Raises:
        ApiError: GitHub refuses or cannot be reached.
    """
    problems: list[str] = []
    tried: set[int] = set()
    for candidate in _candidates(api, sought, problems):
        if candidate.run.id in tried:
            continue
        if len(tried) == _MOST_TRIED:
            break
        tried.add(candidate.run.id)
        found = _record_of(api, sought, candidate.run, problems)
        if found is not None:
            sha = plain(candidate.run.head_sha)[:12]
            source = f"run {candidate.run.id} of {sha}, {candidate.told}"
            return found[0], found[1].model_copy(update={"source": source})
    where = " or ".join(plain(branch, 60) for branch in sought.branches) or "the default branch"
    why = problems[0] if problems else f"no run on {where} has an artifact {sought.name} yet"
    return no_record(why)


def _candidates(api: Api, sought: Sought, problems: list[str]) -> Iterator[_Candidate]:
    """Yield runs, the best first."""
    commit, told = sought.before, "the commit before"
    if sought.base and sought.head:
        commit, told = _merge_base(api, sought, problems), "the merge base"
    if commit:
        for run in api.runs_of(sought.repository, commit):
            if _usable(run, sought):
                yield _Candidate(run, told)
    for branch in sought.branches if sought.workflow_id else ():
        for run in _newest_on(api, sought, branch):
            if _usable(run, sought):
                yield _Candidate(run, f"the newest on {plain(branch, 24)}")


def _merge_base(api: Api, sought: Sought, problems: list[str]) -> str:
    """Return the commit that a pull request branched off; empty where GitHub does not know."""
    try:
        return api.merge_base(sought.repository, sought.base, sought.head)
    except ApiError as error:
        problems.append(f"the merge base is not known: {error.what}")
        return ""


def _newest_on(api: Api, sought: Sought, branch: str) -> list[Run]:
    try:
        found = api.runs_on(sought.repository, sought.workflow_id, branch)
    except ApiError as error:
        if error.status == 404:  # the workflow is not on the default branch yet
            return []
        raise
    return [run for run in found if run.head_branch == branch]


def _usable(run: Run, sought: Sought) -> bool:
    """True for another, finished run of this repository's own commit."""
    return (
        run.id != sought.run_id
        and run.status == "completed"
        and run.conclusion in _CONCLUDED
        and run.event in _TRUSTED
        and run.source.lower() == sought.repository.lower()
    )


def _record_of(api: Api, sought: Sought, run: Run, problems: list[str]) -> Found | None:
    """Fetch a run's record; None where it left none, or none that can be read."""
    for artifact in api.artifacts(sought.repository, run.id, sought.name):
        if artifact.name != sought.name:
            continue
        if artifact.expired:
            problems.append(f"the artifact of run {run.id} has expired")
            continue
        try:
            found = _fetched(api, sought, artifact)
        except TfslimError as error:
            why = error.what
        else:
            if found[0] is not None:
                return found
            why = found[1].note
        problems.append(f"the artifact of run {run.id} is of no use: {plain(why, 200)}")
    return None


def _fetched(api: Api, sought: Sought, artifact: Artifact) -> Found:
    with tempfile.TemporaryDirectory(prefix="tfslim-baseline-") as scratch:
        path = api.download(sought.repository, artifact, Path(scratch), most=MOST_BYTES)
        return find_baseline(str(path))
