"""The privileged half: what is posted for a fork, what is refused, and in whose words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import html5lib
import pytest
from markdown_it import MarkdownIt

import report_records
import run_records
from fake_github.state import Run
from github_world import FORK, HERE, TOKEN, World, world
from tfslim.errors import ConfigError, InputError
from tfslim.github.api import ApiError
from tfslim.github.comment import CommentOutcome
from tfslim.github.publish import publish

NAME = "tfslim-report-tfslim"
_MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
LIMITS = "budgets:\n  default:\n    max-pull: {}\n"


@pytest.fixture
def github() -> Iterator[World]:
    with world() as made:
        yield made


def _record(pull: int = 1_000_000_000, **more: Any) -> bytes:
    sizes = {"app": run_records.inspection(pull)}
    return json.dumps(run_records.document(**{"sizes": sizes, **more})).encode()


def _left(
    github: World, run: Run, number: int = 6, files: Mapping[str, bytes] | None = None, **state: Any
) -> None:
    """Let a run leave its report."""
    told = github.job_state(run, number, **state).model_dump_json().encode()
    default = {"report.json": _record(), "report.md": b"[a link](https://evil.example)"}
    github.state.artifact(HERE, run.id, NAME, {"action.json": told, **default, **(files or {})})


def _publish(github: World, run: Run, env: Mapping[str, str] | None = None) -> CommentOutcome:
    given = {"TFSLIM_INPUT_MODE": "publish", **(env or {})}
    return publish(github.api(), github.workflow_event(run), given)


def _posted(github: World, **more: Any) -> str:
    """Publish what a fork's run left, and return the comment."""
    run = github.run_of(6)
    _left(github, run, **more)
    outcome = _publish(github, run)
    assert outcome.done == "created"
    assert [item.issue for item in github.here.comments] == [6]
    return _body(github)


def _body(github: World) -> str:
    """Return the only comment, with plain spaces."""
    (body,) = github.bodies
    return body.replace("\u00a0", " ")


def test_a_forks_report_is_posted(github: World) -> None:
    body = _posted(github)
    assert body.startswith("<!-- tfslim-report:tfslim -->\n✅ **")
    assert "| app | 1.00 GB |" in body
    assert "Measured by a job that ran this pull request" in body
    assert "evil" not in body
    assert github.six[:12] in body


def test_again_for_the_next_push_it_is_edited(github: World) -> None:
    _posted(github)
    pull = github.here.pull(6)
    assert pull is not None
    pull.head_sha = github.state.commit("seven", github.six)
    run = github.run_of(6)
    _left(github, run, files={"report.json": _record(2_000_000_000)})
    assert _publish(github, run).done == "updated"
    assert len(github.bodies) == 1
    assert "2.00 GB" in _body(github)


def test_a_run_that_commented_itself_is_left_at_that(github: World) -> None:
    run = github.run_of(5)
    _left(github, run, 5)
    body = f"<!-- tfslim-report:tfslim -->\nits own\n<!-- tfslim-run:{run.id}.1 -->"
    github.state.comment(HERE, 5, body)
    assert _publish(github, run).note == "this run has commented already"
    assert github.bodies == [body]


def test_a_pull_request_of_the_repository_comes_from_the_event(github: World) -> None:
    run = github.run_of(5)
    _left(github, run, 5)
    assert _publish(github, run).done == "created"
    assert github.here.comments[0].issue == 5
    assert not github.fake.asked("GET", "/pulls$")


# ── which pull request ───────────────────────────────────────────────────────────────────────


def test_the_number_never_comes_from_the_artifact(github: World) -> None:
    run = github.run_of(6)
    _left(github, run, pull_request=5)
    with pytest.raises(InputError, match="another pull request"):
        _publish(github, run)
    assert github.bodies == []


