"""What the action asks GitHub, typed: comments, pull requests, commits, runs, artifacts.

How it asks (patience, errors, the token) is `rest`. What GitHub adds to an answer is passed over;
what it leaves out is an error, not a guess.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.errors import ConfigError
from tfslim.github.rest import ApiError, Ask, Rest, not_understood, too_large
from tfslim.github.state import REPOSITORY
from tfslim.report.inert import plain

__all__ = [
    "Account",
    "Answer",
    "Api",
    "ApiError",
    "Artifact",
    "Comment",
    "Named",
    "Pull",
    "PullSide",
    "Run",
]

_MOST_ITEMS: Final = 1_000
_MOST_RUNS: Final = 100
_ACTIONS_BOT: Final = "github-actions[bot]"

# What the token needs, as a workflow's `permissions:` name it.
_COMMENTS: Final = "pull-requests: write"
_PULLS: Final = "pull-requests: read"
_ACTIONS: Final = "actions: read"
_CONTENTS: Final = "contents: read"


class Answer(BaseModel):
    """A part of an answer; what GitHub adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Account(Answer):
    """A user, organization or bot; an app's bot is `SLUG[bot]`."""

    login: str
    type: str = ""


class Comment(Answer):
    """A comment on a pull request; the author is None where the account is gone."""

    id: int
    body: str = ""
    html_url: str = ""
    user: Account | None = None


class Named(Answer):
    """A repository, by its name."""

    full_name: str


class PullSide(Answer):
    """One side of a pull request; the repository is None where it was deleted."""

    ref: str
    sha: str
    repo: Named | None = None

    @property
    def repository(self) -> str:
        """OWNER/NAME, or empty."""
        return self.repo.full_name if self.repo else ""


class Pull(Answer):
    """A pull request."""

    number: int
    state: str
    head: PullSide
    base: PullSide
    locked: bool = False


class Run(Answer):
    """A workflow run.

    Attributes:
        conclusion: None while it runs.
        head_repository: None where it was deleted.
    """

    id: int
    workflow_id: int
    event: str
    head_sha: str
    head_branch: str | None = None
    head_repository: Named | None = None
    status: str | None = None
    conclusion: str | None = None
    html_url: str = ""

    @property
    def source(self) -> str:
        """OWNER/NAME of where its commit comes from; empty where that was deleted."""
        return self.head_repository.full_name if self.head_repository else ""


class _RunOfArtifact(Answer):
    id: int = 0
    head_sha: str = ""


class Artifact(Answer):
    """An artifact of a run; `size_in_bytes` is that of its zip."""

    id: int
    name: str
    size_in_bytes: int
    expired: bool
    workflow_run: _RunOfArtifact | None = None


_Model = TypeVar("_Model", bound=Answer)


