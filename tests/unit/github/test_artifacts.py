"""Whose record a run is compared with, and that its absence is a sentence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import run_records
from fake_github.state import Run
from github_world import FORK, HERE, World, world
from tfslim.github.artifacts import baseline_record
from tfslim.github.event import Event

NAME = "tfslim-report-tfslim"


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world; what is fetched lies in `tmp_path` as long as it lies anywhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with world() as made:
        yield made


def _record(pull: int = 1000) -> dict[str, bytes]:
    sizes = {"app": run_records.inspection(pull)}
    return {
        "report.json": json.dumps(run_records.document(sizes=sizes)).encode(),
        "plots/a.svg": b"<svg/>",
    }


def _left(github: World, sha: str, pull: int = 1000, **more: object) -> Run:
    """Add a run that left a record."""
    run = github.state.run(HERE, sha, **more)
    github.state.artifact(HERE, run.id, NAME, _record(pull))
    return run


def _event(github: World) -> Event:
    return github.pull_event(5, github.run_of(5).id)


def _push(github: World, sha: str, before: str = "", branch: str = "main") -> Event:
    run = github.state.run(HERE, sha, status="in_progress", conclusion=None, head_branch=branch)
    return Event(
        name="push",
        repository=HERE,
        sha=sha,
        ref=f"refs/heads/{branch}",
        default_branch="main",
        run_id=run.id,
        api_url=github.fake.url,
        payload={"before": before},
    )


def _found(github: World, event: Event) -> tuple[int | None, str]:
    record, info = baseline_record(github.api(), event, NAME)
    assert info.found == (record is not None)
    if record is None:
        return None, info.note
    return record.sizes["app"].pull_bytes, info.source


def test_the_merge_bases_run(github: World) -> None:
    later = github.state.commit("later", github.main)
    run = _left(github, github.main, 111)
    _left(github, later, 222)
    github.here.branches["main"] = later
    assert _found(github, _event(github)) == (
        111,
        f"run {run.id} of {github.main[:12]}, the merge base",
    )


def test_a_failed_run_of_the_merge_base_left_a_record_too(github: World) -> None:
    _left(github, github.main, 111, conclusion="failure")
    assert _found(github, _event(github))[0] == 111


def test_else_the_newest_of_the_branch(github: World) -> None:
    older = github.state.commit("older still")
    _left(github, older, 1)
    run = _left(github, github.state.commit("old"), 222)
    assert _found(github, _event(github)) == (
        222,
        f"run {run.id} of {run.head_sha[:12]}, the newest on main",
    )


@pytest.mark.parametrize(
    "more",
    [
        {"conclusion": "cancelled"},
        {"status": "in_progress", "conclusion": None},
        {"event": "pull_request"},
        {"event": "pull_request_target"},
        {"head_repository": FORK},
    ],
)
def test_runs_that_are_no_baseline(github: World, more: dict[str, str]) -> None:
    _left(github, github.main, 666, **more)
    pull, note = _found(github, _event(github))
    assert pull is None
    assert note == "No baseline: no run on main has an artifact tfslim-report-tfslim yet."


def test_a_forks_main_is_not_ours(github: World) -> None:
    """A fork's pull request from its own `main` is listed among the runs on `main`."""
    fork = github.run_of(6, conclusion="success")
    assert fork.head_branch == "main"
    github.state.artifact(HERE, fork.id, NAME, _record(666))
    assert _found(github, _event(github))[0] is None
    run = _left(github, github.state.commit("old"), 222)
    fork.created_at = "2026-12-01T00:00:00Z"
    assert _found(github, _event(github))[1].startswith(f"run {run.id} ")


def test_another_workflow_is_not_ours(github: World) -> None:
    _left(github, github.state.commit("old"), 666, workflow_id=8, path=".github/workflows/x.yml")
    assert _found(github, _event(github))[0] is None