def test_of_a_run_that_is_overtaken_nothing_is_posted(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    pull = github.here.pull(6)
    assert pull is not None
    pull.head_sha = github.state.commit("seven", github.six)
    outcome = _publish(github, run)
    assert outcome.done == "skipped"
    assert outcome.note == (
        f"#6 has moved on to {pull.head_sha[:12]}; run {run.id} measured {github.six[:12]}"
    )
    assert github.bodies == []
    assert not github.fake.asked("GET", "zip")


def test_it_is_looked_at_again_before_it_is_written(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    pull = github.here.pull(6)
    assert pull is not None
    api = github.api()
    comments = api.comments

    def meanwhile(*place: Any) -> Any:
        pull.head_sha = github.state.commit("seven", github.six)
        return comments(*place)

    api.comments = meanwhile  # type: ignore[method-assign]
    outcome = publish(api, github.workflow_event(run), {"TFSLIM_INPUT_MODE": "publish"})
    assert "has moved on" in outcome.note
    assert github.bodies == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"state": "closed"}, "no open pull request comes from someone/app:main"),
        ({"head_branch": "other"}, "no open pull request comes from someone/app:main"),
        ({"head_repository": "else/app"}, "no open pull request comes from someone/app:main"),
    ],
)
def test_without_the_pull_request_nothing_is_posted(
    github: World, change: dict[str, str], told: str
) -> None:
    run = github.run_of(6)
    _left(github, run)
    pull = github.here.pull(6)
    assert pull is not None
    for name, value in change.items():
        setattr(pull, name, value)
    assert _publish(github, run).note == told
    assert github.bodies == []


def test_a_commit_of_another_pull_request_is_no_way_into_it(github: World) -> None:
    """A fork whose branch is at somebody else's commit: its run is not of their pull request."""
    github.state.repository("mallory/app")
    run = github.state.run(
        HERE, github.six, event="pull_request", head_branch="main", head_repository="mallory/app"
    )
    _left(github, run)
    github.state.fork_commits_listed = True
    assert "mallory/app:main" in _publish(github, run).note
    assert github.bodies == []


def test_a_second_fork_of_the_same_owner_is_another(github: World) -> None:
    """GitHub's list by branch is of the owner, not of the repository."""
    other = github.state.commit("other", github.main)
    github.state.pull(HERE, 8, other, head_repository="someone/app-2", head_branch="main")
    run = github.run_of(6)
    _left(github, run)
    _publish(github, run)
    assert [item.issue for item in github.here.comments] == [6]


def test_a_fork_that_is_not_listed_by_branch_is_found_by_commit(github: World) -> None:
    github.state.fork_commits_listed = True
    run = github.run_of(6)
    _left(github, run)
    github.state.fault(200, path="/pulls$", body=[])
    assert _publish(github, run).done == "created"


def test_two_pull_requests_with_one_newest_commit(github: World) -> None:
    github.here.branches["release"] = github.main
    github.state.pull(
        HERE, 7, github.six, head_repository=FORK, head_branch="main", base_branch="release"
    )
    run = github.run_of(6)
    _left(github, run)
    assert "#7, #6 have the same newest commit" in _publish(github, run).note
    assert github.bodies == []


