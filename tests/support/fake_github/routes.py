"""What each operation answers; objects are filled from GitHub's description."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from fake_github.description import Description
from fake_github.state import Artifact, Comment, Pull, Repository, Run, State, Token

__all__ = [
    "ROUTES",
    "Answer",
    "Call",
    "Refusal",
    "account",
    "fork",
    "permitted",
    "run_json",
    "simple_pull",
]

MAX_BODY: Final = 65_536
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Answer:
    """A status and a document; `whole` is the list that pages are cut from, `key` its name."""

    status: int
    data: Any = None
    whole: Sequence[Any] | None = None
    key: str = ""
    location: str = ""


class Refusal(Exception):  # noqa: N818 - it is an answer
    """An error as GitHub answers it."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.data = {
            "message": message,
            "documentation_url": "https://docs.github.com/rest",
            "status": str(status),
            **more,
        }


@dataclass(frozen=True)
class Call:
    """A request for one operation, its sender known."""

    state: State
    description: Description
    url: str
    values: dict[str, str]
    query: dict[str, str]
    data: Any
    token: Token | None

    @property
    def name(self) -> str:
        """Full name of the repository."""
        return f"{self.values['owner']}/{self.values['repo']}"

    @property
    def here(self) -> Repository:
        """The repository; one that the sender may not see does not exist."""
        found = self.state.repositories.get(self.name)
        if found is None or (found.private and self.token is None):
            raise Refusal(404, "Not Found")
        return found

    def number(self, key: str) -> int:
        """Return a number of the path."""
        try:
            return int(self.values[key])
        except ValueError:
            raise Refusal(404, "Not Found") from None

    def fill(self, schema: str, **known: Any) -> dict[str, Any]:
        """Return an object of a schema."""
        return self.description.filled(schema, **known)


def _there(found: _Found | None) -> _Found:
    """Return what was looked for; what is not there is refused."""
    if found is None:
        raise Refusal(404, "Not Found")
    return found


def account(call: Call, login: str) -> dict[str, Any]:
    """Return a user, organization or bot."""
    kind = "Bot" if login.endswith("[bot]") else "User"
    return call.fill("simple-user", login=login, id=_number(login), type=kind)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:3]) + 1


def fork(call: Call, full_name: str, schema: str = "minimal-repository") -> dict[str, Any]:
    """Return a repository in an object of another."""
    owner, _, name = full_name.partition("/")
    known = call.state.repositories.get(full_name)
    return call.fill(
        schema,
        id=_number(full_name),
        full_name=full_name,
        name=name,
        owner=account(call, owner),
        private=bool(known and known.private),
        fork=full_name != call.name,
        html_url=f"https://github.com/{full_name}",
        url=f"{call.url}/repos/{full_name}",
        default_branch=known.default_branch if known else "main",
    )


# ── identity ─────────────────────────────────────────────────────────────────────────────────


def get_user(call: Call) -> Answer:
    """Only a person's token has a user."""
    if call.token is None:
        raise Refusal(401, "Requires authentication")
    if call.token.kind != "user":
        raise Refusal(403, "Resource not accessible by integration")
    login = call.token.login
    return Answer(200, call.fill("public-user", **account(call, login), user_view_type="public"))


def get_repository(call: Call) -> Answer:
    """The repository."""
    made = fork(call, call.here.full_name, "full-repository")
    return Answer(200, made)


# ── comments ─────────────────────────────────────────────────────────────────────────────────


def _comment_json(call: Call, item: Comment) -> dict[str, Any]:
    place = f"{call.url}/repos/{call.name}/issues"
    app = None
    if item.app:
        owner = account(call, "github")
        app = call.fill("nullable-integration", id=_number(item.app), slug=item.app, name=item.app)
        app |= {"owner": owner, "events": [], "permissions": {}}
    return call.fill(
        "issue-comment",
        id=item.id,
        user=account(call, item.login),
        body=item.body,
        url=f"{place}/comments/{item.id}",
        issue_url=f"{place}/{item.issue}",
        html_url=f"https://github.com/{call.name}/pull/{item.issue}#issuecomment-{item.id}",
        created_at=item.created_at,
        updated_at=item.updated_at,
        author_association="CONTRIBUTOR",
        performed_via_github_app=app,
    )


def list_comments(call: Call) -> Answer:
    """Comments of an issue, oldest first."""
    here, issue = call.here, call.number("issue_number")
    _issue(call)
    found = [_comment_json(call, item) for item in here.comments if item.issue == issue]
    return Answer(200, whole=found)


def _issue(call: Call) -> Pull:
    return _there(call.here.pull(call.number("issue_number")))


