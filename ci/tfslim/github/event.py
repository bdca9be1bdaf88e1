"""What GitHub says of the run that this job belongs to, and who may have code run on a GPU.

Source of the names: "Variables" and "Events that trigger workflows" in GitHub's documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tfslim.errors import ConfigError

__all__ = ["GPU_LABEL", "Event", "PullRequest", "in_actions", "may_use_gpu", "read_event"]

GPU_LABEL: Final = "gpu-ok"
"""The label with which a maintainer lets one commit of a fork run on the project's own GPU."""

_NO_COMMIT: Final = "0" * 40
_MOST_BYTES: Final = 25 * 10**6  # GitHub's own limit for an event's payload


@dataclass(frozen=True)
class PullRequest:
    """The pull request of an event.

    Attributes:
        number: As in #12.
        head_sha: The newest commit of it; GITHUB_SHA is a merge commit that GitHub made.
        base_sha: The tip of the branch it is for, when the event happened.
        base_ref: That branch's name.
        head_repository: OWNER/NAME of where the commits come from; empty where it was deleted.
        labels: Names of all its labels.
    """

    number: int
    head_sha: str
    base_sha: str = ""
    base_ref: str = ""
    head_repository: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """What started the run.

    Attributes:
        name: "push", "pull_request", "workflow_run" and so on.
        action: What happened to a pull request ("opened", "labeled"), or empty.
        repository: OWNER/NAME that the workflow runs in.
        sha: The commit that is measured: a pull request's newest, else GITHUB_SHA.
        ref: As in refs/heads/main.
        default_branch: As in main; empty where the payload does not say.
        run_id: Of the workflow run; 0 outside of one.
        run_attempt: From 1.
        server_url: As in https://github.com.
        api_url: As in https://api.github.com.
        actor: Who started it.
        label: The label of a "labeled" event, or empty.
        pull_request: None where the event is of none.
        payload: All of the event, as GitHub sent it.
    """

    name: str
    repository: str
    sha: str
    action: str = ""
    ref: str = ""
    default_branch: str = ""
    run_id: int = 0
    run_attempt: int = 1
    server_url: str = "https://github.com"
    api_url: str = "https://api.github.com"
    actor: str = ""
    label: str = ""
    pull_request: PullRequest | None = None
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_fork(self) -> bool:
        """Whether the code comes from another repository, or from one that is gone."""
        return self.head_repository.lower() != self.repository.lower()

    @property
    def head_repository(self) -> str:
        """OWNER/NAME that the code comes from; empty where nobody can say."""
        if self.pull_request is not None:
            return self.pull_request.head_repository
        if self.name == "workflow_run":
            run = _table(self.payload, "workflow_run")
            return _text(_table(run, "head_repository"), "full_name")
        if self.name == "issue_comment" and _table(self.payload, "issue").get("pull_request"):
            return ""  # the payload does not say where the pull request comes from
        return self.repository

    @property
    def before(self) -> str:
        """The commit that a branch was at before a push; empty where it was at none."""
        told = _text(self.payload, "before")
        return "" if told == _NO_COMMIT else told

    @property
    def run_url(self) -> str:
        """The page of the workflow run; empty outside of one."""
        if not (self.run_id and self.repository):
            return ""
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}"


def in_actions(env: Mapping[str, str]) -> bool:
    """Return whether this is a step of a GitHub Actions job."""
    return env.get("GITHUB_ACTIONS") == "true"


def read_event(env: Mapping[str, str]) -> Event:
    """Return the event of this job.

    Args:
        env: The environment that GitHub gives to steps.

    Raises:
        ConfigError: There is no such environment, or its event is no JSON object.
    """
    payload = _payload(env.get("GITHUB_EVENT_PATH", ""))
    pull_request = _pull_request(_table(payload, "pull_request"))
    repository = env.get("GITHUB_REPOSITORY", "") or _text(
        _table(payload, "repository"), "full_name"
    )
    return Event(
        name=env.get("GITHUB_EVENT_NAME", ""),
        action=_text(payload, "action"),
        repository=repository,
        sha=pull_request.head_sha if pull_request else env.get("GITHUB_SHA", ""),
        ref=env.get("GITHUB_REF", ""),
        default_branch=_text(_table(payload, "repository"), "default_branch"),
        run_id=_number(env.get("GITHUB_RUN_ID"), 0),
        run_attempt=_number(env.get("GITHUB_RUN_ATTEMPT"), 1),
        server_url=(env.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/"),
        api_url=(env.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/"),
        actor=env.get("GITHUB_ACTOR", ""),
        label=_text(_table(payload, "label"), "name"),
        pull_request=pull_request,
        payload=payload,
    )


def may_use_gpu(event: Event, label: str = GPU_LABEL) -> bool:
    """Return whether this event's code may run on the project's own GPU machine.

    Code of this repository may. Code of a fork may only in the run that a maintainer started by
    putting the label on: that run is of the one commit that was looked at. The label alone does
    not do, for it is still there when the fork pushes again.

    This is the second lock. The first is that the runner is not offered to forks at all: the
    workflow's own text comes from the fork, too.
    """
    return not event.is_fork or (event.action == "labeled" and event.label == label)


def _payload(place: str) -> dict[str, Any]:
    if not place:
        raise ConfigError(
            "this is no step of a GitHub Actions job: GITHUB_EVENT_PATH is not set",
            way_out="On your machine, use the verbs that the action is made of:\n"
            "tfslim bench, tfslim slim, tfslim report",
        )
    path = Path(place)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than any event", why=f"limit: {_MOST_BYTES} B")
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the event in {path} cannot be read", why=str(error)) from error
    if not isinstance(data, dict):
        raise ConfigError(f"the event in {path} is no JSON object")
    return data


def _pull_request(data: Mapping[str, Any]) -> PullRequest | None:
    number = data.get("number")
    if not isinstance(number, int):
        return None
    head, base = _table(data, "head"), _table(data, "base")
    labels = data.get("labels")
    return PullRequest(
        number=number,
        head_sha=_text(head, "sha"),
        base_sha=_text(base, "sha"),
        base_ref=_text(base, "ref"),
        head_repository=_text(_table(head, "repo"), "full_name"),
        labels=tuple(
            _text(label, "name")
            for label in (labels if isinstance(labels, list) else [])
            if isinstance(label, dict)
        ),
    )


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a JSON object of another; an empty one where there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else default