def test_a_fork_that_is_gone(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    event = github.workflow_event(run)
    payload = {**event.payload["workflow_run"], "head_repository": None}
    gone = replace(event, payload={**event.payload, "workflow_run": payload})
    outcome = publish(github.api(), gone, {"TFSLIM_INPUT_MODE": "publish"})
    assert "a repository that is gone" in outcome.note


@pytest.mark.parametrize("name", ["push", "pull_request_target", "schedule"])
def test_runs_for_no_pull_request(github: World, name: str) -> None:
    run = github.run_of(6)
    run.event = name
    _left(github, run)
    assert f"was not for a pull request ({name})" in _publish(github, run).note


def test_only_in_a_workflow_of_its_own(github: World) -> None:
    with pytest.raises(ConfigError, match="belongs into a workflow on `workflow_run`") as caught:
        publish(github.api(), github.pull_event(6), {"TFSLIM_INPUT_MODE": "publish"})
    assert "pr-comment.yml" in caught.value.way_out


@pytest.mark.parametrize(
    "change",
    [
        {"head_sha": "main"},
        {"id": None},
        {"repository": {"full_name": "else/app"}},
    ],
)
def test_events_that_are_none(github: World, change: dict[str, Any]) -> None:
    event = github.workflow_event(github.run_of(6))
    payload = {**event.payload["workflow_run"], **change}
    broken = replace(event, payload={**event.payload, "workflow_run": payload})
    with pytest.raises(ConfigError):
        publish(github.api(), broken, {"TFSLIM_INPUT_MODE": "publish"})
    asked = replace(event, action="requested")
    with pytest.raises(ConfigError):
        publish(github.api(), asked, {"TFSLIM_INPUT_MODE": "publish"})


# ── the artifact ─────────────────────────────────────────────────────────────────────────────


def test_without_an_artifact_nothing_is_posted(github: World) -> None:
    run = github.run_of(6)
    assert _publish(github, run).note == f"the artifact {NAME} of run {run.id} is not there"
    _left(github, run)
    github.here.artifacts[-1].expired = True
    assert _publish(github, run).note == f"the artifact {NAME} of run {run.id} has expired"


def test_of_several_attempts_the_newest_counts(github: World) -> None:
    run = github.run_of(6)
    _left(github, run, files={"report.json": _record(1_000_000_000)})
    _left(github, run, files={"report.json": _record(3_000_000_000)})
    _publish(github, run)
    assert "3.00 GB" in _body(github)


@pytest.mark.parametrize(
    ("claim", "what"),
    [
        ({"repository": "org/other"}, "repository"),
        ({"run_id": 1}, "run"),
        ({"head_sha": "f" * 40}, "commit"),
        ({"pull_request": None}, "pull request"),
        ({"id": "other"}, "report"),
    ],
)
def test_what_it_says_of_itself_has_to_be_true(
    github: World, claim: dict[str, Any], what: str
) -> None:
    run = github.run_of(6)
    _left(github, run, **claim)
    with pytest.raises(InputError, match=f"another {what}"):
        _publish(github, run)
    assert github.bodies == []


@pytest.mark.parametrize(
    "files",
    [
        {"report.json": b"{}"},
        {"action.json": b"{}"},
        {"../../etc/x": b""},
        {"report.json": b"[" * 100_000},
    ],
)
def test_hostile_artifacts_are_refused(github: World, files: dict[str, bytes]) -> None:
    run = github.run_of(6)
    _left(github, run, files=files)
    with pytest.raises(InputError):
        _publish(github, run)
    assert github.bodies == []


# ── the verdict ──────────────────────────────────────────────────────────────────────────────


def test_the_verdict_is_made_by_the_base_branchs_limits(github: World) -> None:
    github.here.files["main"] = {"tfslim.yaml": LIMITS.format("900 MB")}
    body = _posted(github, verdict="good", exit_code=0)
    assert body.startswith("<!-- tfslim-report:tfslim -->\n❌ **")
    assert "is over its 900 MB budget" in body


def test_limits_that_a_record_brings_are_dropped(github: World) -> None:
    mine = {"default": {"max_pull": 1}}
    body = _posted(github, files={"report.json": _record(budgets=mine)})
    assert "✅" in body.partition("\n\n")[0]
    assert "no budgets are set" in body


def test_limits_of_the_parts_of_a_record_are_dropped(github: World) -> None:
    part = json.loads(_record(budgets={"default": {"max_pull": 1}}))
    body = _posted(github, files={"report.json": _record(others=[part])})
    assert "✅" in body.partition("\n\n")[0]


def test_the_limits_are_those_of_the_branch_not_of_the_fork(github: World) -> None:
    github.here.files["main"] = {"ci/limits.yaml": LIMITS.format("900 MB")}
    github.state.repository(FORK).files["main"] = {"ci/limits.yaml": LIMITS.format("9 GB")}
    run = github.run_of(6)
    _left(github, run)
    _publish(github, run, {"TFSLIM_INPUT_CONFIG": "./ci/limits.yaml"})
    assert "is over its 900 MB budget" in _body(github)


def test_limits_of_the_workflow_hold_too(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    _publish(github, run, {"TFSLIM_INPUT_MAX_PULL": "800 MB"})
    assert "is over its 800 MB budget" in _body(github)


def test_limits_that_cannot_be_used_are_said(github: World) -> None:
    github.here.files["main"] = {"tfslim.yaml": "no: such key\n"}
    assert "tfslim.yaml cannot be used, so that its limits are not known" in _posted(github)


def test_limits_that_cannot_be_read_are_said(github: World) -> None:
    github.state.tokens[TOKEN].permissions.pop("contents")
    body = _posted(github)
    assert "tfslim.yaml could not be read, so that its limits are not known" in body
    assert "contents: read" in body


def test_a_named_configuration_that_is_missing_is_said(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    _publish(github, run, {"TFSLIM_INPUT_CONFIG": "limits.yaml"})
    assert "limits.yaml is not there" in _body(github)


def test_it_is_compared_with_this_repositorys_own_run(github: World) -> None:
    before = github.state.run(HERE, github.main)
    github.state.artifact(HERE, before.id, NAME, {"report.json": _record(500_000_000)})
    body = _posted(github)
    assert f"run {before.id} of {github.main[:12]}, the merge base" in body
    assert "+100" in body


def test_a_missing_baseline_is_said(github: World) -> None:
    body = _posted(github)
    assert "No baseline: no run on main has an artifact" in body


def test_no_baseline_where_none_is_wanted(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    _publish(github, run, {"TFSLIM_INPUT_BASELINE": "none"})
    assert "aseline" not in _body(github).partition("<details>")[0]


def test_a_job_that_came_to_nothing_is_told_in_our_words(github: World) -> None:
    run = github.run_of(6)
    state = github.job_state(
        run,
        6,
        status="failed",
        verdict="error",
        exit_code=7,
        error={"label": "build", "what": "[click](https://evil.example) @everyone"},
    )
    files = {"action.json": state.model_dump_json().encode()}
    github.state.artifact(HERE, run.id, NAME, files)
    assert _publish(github, run).done == "created"
    body = _body(github)
    assert "❌ **The job ended without a report (exit code 7, build)**" in body
    assert "evil" not in body
    assert "everyone" not in body


# ── the text ─────────────────────────────────────────────────────────────────────────────────


def test_hostile_texts_stay_texts(github: World) -> None:
    hostile = report_records.HOSTILE[0]
    document = json.loads(_record())
    document["sizes"] = {text[:400]: document["sizes"]["app"] for text in report_records.HOSTILE}
    document["notes"] = [text[:20_000] for text in report_records.HOSTILE]
    document["environment"]["gpu"] = hostile
    body = _posted(github, files={"report.json": json.dumps(document).encode()})
    page = html5lib.parse(_MARKDOWN.render(body), namespaceHTMLElements=False)
    assert {item.get("href") for item in page.iter("a")} == {
        f"https://github.com/{HERE}/actions/runs/{github.here.runs[0].id}"
    }
    assert not [item for tag in ("img", "svg", "script", "h1", "h2") for item in page.iter(tag)]
    for evil in ("@someone", "@org", "\u202e", "\x1b"):
        assert evil not in body
    assert body.count("<!-- tfslim-report:") == 1
    assert body.count("<!-- tfslim-run:") == 1


def test_a_record_that_cannot_be_shown_is_refused(
    github: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError("a figure nobody thought of")

    monkeypatch.setattr("tfslim.github.publish.render.markdown", broken)
    run = github.run_of(6)
    _left(github, run)
    with pytest.raises(InputError, match="cannot be shown"):
        _publish(github, run)


def test_a_token_that_may_not_comment(github: World) -> None:
    github.state.tokens[TOKEN].permissions["pull_requests"] = "read"
    github.state.tokens[TOKEN].permissions.pop("issues")
    run = github.run_of(6)
    _left(github, run)
    with pytest.raises(ApiError, match="pull-requests: write"):
        _publish(github, run)


def test_never_means_never(github: World) -> None:
    run = github.run_of(6)
    _left(github, run)
    assert _publish(github, run, {"TFSLIM_INPUT_COMMENT": "never"}).done == "skipped"
    assert github.fake.requests == []