def create_comment(call: Call) -> Answer:
    """Write a comment."""
    issue = _issue(call)
    if issue.locked:
        raise Refusal(403, "Unable to create comment because issue is locked.")
    assert call.token is not None
    made = call.state.comment(call.name, issue.number, _body(call), call.token.login)
    if call.token.kind == "user":
        made.app = None
    return Answer(201, _comment_json(call, made))


def _body(call: Call) -> str:
    body: str = call.data["body"]
    if not body.strip():
        raise _unprocessable("body can't be blank")
    if len(body) > MAX_BODY:
        raise _unprocessable(f"body is too long (maximum is {MAX_BODY} characters)")
    return body


def _unprocessable(message: str) -> Refusal:
    problem = {"resource": "IssueComment", "code": "unprocessable", "field": "data"}
    return Refusal(422, "Validation Failed", errors=[{**problem, "message": message}])


def _one_comment(call: Call) -> Comment:
    wanted = call.number("comment_id")
    return _there(next((item for item in call.here.comments if item.id == wanted), None))


def get_comment(call: Call) -> Answer:
    """One comment."""
    return Answer(200, _comment_json(call, _one_comment(call)))


def update_comment(call: Call) -> Answer:
    """Change a comment; who may write may change anybody's, as on GitHub."""
    found = _one_comment(call)
    found.body = _body(call)
    found.edits += 1
    found.updated_at = f"2026-01-01T01:00:{found.edits % 60:02}Z"
    return Answer(200, _comment_json(call, found))


def delete_comment(call: Call) -> Answer:
    """Remove a comment."""
    call.here.comments.remove(_one_comment(call))
    return Answer(204)


# ── pull requests ────────────────────────────────────────────────────────────────────────────


def simple_pull(call: Call, item: Pull, schema: str = "pull-request-simple") -> dict[str, Any]:
    """Return a pull request."""
    head_owner = item.head_repository.partition("/")[0]
    known = call.state.repositories.get(call.name)
    base_sha = known.branches.get(item.base_branch, item.base_sha) if known else item.base_sha

    def side(full_name: str, label: str, ref: str, sha: str) -> dict[str, Any]:
        owner = account(call, full_name.partition("/")[0])
        inside = fork(call, full_name, "repository")
        return {"label": label, "ref": ref, "sha": sha, "user": owner, "repo": inside}

    owner = call.name.partition("/")[0]
    head = f"{head_owner}:{item.head_branch}"
    return call.fill(
        schema,
        id=_number(f"{call.name}#{item.number}"),
        number=item.number,
        state=item.state,
        title=item.title,
        locked=item.locked,
        user=account(call, head_owner),
        labels=[
            {"id": 1, "node_id": "x", "url": "https://api.github.com/x", "name": label,
             "description": "", "color": "ededed", "default": False}
            for label in item.labels
        ],
        head=side(item.head_repository, head, item.head_branch, item.head_sha),
        base=side(call.name, f"{owner}:{item.base_branch}", item.base_branch, base_sha),
        html_url=f"https://github.com/{call.name}/pull/{item.number}",
        url=f"{call.url}/repos/{call.name}/pulls/{item.number}",
        body=None,
        draft=False,
    )  # fmt: skip


def list_pulls(call: Call) -> Answer:
    """Pull requests, newest first; `head` is `OWNER:BRANCH`."""
    state, head = call.query.get("state", "open"), call.query.get("head", "")
    base = call.query.get("base", "")
    found = [
        item
        for item in sorted(call.here.pulls, key=lambda item: -item.number)
        if state in ("all", item.state)
        and head in ("", f"{item.head_repository.partition('/')[0]}:{item.head_branch}")
        and base in ("", item.base_branch)
    ]
    return Answer(200, whole=[simple_pull(call, item) for item in found])


def get_pull(call: Call) -> Answer:
    """One pull request."""
    found = _there(call.here.pull(call.number("pull_number")))
    return Answer(200, simple_pull(call, found, "pull-request"))


def commit_pulls(call: Call) -> Answer:
    """Open pull requests that a commit is in."""
    sha = call.values["commit_sha"]
    found = [
        item
        for item in call.here.pulls
        if sha == item.head_sha
        and item.state == "open"
        and (call.state.fork_commits_listed or item.head_repository == call.name)
    ]
    return Answer(200, whole=[simple_pull(call, item) for item in found])


# ── commits and files ────────────────────────────────────────────────────────────────────────


def _commit_json(call: Call, sha: str) -> dict[str, Any]:
    made = call.fill("commit", sha=sha, url=f"{call.url}/repos/{call.name}/commits/{sha}")
    return made | {"parents": [], "author": account(call, "octocat"), "committer": {}}


