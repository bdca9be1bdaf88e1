"""What an event says, and whose code may use a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfslim.errors import ConfigError
from tfslim.github.event import GPU_LABEL, Event, PullRequest, may_use_gpu, read_event

HEAD, MERGE = "a" * 40, "b" * 40


def _env(folder: Path, name: str, payload: object) -> dict[str, str]:
    path = folder / "event.json"
    path.write_text(json.dumps(payload))
    return {
        "GITHUB_EVENT_PATH": str(path),
        "GITHUB_EVENT_NAME": name,
        "GITHUB_REPOSITORY": "me/app",
        "GITHUB_SHA": MERGE,
        "GITHUB_RUN_ID": "7",
        "GITHUB_API_URL": "http://127.0.0.1:1/",
    }


def _request(head_repository: Any = "me/app") -> dict[str, Any]:
    repo = None if head_repository is None else {"full_name": head_repository}
    return {
        "number": 12,
        "head": {"sha": HEAD, "repo": repo},
        "base": {"sha": "c" * 40, "ref": "main"},
        "labels": [{"name": "gpu-ok"}, "not a label"],
    }


def test_a_pull_request_is_measured_at_its_own_commit(tmp_path: Path) -> None:
    payload = {"action": "opened", "pull_request": _request()}
    event = read_event(_env(tmp_path, "pull_request", payload))
    assert event.sha == HEAD
    assert event.pull_request is not None
    assert (event.pull_request.number, event.pull_request.base_ref) == (12, "main")
    assert event.pull_request.labels == ("gpu-ok",)
    assert event.run_url == "https://github.com/me/app/actions/runs/7"
    assert event.api_url == "http://127.0.0.1:1"
    assert not event.is_fork


def test_a_push_is_measured_at_its_commit(tmp_path: Path) -> None:
    event = read_event(_env(tmp_path, "push", {"repository": {"default_branch": "main"}}))
    assert (event.sha, event.default_branch, event.pull_request) == (MERGE, "main", None)


@pytest.mark.parametrize("head", ["other/app", None])
def test_code_of_another_repository_or_of_a_deleted_one_is_a_forks(
    tmp_path: Path, head: str | None
) -> None:
    payload = {"pull_request": _request(head)}
    assert read_event(_env(tmp_path, "pull_request", payload)).is_fork


def test_a_renamed_owner_in_other_letters_is_the_same_repository(tmp_path: Path) -> None:
    payload = {"pull_request": _request("Me/App")}
    assert not read_event(_env(tmp_path, "pull_request", payload)).is_fork


def test_a_workflow_run_is_a_forks_if_its_run_was(tmp_path: Path) -> None:
    payload = {"workflow_run": {"head_repository": {"full_name": "other/app"}}}
    assert read_event(_env(tmp_path, "workflow_run", payload)).is_fork


def test_a_comment_on_a_pull_request_does_not_say_whose_code_it_is(tmp_path: Path) -> None:
    on_request = {"issue": {"pull_request": {"url": "x"}}}
    assert read_event(_env(tmp_path, "issue_comment", on_request)).is_fork
    assert not read_event(_env(tmp_path, "issue_comment", {"issue": {}})).is_fork


@pytest.mark.parametrize(
    ("head", "action", "label", "may"),
    [
        ("me/app", "synchronize", "", True),
        ("other/app", "opened", "", False),
        ("other/app", "labeled", GPU_LABEL, True),
        ("other/app", "labeled", "bug", False),
        ("other/app", "synchronize", GPU_LABEL, False),  # the label was for the commit before
        ("", "labeled", GPU_LABEL, True),
    ],
)
def test_a_forks_code_uses_the_gpu_only_in_the_run_that_the_label_started(
    head: str, action: str, label: str, may: bool
) -> None:
    request = PullRequest(1, HEAD, head_repository=head, labels=(GPU_LABEL,))
    event = Event("pull_request", "me/app", HEAD, action, label=label, pull_request=request)
    assert may_use_gpu(event) is may


def test_outside_of_actions_it_says_what_to_use() -> None:
    with pytest.raises(ConfigError) as told:
        read_event({})
    assert "tfslim bench" in told.value.way_out


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_an_event_that_is_no_object_is_an_error_of_its_own(tmp_path: Path, content: str) -> None:
    path = tmp_path / "event.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="event"):
        read_event({"GITHUB_EVENT_PATH": str(path)})


def test_odd_types_in_a_payload_are_nothing(tmp_path: Path) -> None:
    payload = {"action": 1, "pull_request": {"number": "x"}, "repository": [], "label": None}
    event = read_event(_env(tmp_path, "pull_request", payload))
    assert (event.action, event.pull_request, event.label) == ("", None, "")
