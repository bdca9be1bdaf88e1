"""GitHub's REST API on loopback, with a memory, for tests of what talks to it.

Requests and answers are held against GitHub's own OpenAPI description (`github-openapi.json`, cut
from npm's @octokit/openapi by `reduce.py`; MIT, licence beside it). What it does not allow stands
in `fake.violations`; a test ends with `assert not fake.violations`.

In one process:

    with FakeGitHub() as fake:
        state = fake.state
        state.token("ghs_token")                      # the job's own token, may write comments
        state.token("ghs_fork", permissions={"contents": "read", "actions": "read"})
        state.repository("org/app")                   # with a first commit on main
        state.pull("org/app", 5, state.commit("a change", state.repository("org/app").branches["main"]))
        run = state.run("org/app", sha, event="pull_request", head_branch="change-5")
        state.artifact("org/app", run.id, "tfslim-report-tfslim", {"report.json": b"…"})
        state.fault(502, method="POST", times=2)      # then GITHUB_API_URL=fake.url
        ...
        fake.state.repositories["org/app"].comments; fake.asked("POST", "comments$"); fake.violations
        fake.pull_request_event("org/app", 5); fake.workflow_run_event("org/app", run.id)

A fork's pull request is `state.pull(…, head_repository="someone/app")`. `FakeGitHub(prefix="/api/v3")`
is GitHub Enterprise Server. Tokens are never logged, only whose they are.

In a process of its own (`PYTHONPATH=tests/support`):

    python -m fake_github --port 0 --state state.json

It prints one line, `{"api_url": …, "blob_url": …}`, keeps `state.json` up to date (it starts from
it, where it exists) and writes `state.log.json` (requests, violations). For jobs of another process:
`POST /_fake/artifacts?repository=org/app&run_id=1001&name=NAME` with a zip as body adds an artifact;
`GET /_fake/state` and `GET /_fake/requests` show both documents.

Not in the description, and so not checked: `POST /graphql`, which answers `viewer { login }` alone.
"""  # noqa: E501

from fake_github.server import FakeGitHub, Request
from fake_github.state import State, zipped

__all__ = ["FakeGitHub", "Request", "State", "zipped"]