def compare(call: Call) -> Answer:
    """Two commits and where they parted."""
    base_name, dots, head_name = unquote(call.values["basehead"]).partition("...")
    base = call.state.resolve(call.here, base_name)
    head = call.state.resolve(call.here, head_name)
    if not dots or base is None or head is None:
        raise Refusal(404, "Not Found")
    of_base = call.state.ancestors(base)
    of_head = call.state.ancestors(head)
    common = next((sha for sha in of_head if sha in of_base), None)
    if common is None:
        raise Refusal(404, f"No common ancestor between {base_name} and {head_name}.")
    made = call.fill("commit-comparison", files=[], total_commits=len(of_head), commits=[])
    made["status"] = "diverged" if common not in (base, head) else "ahead"
    made["base_commit"] = _commit_json(call, base)
    made["merge_base_commit"] = _commit_json(call, common)
    return Answer(200, made)


def get_contents(call: Call) -> Answer:
    """One file, at a branch or commit."""
    here = call.here
    ref = call.query.get("ref", here.default_branch)
    path = unquote(call.values["path"])
    commit = call.state.resolve(here, ref) or ""
    found = _there(here.files.get(ref, {}).get(path) or here.files.get(commit, {}).get(path))
    made = call.fill(
        "content-file",
        type="file",
        encoding="base64",
        size=len(found.encode()),
        name=path.rpartition("/")[2],
        path=path,
        content=base64.encodebytes(found.encode()).decode(),
    )
    return Answer(200, made)


# ── runs and artifacts ───────────────────────────────────────────────────────────────────────


def run_json(call: Call, item: Run) -> dict[str, Any]:
    """Return a run; its `pull_requests` are empty where the branch is a fork's, as on GitHub."""
    of = call.here.pulls if item.head_repository == call.name else []
    pulls = [
        _minimal_pull(call, pull)
        for pull in of
        if pull.head_repository == call.name
        and pull.state == "open"
        and pull.head_branch == item.head_branch
    ]
    return call.fill(
        "workflow-run",
        id=item.id,
        workflow_id=item.workflow_id,
        name="images",
        path=item.path,
        event=item.event,
        head_sha=item.head_sha,
        head_branch=item.head_branch,
        head_repository=fork(call, item.head_repository),
        repository=fork(call, call.name),
        status=item.status,
        conclusion=item.conclusion,
        created_at=item.created_at,
        run_attempt=item.attempt,
        pull_requests=pulls,
        html_url=f"https://github.com/{call.name}/actions/runs/{item.id}",
        head_commit=None,
    )


def _minimal_pull(call: Call, item: Pull) -> dict[str, Any]:
    inside = {
        "id": _number(call.name),
        "url": f"{call.url}/repos/{call.name}",
        "name": call.values["repo"],
    }
    base_sha = call.here.branches.get(item.base_branch, item.base_sha)
    return {
        "id": _number(f"{call.name}#{item.number}"),
        "number": item.number,
        "url": f"{call.url}/repos/{call.name}/pulls/{item.number}",
        "head": {"ref": item.head_branch, "sha": item.head_sha, "repo": inside},
        "base": {"ref": item.base_branch, "sha": base_sha, "repo": inside},
    }


def list_runs(call: Call) -> Answer:
    """Runs, newest first, of the repository or of one workflow (its number or file)."""
    wanted = call.values.get("workflow_id")
    found = [
        item
        for item in sorted(call.here.runs, key=lambda item: (item.created_at, item.id))[::-1]
        if (wanted is None or _of(item, wanted))
        and all(_has(item, key, value) for key, value in call.query.items())
    ]
    if wanted is not None and not any(_of(item, wanted) for item in call.here.runs):
        raise Refusal(404, "Not Found")
    return Answer(200, whole=[run_json(call, item) for item in found], key="workflow_runs")


def _of(item: Run, workflow: str) -> bool:
    return workflow in (str(item.workflow_id), item.path.rpartition("/")[2])


def _has(item: Run, key: str, value: str) -> bool:
    if key == "branch":
        return item.head_branch == value
    if key == "status":
        return value in (item.status, item.conclusion)
    if key in ("event", "head_sha"):
        return bool(getattr(item, key) == value)
    return True


def get_run(call: Call) -> Answer:
    """One run."""
    found = _there(call.here.run(call.number("run_id")))
    return Answer(200, run_json(call, found))