class Api:
    """A client of one GitHub.

    Every method raises ApiError where GitHub refuses, cannot be reached or is not understood.

    Args:
        rest: How it is asked.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def __repr__(self) -> str:
        """Return the address alone."""
        return f"Api({self._rest.base_url!r})"

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close its connections."""
        self._rest.close()

    # ── comments ─────────────────────────────────────────────────────────────────────────────

    def comments(self, repository: str, number: int) -> list[Comment]:
        """Return a pull request's comments, oldest first; of more than 1000 the first."""
        place = _place(repository, f"issues/{number}/comments")
        return list(self._pages(Comment, Ask("GET", place, _PULLS)))

    def create_comment(
        self, repository: str, number: int, body: str, there: Callable[[], Comment | None]
    ) -> Comment:
        """Write a comment, once.

        Args:
            repository: OWNER/NAME.
            number: Of the pull request.
            body: Its text.
            there: Looks for it; asked where GitHub's answer was lost, so that no second one is
                written.
        """
        place = _place(repository, f"issues/{number}/comments")
        ask = Ask("POST", place, _COMMENTS, body={"body": body}, repeatable=False)
        made = self._rest.send_once(ask, there)
        return made if isinstance(made, Comment) else _parsed(Comment, made)

    def update_comment(self, repository: str, comment_id: int, body: str) -> Comment:
        """Replace a comment's text."""
        place = _place(repository, f"issues/comments/{comment_id}")
        return _parsed(
            Comment, self._rest.json(Ask("PATCH", place, _COMMENTS, body={"body": body}))
        )

    def delete_comment(self, repository: str, comment_id: int) -> None:
        """Delete a comment; one that is gone is as good."""
        ask = Ask("DELETE", _place(repository, f"issues/comments/{comment_id}"), _COMMENTS)
        try:
            self._rest.asked(ask)
        except ApiError as error:
            if error.status != 404:
                raise

    def login(self) -> str:
        """Return whose token this is: a user, or `SLUG[bot]` for an app and a job's own token.

        A user's token is known to `GET /user`; only GraphQL tells it of an installation's.
        """
        try:
            return _parsed(Account, self._rest.json(Ask("GET", "/user", "metadata: read"))).login
        except ApiError as error:
            if error.status != 403:
                raise
        try:
            query = {"query": "query { viewer { login } }"}
            data = self._rest.json(Ask("POST", self._graphql, "metadata: read", body=query))
            return str(data["data"]["viewer"]["login"])
        except (ApiError, KeyError, TypeError):
            return _ACTIONS_BOT

    @property
    def _graphql(self) -> str:
        """Where GraphQL is: beside v3 on an enterprise's server."""
        if self._rest.base_url.endswith("/api/v3"):
            return self._rest.base_url.removesuffix("/v3") + "/graphql"
        return f"{self._rest.base_url}/graphql"

    # ── pull requests, commits, files ────────────────────────────────────────────────────────

    def pull(self, repository: str, number: int) -> Pull:
        """Return a pull request."""
        ask = Ask("GET", _place(repository, f"pulls/{number}"), _PULLS)
        return _parsed(Pull, self._rest.json(ask))

    def pulls_from(self, repository: str, owner: str, branch: str) -> list[Pull]:
        """Return the open pull requests that come from an owner's branch."""
        query = {"state": "open", "head": f"{owner}:{branch}"}
        return list(self._pages(Pull, Ask("GET", _place(repository, "pulls"), _PULLS, query)))

    def pulls_of(self, repository: str, sha: str) -> list[Pull]:
        """Return the pull requests of a commit; GitHub may leave out those from forks."""
        place = _place(repository, f"commits/{quote(sha, safe='')}/pulls")
        return list(self._pages(Pull, Ask("GET", place, _PULLS)))

    def merge_base(self, repository: str, base: str, head: str) -> str:
        """Return the commit at which two others, or branches, parted."""
        pair = f"{quote(base, safe='')}...{quote(head, safe='')}"
        query = {"per_page": 1}  # of the commits between them none is wanted
        data = self._rest.json(Ask("GET", _place(repository, f"compare/{pair}"), _CONTENTS, query))
        try:
            return str(data["merge_base_commit"]["sha"])
        except (KeyError, TypeError) as error:
            raise not_understood("a comparison of commits") from error

    def file(self, repository: str, path: str, ref: str) -> bytes | None:
        """Return a file of a commit or branch, of up to 1 MiB; None where there is none."""
        place = _place(repository, f"contents/{quote(path, safe='')}")
        try:
            data = self._rest.json(Ask("GET", place, _CONTENTS, {"ref": ref}))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        try:
            return base64.b64decode(data["content"])
        except (KeyError, TypeError, binascii.Error) as error:
            raise not_understood(f"the file {plain(path)}") from error

    # ── runs and artifacts ───────────────────────────────────────────────────────────────────

    def run(self, repository: str, run_id: int) -> Run:
        """Return a workflow run."""
        ask = Ask("GET", _place(repository, f"actions/runs/{run_id}"), _ACTIONS)
        return _parsed(Run, self._rest.json(ask))

    def runs_of(self, repository: str, sha: str) -> list[Run]:
        """Return the runs of a commit, newest first."""
        ask = Ask("GET", _place(repository, "actions/runs"), _ACTIONS, {"head_sha": sha})
        return list(self._pages(Run, ask, key="workflow_runs", limit=_MOST_RUNS))

    def runs_on(self, repository: str, workflow_id: int, branch: str) -> list[Run]:
        """Return the newest successful runs of a workflow on a branch's name, newest first.

        A fork's branch may have that name, too: who trusts a run looks where it comes from.
        """
        place = _place(repository, f"actions/workflows/{workflow_id}/runs")
        ask = Ask("GET", place, _ACTIONS, {"branch": branch, "status": "success"})
        return list(self._pages(Run, ask, key="workflow_runs", limit=_MOST_RUNS))

    def artifacts(self, repository: str, run_id: int, name: str) -> list[Artifact]:
        """Return a run's artifacts of a name, newest first: each attempt may have made one."""
        place = _place(repository, f"actions/runs/{run_id}/artifacts")
        ask = Ask("GET", place, _ACTIONS, {"name": name})
        found = self._pages(Artifact, ask, key="artifacts", limit=_MOST_RUNS)
        return sorted(found, key=lambda item: -item.id)

    def download(self, repository: str, artifact: Artifact, into: Path, *, most: int) -> Path:
        """Fetch an artifact's zip; nothing of it is unpacked.

        Args:
            repository: OWNER/NAME.
            artifact: What to fetch.
            into: Folder for `artifact-ID.zip`.
            most: Bytes; a larger one is given up, whatever its size was said to be.

        Raises:
            ApiError: It is too large, expired, or GitHub refuses.
        """
        place = _place(repository, f"actions/artifacts/{artifact.id}/zip")
        if artifact.size_in_bytes > most:
            raise too_large(artifact.name, most)
        reply = self._rest.asked(Ask("GET", place, _ACTIONS), most=most)
        into.mkdir(parents=True, exist_ok=True)
        path = into / f"artifact-{artifact.id}.zip"
        path.write_bytes(reply.content)
        return path

    def _pages(
        self, model: type[_Model], ask: Ask, *, key: str = "", limit: int = _MOST_ITEMS
    ) -> Iterator[_Model]:
        for item in self._rest.pages(ask, key=key, limit=limit):
            yield _parsed(model, item)


def _place(repository: str, path: str) -> str:
    if not re.fullmatch(REPOSITORY, repository):
        raise ConfigError(f"{plain(repository)!r} is no repository: it is OWNER/NAME")
    return f"/repos/{repository}/{path}"


def _parsed(model: type[_Model], data: object) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:5])
        raise not_understood(f"{model.__name__.lower()}: {plain(fields, 200)}") from error
