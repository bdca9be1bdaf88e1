"""What the fake remembers: repositories, pull requests, comments, runs, artifacts, tokens."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

__all__ = [
    "Artifact",
    "Comment",
    "Fault",
    "Pull",
    "Repository",
    "Run",
    "State",
    "Token",
    "zipped",
]

ACTIONS_BOT: Final = "github-actions[bot]"
WRITE: Final = {
    "metadata": "read",
    "contents": "read",
    "actions": "read",
    "issues": "write",
    "pull_requests": "write",
}


@dataclass
class Token:
    """A token and what it may do.

    Attributes:
        login: Whose it is; an installation's is `SLUG[bot]`.
        kind: "installation" (the job's own token, an app's) or "user".
        permissions: As GitHub names them, with `_`; "read" or "write". Issues or pull_requests
            suffice for comments on pull requests.
    """

    token: str
    login: str = ACTIONS_BOT
    kind: str = "installation"
    permissions: dict[str, str] = field(default_factory=lambda: dict(WRITE))


@dataclass
class Comment:
    """A comment on an issue or pull request; `edits` counts how often it was changed."""

    id: int
    issue: int
    login: str
    body: str
    app: str | None = None
    created_at: str = "2026-01-01T00:00:00Z"
    updated_at: str = "2026-01-01T00:00:00Z"
    edits: int = 0


@dataclass
class Pull:
    """A pull request."""

    number: int
    head_repository: str
    head_branch: str
    head_sha: str
    base_branch: str
    base_sha: str
    state: str = "open"
    title: str = "A change"
    labels: list[str] = field(default_factory=list)
    locked: bool = False


@dataclass
class Run:
    """A workflow run."""

    id: int
    workflow_id: int
    path: str
    event: str
    head_sha: str
    head_branch: str
    head_repository: str
    status: str = "completed"
    conclusion: str | None = "success"
    created_at: str = "2026-01-01T00:00:00Z"
    attempt: int = 1


@dataclass
class Artifact:
    """An artifact: a zip, in base64 where it is saved."""

    id: int
    name: str
    run_id: int
    data: str
    expired: bool = False

    @property
    def content(self) -> bytes:
        """The zip."""
        return base64.b64decode(self.data)


@dataclass
class Repository:
    """A repository; `files` holds content by branch or commit, then by path."""

    full_name: str
    default_branch: str = "main"
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)

    def pull(self, number: int) -> Pull | None:
        """Return a pull request."""
        return next((item for item in self.pulls if item.number == number), None)

    def run(self, number: int) -> Run | None:
        """Return a run."""
        return next((item for item in self.runs if item.id == number), None)

    def body(self) -> list[str]:
        """Return all comments' texts."""
        return [item.body for item in self.comments]


@dataclass
class Fault:
    """What goes wrong with the next requests that match.

    Attributes:
        status: Answered instead; 0 closes the connection without an answer.
        method: Empty matches all.
        path: Regular expression that is searched in the path.
        times: How many requests it hits.
        headers: Of the answer, such as {"retry-after": "7"}.
        body: Of the answer; None takes GitHub's usual one.
        after: The request takes effect, and its answer is lost.
    """

    status: int
    method: str = ""
    path: str = ""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    after: bool = False