def _artifact_json(call: Call, item: Artifact) -> dict[str, Any]:
    place = f"{call.url}/repos/{call.name}/actions/artifacts/{item.id}"
    run = call.here.run(item.run_id)
    made = call.fill(
        "artifact",
        id=item.id,
        name=item.name,
        size_in_bytes=len(item.content),
        url=place,
        archive_download_url=f"{place}/zip",
        expired=item.expired,
        created_at="2026-01-01T00:00:00Z",
        expires_at="2026-04-01T00:00:00Z",
        updated_at="2026-01-01T00:00:00Z",
    )
    if run is not None:
        made["workflow_run"] = {
            "id": run.id,
            "repository_id": _number(call.name),
            "head_repository_id": _number(run.head_repository),
            "head_branch": run.head_branch,
            "head_sha": run.head_sha,
        }
    return made


def list_artifacts(call: Call) -> Answer:
    """Artifacts of a run or of the repository, newest first."""
    run, name = call.values.get("run_id"), call.query.get("name")
    found = [
        _artifact_json(call, item)
        for item in reversed(call.here.artifacts)
        if run in (None, str(item.run_id)) and name in (None, item.name)
    ]
    return Answer(200, whole=found, key="artifacts")


def _one_artifact(call: Call) -> Artifact:
    wanted = call.number("artifact_id")
    return _there(next((item for item in call.here.artifacts if item.id == wanted), None))


def get_artifact(call: Call) -> Answer:
    """One artifact."""
    return Answer(200, _artifact_json(call, _one_artifact(call)))


def download(call: Call) -> Answer:
    """Where an artifact's zip lies: on another host, for a minute."""
    if call.token is None:
        raise Refusal(401, "Requires authentication")
    found = _one_artifact(call)
    if found.expired:
        raise Refusal(410, "Artifact has expired")
    return Answer(302, location=f"/blob/{call.name}/{found.id}.zip?sig=once")


_REPO: Final = "/repos/{owner}/{repo}"
Route = tuple[Callable[[Call], Answer], str]
ROUTES: Final[dict[tuple[str, str], Route]] = {
    ("GET", "/user"): (get_user, ""),
    ("GET", _REPO): (get_repository, "metadata=read"),
    ("GET", f"{_REPO}/compare/{{basehead}}"): (compare, "contents=read"),
    ("GET", f"{_REPO}/commits/{{commit_sha}}/pulls"): (commit_pulls, "pull_requests=read"),
    ("GET", f"{_REPO}/contents/{{path}}"): (get_contents, "contents=read"),
    ("GET", f"{_REPO}/pulls"): (list_pulls, "pull_requests=read"),
    ("GET", f"{_REPO}/pulls/{{pull_number}}"): (get_pull, "pull_requests=read"),
    ("GET", f"{_REPO}/issues/{{issue_number}}/comments"): (
        list_comments,
        "issues=read; pull_requests=read",
    ),
    ("POST", f"{_REPO}/issues/{{issue_number}}/comments"): (
        create_comment,
        "issues=write; pull_requests=write",
    ),
    ("GET", f"{_REPO}/issues/comments/{{comment_id}}"): (
        get_comment,
        "issues=read; pull_requests=read",
    ),
    ("PATCH", f"{_REPO}/issues/comments/{{comment_id}}"): (
        update_comment,
        "issues=write; pull_requests=write",
    ),
    ("DELETE", f"{_REPO}/issues/comments/{{comment_id}}"): (
        delete_comment,
        "issues=write; pull_requests=write",
    ),
    ("GET", f"{_REPO}/actions/runs"): (list_runs, "actions=read"),
    ("GET", f"{_REPO}/actions/runs/{{run_id}}"): (get_run, "actions=read"),
    ("GET", f"{_REPO}/actions/runs/{{run_id}}/artifacts"): (list_artifacts, "actions=read"),
    ("GET", f"{_REPO}/actions/workflows/{{workflow_id}}/runs"): (list_runs, "actions=read"),
    ("GET", f"{_REPO}/actions/artifacts"): (list_artifacts, "actions=read"),
    ("GET", f"{_REPO}/actions/artifacts/{{artifact_id}}"): (get_artifact, "actions=read"),
    ("GET", f"{_REPO}/actions/artifacts/{{artifact_id}}/{{archive_format}}"): (
        download,
        "actions=read",
    ),
}
"""What answers, and any one of the permissions that it needs (none: everybody may ask)."""


def permitted(token: Token, needed: str) -> bool:
    """Whether a token has one of the permissions; a write permission reads, too."""
    if not needed:
        return True
    for one in needed.split("; "):
        name, _, level = one.partition("=")
        if token.permissions.get(name) in (("write",) if level == "write" else ("read", "write")):
            return True
    return False
