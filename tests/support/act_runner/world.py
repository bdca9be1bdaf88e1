"""A user's repository as three parties see it: git, GitHub's API (a fake) and the runner (act)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from act_runner.outcome import ActRun
from act_runner.runner import TOKEN, Act
from act_runner.userrepo import UserRepo
from act_runner.workflows import checkout, workflow
from fake_github import FakeGitHub

__all__ = ["FORK", "FORK_TOKEN", "World"]

FORK = "stranger/demo"
FORK_TOKEN = "ghs_An0therLongT0kenThatMayReadAndNothingElse0815"
# Ids of runs differ from world to world: all of them keep artifacts in one place.
_NUMBERS = itertools.count(1_000_000, 1_000_000)
_READ = {"metadata": "read", "contents": "read", "actions": "read", "pull_requests": "read"}


class World:
    """One repository, its pull requests, its runs and what they left.

    Args:
        act: Runs workflows.
        fake: GitHub's API; made to know the repository.
        repository: The user's; with at least one commit on main.
        workflow: Path of the workflow under test in it.
    """

    def __init__(self, act: Act, fake: FakeGitHub, repository: UserRepo) -> None:
        self.act = act
        self.fake = fake
        self.repository = repository
        self.name = repository.name
        fake.state.next_id = next(_NUMBERS)
        fake.state.token(TOKEN)
        fake.state.token(FORK_TOKEN, permissions=_READ)
        self._learn()

    @property
    def comments(self) -> list[str]:
        """The bodies of all comments."""
        return self.fake.state.repository(self.name).body()

    def use(self, *steps: dict[str, Any], **jobs: Any) -> None:
        """Commit the workflow: a checkout, then these steps; or these jobs."""
        text = workflow(checkout(), *steps, **jobs)
        self.repository.commit({".github/workflows/tfslim.yml": text}, "Use the action")

    def push(
        self, workflow: str = "tfslim.yml", *, ref: str = "refs/heads/main", **more: Any
    ) -> ActRun:
        """Run a workflow for a push of what is checked out."""
        sha = self.repository.head
        payload = {
            "ref": ref,
            "before": "0" * 40,
            "after": sha,
            "head_commit": {"id": sha},
            "repository": {"full_name": self.name, "default_branch": "main"},
            "sender": {"login": "mona"},
        }
        return self.run(workflow, "push", payload, sha, **more)

    def open_pull(self, number: int = 7, *, fork: bool = False) -> int:
        """Open a pull request for what is checked out."""
        where = {"head_repository": FORK} if fork else {}
        self._learn()
        self.fake.state.pull(
            self.name,
            number,
            self.repository.head,
            head_branch=self.repository.git("branch", "--show-current"),
            **where,
        )
        return number

    def push_to_pull(self, number: int = 7) -> None:
        """Tell GitHub that what is checked out is now the pull request's newest commit."""
        self._learn()
        pull = self._pull(number)
        pull.head_sha = self.repository.head
        self.fake.state.repository(pull.head_repository).branches[pull.head_branch] = pull.head_sha

    def pull_request(
        self,
        number: int = 7,
        workflow: str = "tfslim.yml",
        *,
        action: str = "synchronize",
        label: str = "",
        event: str = "pull_request",
        **more: Any,
    ) -> ActRun:
        """Run a workflow for a pull request; one of a fork gets a token that may only read."""
        payload = self.fake.pull_request_event(self.name, number, action)
        if label:
            payload["label"] = {"name": label}
            payload["pull_request"]["labels"] = [{"name": label}]
        pull = self._pull(number)
        fork = pull.head_repository != self.name
        more.setdefault("token", FORK_TOKEN if fork else TOKEN)
        return self.run(workflow, event, payload, pull.head_sha, **more)

    def schedule(self, workflow: str, **more: Any) -> ActRun:
        """Run a workflow by the clock."""
        payload = {"repository": {"full_name": self.name, "default_branch": "main"}}
        return self.run(workflow, "schedule", payload, self.repository.head, **more)

    @property
    def programs(self) -> list[str]:
        """What was asked of programs that only write down what they are asked."""
        log = self.act.store / "programs.log"
        return log.read_text().splitlines() if log.exists() else []

    def workflow_run(self, of: ActRun, workflow: str, **more: Any) -> ActRun:
        """Run a workflow because another run has ended."""
        payload = self.fake.workflow_run_event(self.name, of.run_id)
        main = self.fake.state.repository(self.name).branches["main"]
        return self.run(workflow, "workflow_run", payload, main, **more)

    def run(
        self, workflow: str, event: str, payload: Mapping[str, Any], sha: str, **more: Any
    ) -> ActRun:
        """Run a workflow; GitHub knows of the run, and has its artifacts afterwards."""
        self._learn()
        state, pull = self.fake.state, payload.get("pull_request")
        head = pull["head"] if pull else {"ref": "main", "repo": {"full_name": self.name}}
        known = state.run(
            self.name,
            sha,
            event=event,
            path=f".github/workflows/{workflow}",
            head_branch=head["ref"],
            head_repository=head["repo"]["full_name"],
            status="in_progress",
            conclusion=None,
        )
        env: Mapping[str, str] = more.pop("env", {})
        done = self.act.run(
            self.repository,
            workflow,
            event,
            payload,
            run_id=known.id,
            env={"GITHUB_API_URL": self.fake.url, **env},
            **more,
        )
        known.status, known.conclusion = "completed", "success" if done.ok else "failure"
        self.upload(done.run_id, done.artifacts)
        return done

    def upload(self, run_id: int, names: Iterable[str]) -> None:
        """Give GitHub the artifacts that a run left with the stand-ins."""
        for name in names:
            archive = self.act.store / "artifacts" / str(run_id) / f"{name}.zip"
            self.fake.state.artifact(self.name, run_id, name, archive.read_bytes())

    def _pull(self, number: int) -> Any:
        pull = self.fake.state.repository(self.name).pull(number)
        assert pull is not None, f"no pull request {number}"
        return pull

    def _learn(self) -> None:
        """Have GitHub know every commit, and where the main branch is."""
        listed = self.repository.git("log", "--all", "--format=%H %P").splitlines()
        self.fake.state.commits |= {sha: list(parents) for sha, *parents in map(str.split, listed)}
        main = self.repository.git("rev-parse", "main")
        self.fake.state.repository(self.name, branches={"main": main}).branches["main"] = main