def test_another_artifact_is_not_ours(github: World) -> None:
    run = github.state.run(HERE, github.main)
    github.state.artifact(HERE, run.id, "tfslim-report-other", _record())
    assert _found(github, _event(github))[0] is None


def test_an_expired_artifact_is_passed_over(github: World) -> None:
    run = _left(github, github.main)
    github.here.artifacts[-1].expired = True
    pull, note = _found(github, _event(github))
    assert (pull, note) == (None, f"No baseline: the artifact of run {run.id} has expired.")
    github.state.artifact(HERE, run.id, NAME, _record(333))  # a second attempt
    assert _found(github, _event(github))[0] == 333


@pytest.mark.parametrize(
    "content", [b"no zip", {"other.txt": b"x"}, {"report.json": b"{}"}, {"report.json": b"[["}]
)
def test_an_artifact_of_no_use_is_passed_over(github: World, tmp_path: Path, content) -> None:
    broken = github.state.run(HERE, github.main)
    github.state.artifact(HERE, broken.id, NAME, content)
    pull, note = _found(github, _event(github))
    assert pull is None
    assert note.startswith(f"No baseline: the artifact of run {broken.id} is of no use: ")
    assert list(tmp_path.iterdir()) == []
    _left(github, github.state.commit("old"), 222)
    assert _found(github, _event(github))[0] == 222


def test_a_pull_request_for_another_branch(github: World) -> None:
    pull = github.here.pull(5)
    assert pull is not None
    pull.base_branch = "release"
    _left(github, github.state.commit("old"), 222)
    assert _found(github, _event(github))[0] == 222
    _left(github, github.state.commit("r"), 333, head_branch="release")
    assert _found(github, _event(github))[1].endswith("the newest on release")


def test_a_push_has_the_run_before_it(github: World) -> None:
    before = github.state.commit("before")
    _left(github, before, 111)
    _left(github, github.state.commit("another"), 222)
    pull, note = _found(github, _push(github, github.main, before))
    assert (pull, note.partition(", ")[2]) == (111, "the commit before")
    pull, note = _found(github, _push(github, github.main, "0" * 40))
    assert (pull, note.partition(", ")[2]) == (222, "the newest on main")


def test_a_run_is_not_its_own_baseline(github: World) -> None:
    event = _push(github, github.main)
    run = github.here.run(event.run_id)
    assert run is not None
    run.status, run.conclusion = "completed", "success"
    github.state.artifact(HERE, run.id, NAME, _record())
    assert _found(github, event)[0] is None


def test_a_first_push_of_a_branch_has_the_default_branchs(github: World) -> None:
    _left(github, github.main, 111)
    event = _push(github, github.state.commit("new"), "0" * 40, branch="feature")
    assert _found(github, event)[1].endswith("the newest on main")


@pytest.mark.parametrize("status", [401, 404, 429, 500, 0])
def test_what_goes_wrong_is_said(github: World, status: int) -> None:
    _left(github, github.main)
    event = _event(github)
    github.state.fault(status, times=99)
    pull, note = _found(github, event)
    assert pull is None
    assert note.startswith("No baseline: ")


def test_a_missing_permission_is_named(github: World) -> None:
    github.state.token("ghs_none", permissions={"contents": "read"})
    record, info = baseline_record(github.api("ghs_none"), _event(github), NAME)
    assert record is None
    assert "`actions: read`" in info.note


def test_without_a_merge_base_the_newest_will_do(github: World) -> None:
    _left(github, github.state.commit("old"), 222)
    event = _event(github)
    assert event.pull_request is not None
    lost = replace(event, pull_request=replace(event.pull_request, head_sha="f" * 40))
    assert _found(github, lost)[0] == 222


def test_a_workflow_that_is_new(github: World) -> None:
    event = _event(github)
    github.state.fault(404, path="/workflows/", times=9)
    assert _found(github, event)[1].endswith("has an artifact tfslim-report-tfslim yet.")