@dataclass
class State:
    """Everything; saved as JSON and read again by `State.load`.

    Attributes:
        commits: Parents by commit, of all repositories (forks share a network).
        fork_commits_listed: Whether `commits/SHA/pulls` lists pull requests from forks, which
            GitHub itself does not do reliably.
        remaining: Requests left before the rate limit.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    commits: dict[str, list[str]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    fork_commits_listed: bool = False
    remaining: int = 5000
    reset: int = 0
    next_id: int = 1000

    # ── what a test says ─────────────────────────────────────────────────────────────────────

    def repository(self, full_name: str, **more: Any) -> Repository:
        """Return a repository; it is made, with a first commit on its default branch."""
        if full_name not in self.repositories:
            made = Repository(full_name, **more)
            self.repositories[full_name] = made
            made.branches.setdefault(made.default_branch, self.commit(f"{full_name} first"))
        return self.repositories[full_name]

    def commit(self, seed: str, *parents: str) -> str:
        """Make a commit; the same seed gives the same name."""
        sha = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        if parents or sha not in self.commits:
            self.commits[sha] = list(parents)
        return sha

    def token(self, token: str, login: str = ACTIONS_BOT, **more: Any) -> Token:
        """Make a token known."""
        self.tokens[token] = Token(token, login, **more)
        return self.tokens[token]

    def pull(self, full_name: str, number: int, head_sha: str, **more: Any) -> Pull:
        """Open a pull request; `head_repository` makes it one from a fork."""
        here = self.repository(full_name)
        base = more.pop("base_branch", here.default_branch)
        self.commits.setdefault(head_sha, [here.branches[base]])
        known = {
            "head_repository": full_name,
            "head_branch": f"change-{number}",
            "base_branch": base,
            "base_sha": here.branches[base],
        }
        made = Pull(number=number, head_sha=head_sha, **{**known, **more})
        self.repository(made.head_repository).branches[made.head_branch] = head_sha
        here.pulls.append(made)
        return made

    def run(self, full_name: str, head_sha: str, **more: Any) -> Run:
        """Add a workflow run; by default of a push to the default branch, and successful."""
        here = self.repository(full_name)
        number = self.new_id()
        known = {
            "id": number,
            "workflow_id": 7,
            "path": ".github/workflows/images.yml",
            "event": "push",
            "head_branch": here.default_branch,
            "head_repository": full_name,
            "created_at": f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:"
            f"{number % 60:02}Z",
        }
        made = Run(head_sha=head_sha, **{**known, **more})
        here.runs.append(made)
        return made

    def artifact(
        self, full_name: str, run_id: int, name: str, content: bytes | Mapping[str, bytes]
    ) -> Artifact:
        """Add an artifact: a zip, or files by name."""
        data = content if isinstance(content, bytes) else zipped(content)
        made = Artifact(self.new_id(), name, run_id, base64.b64encode(data).decode())
        self.repository(full_name).artifacts.append(made)
        return made

    def comment(self, full_name: str, issue: int, body: str, login: str = ACTIONS_BOT) -> Comment:
        """Add a comment."""
        slug = login.removesuffix("[bot]") if login.endswith("[bot]") else None
        made = Comment(self.new_id(), issue, login, body, app=slug)
        self.repository(full_name).comments.append(made)
        return made

    def fault(self, status: int, **more: Any) -> Fault:
        """Let something go wrong."""
        made = Fault(status, **more)
        self.faults.append(made)
        return made

    # ── what the server asks ─────────────────────────────────────────────────────────────────

    def new_id(self) -> int:
        """Return a number that nothing has."""
        self.next_id += 1
        return self.next_id

    def ancestors(self, sha: str) -> list[str]:
        """Return a commit and all before it, nearest first."""
        found, wanted = [], deque([sha])
        while wanted:
            one = wanted.popleft()
            if one not in found:
                found.append(one)
                wanted.extend(self.commits.get(one, []))
        return found

    def resolve(self, here: Repository, ref: str) -> str | None:
        """Return the commit of a branch, `OWNER:BRANCH` or a commit's name."""
        owner, colon, branch = ref.partition(":")
        if colon:
            name = next((n for n in self.repositories if n.startswith(f"{owner}/")), "")
            return self.repositories[name].branches.get(branch) if name else None
        return here.branches.get(ref) or (ref if ref in self.commits else None)

    # ── to a file and back ───────────────────────────────────────────────────────────────────

    def save(self, path: Path) -> None:
        """Write it whole, or not at all."""
        aside = path.with_name(f".{path.name}.new")
        aside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what `save` wrote, or what a person did: every field may be missing."""
        data = json.loads(path.read_text())
        known = {item.name for item in fields(cls)}
        unknown = sorted(data.keys() - known)
        if unknown:
            raise ValueError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        state = cls(**{key: value for key, value in data.items() if key in known})
        state.tokens = {key: Token(**item) for key, item in data.get("tokens", {}).items()}
        state.faults = [Fault(**item) for item in data.get("faults", [])]
        state.repositories = {
            name: _repository(item) for name, item in data.get("repositories", {}).items()
        }
        return state


def _repository(data: dict[str, Any]) -> Repository:
    lists = {"pulls": Pull, "comments": Comment, "runs": Run, "artifacts": Artifact}
    made = {key: [kind(**item) for item in data.get(key, [])] for key, kind in lists.items()}
    return Repository(**{**data, **made})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files; equal files make equal bytes, whatever the time is."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return packed.getvalue()
