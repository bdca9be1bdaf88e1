"""A small world on the fake of GitHub: a repository, pull requests, runs and artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fake_github import FakeGitHub
from fake_github.state import Repository, Run, State
from tfslim.github.api import Api
from tfslim.github.event import Event, PullRequest
from tfslim.github.rest import Clock, Rest
from tfslim.github.state import JobState

__all__ = ["FORK", "HERE", "TOKEN", "Time", "World", "world"]

HERE = "org/app"
FORK = "someone/app"
TOKEN = "ghs_a-token-of-a-job-0123456789"
READER = "ghs_a-token-of-a-fork-0123456789"
USER = "ghp_a-token-of-a-user-0123456789"


@dataclass
class Time:
    """A clock that only tests move; `slept` holds every pause."""

    at: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds

    def clock(self) -> Clock:
        return Clock(self.sleep, lambda: self.at, lambda: 0.5)


@dataclass
class World:
    """The fake, and what is in it.

    Attributes:
        main: The commit that both pull requests branched off.
        five: Newest commit of #5, from a branch of the repository itself.
        six: Newest commit of #6, from a fork.
    """

    fake: FakeGitHub
    time: Time
    main: str
    five: str
    six: str
    said: list[str] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.fake.state

    @property
    def here(self) -> Repository:
        return self.state.repositories[HERE]

    @property
    def bodies(self) -> list[str]:
        return self.here.body()

    def api(self, token: str = TOKEN, **more: Any) -> Api:
        clock = self.time.clock()
        return Api(Rest(self.fake.url, token, say=self.said.append, clock=clock, **more))

    def pull_event(self, number: int = 5, run_id: int = 900) -> Event:
        """Return the event of a pull request's run."""
        pull = self.here.pull(number)
        assert pull is not None
        return Event(
            name="pull_request",
            action="synchronize",
            repository=HERE,
            sha=pull.head_sha,
            ref=f"refs/pull/{number}/merge",
            default_branch="main",
            run_id=run_id,
            api_url=self.fake.url,
            pull_request=PullRequest(
                number=number,
                head_sha=pull.head_sha,
                base_sha=pull.base_sha,
                base_ref=pull.base_branch,
                head_repository=pull.head_repository,
            ),
            payload=self.fake.pull_request_event(HERE, number),
        )

    def run_of(self, number: int = 6, **more: Any) -> Run:
        """Add the run that measured a pull request."""
        pull = self.here.pull(number)
        assert pull is not None
        return self.state.run(
            HERE,
            pull.head_sha,
            event="pull_request",
            head_branch=pull.head_branch,
            head_repository=pull.head_repository,
            **more,
        )

    def workflow_event(self, run: Run) -> Event:
        """Return the event that follows a run."""
        return Event(
            name="workflow_run",
            action="completed",
            repository=HERE,
            sha=self.main,
            ref="refs/heads/main",
            default_branch="main",
            run_id=run.id + 1,
            api_url=self.fake.url,
            payload=self.fake.workflow_run_event(HERE, run.id),
        )

    def job_state(self, run: Run, number: int = 6, **more: Any) -> JobState:
        """Return what such a run says of itself."""
        known = {
            "id": "tfslim",
            "status": "done",
            "exit_code": 0,
            "verdict": "good",
            "artifact": "tfslim-report-tfslim",
            "event": "pull_request",
            "repository": HERE,
            "pull_request": number,
            "head_sha": run.head_sha,
            "run_id": run.id,
        }
        return JobState.model_validate({**known, **more})

    def in_actions(self, event: Event, folder: Any) -> dict[str, str]:
        """Return the environment of a step; its files lie in a folder."""
        payload = folder / "event.json"
        payload.write_text(json.dumps(event.payload))
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": event.api_url,
            "GITHUB_EVENT_NAME": event.name,
            "GITHUB_EVENT_PATH": str(payload),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_REF": event.ref,
            "GITHUB_REPOSITORY": event.repository,
            "GITHUB_RUN_ID": str(event.run_id),
            "GITHUB_SHA": event.sha,
            "TFSLIM_TOKEN": TOKEN,
        }


@contextmanager
def world(prefix: str = "") -> Iterator[World]:
    """Give a world; whatever GitHub's description does not allow fails the test."""
    state = State()
    state.token(TOKEN)
    state.token(READER, permissions={"metadata": "read", "contents": "read", "actions": "read",
                                     "pull_requests": "read"})  # fmt: skip
    state.token(USER, "hubot", kind="user")
    here = state.repository(HERE)
    main = here.branches["main"]
    five, six = state.commit("five", main), state.commit("six", main)
    with FakeGitHub(state, prefix=prefix) as fake:
        state.pull(HERE, 5, five)
        state.pull(HERE, 6, six, head_repository=FORK, head_branch="main")
        state.commits[main] = [state.commit("older")]
        yield World(fake, Time(), main, five, six)
    assert fake.violations == []
