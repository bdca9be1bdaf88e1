"""The fake of GitHub's REST API answers as GitHub's own description says, and remembers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fake_github import FakeGitHub, zipped
from fake_github.description import Asked, Description
from fake_github.routes import ROUTES

HEADERS = {
    "authorization": "Bearer ghs_job",
    "user-agent": "test",
    "accept": "application/vnd.github+json",
}


@pytest.fixture
def fake() -> Iterator[FakeGitHub]:
    with FakeGitHub() as made:
        state = made.state
        state.token("ghs_job")
        main = state.repository("org/app", files={"main": {"a/b.yaml": "budgets: {}\n"}}).branches
        state.pull("org/app", 5, state.commit("five", main["main"]), labels=["gpu"])
        state.pull("org/app", 6, state.commit("six", main["main"]), head_repository="else/app")
        run = state.run("org/app", state.commit("five"), event="pull_request")
        run.head_branch = "change-5"
        state.artifact("org/app", run.id, "tfslim-report-x", {"report.json": b"{}"})
        state.comment("org/app", 5, "hello")
        yield made


def _ask(fake: FakeGitHub, method: str, path: str, **more: object) -> httpx.Response:
    with httpx.Client(base_url=fake.url, headers=HEADERS) as client:
        return client.request(method, path, **more)


def test_every_route_is_described() -> None:
    templates = Description().document["paths"]
    described = {(m.upper(), path) for path, methods in templates.items() for m in methods}
    assert described == set(ROUTES)


def test_every_operation_answers_as_described(fake: FakeGitHub) -> None:
    state = fake.state
    here = state.repositories["org/app"]
    five, main = here.pulls[0].head_sha, here.branches["main"]
    run, artifact, comment = here.runs[0].id, here.artifacts[0].id, here.comments[0].id
    state.token("ghp_me", "me", kind="user")
    place = "/repos/org/app"
    asked = [
        ("GET", place, 200),
        ("GET", f"{place}/compare/{main}...{five}", 200),
        ("GET", f"{place}/compare/main...else:change-6", 200),
        ("GET", f"{place}/commits/{five}/pulls", 200),
        ("GET", f"{place}/contents/a%2Fb.yaml?ref=main", 200),
        ("GET", f"{place}/contents/none", 404),
        ("GET", f"{place}/pulls?head=else:change-6", 200),
        ("GET", f"{place}/pulls/5", 200),
        ("GET", f"{place}/pulls/7", 404),
        ("GET", f"{place}/issues/5/comments", 200),
        ("GET", f"{place}/issues/comments/{comment}", 200),
        ("GET", f"{place}/actions/runs?head_sha={five}", 200),
        ("GET", f"{place}/actions/runs/{run}", 200),
        ("GET", f"{place}/actions/runs/{run}/artifacts", 200),
        ("GET", f"{place}/actions/workflows/7/runs?branch=main&status=success", 200),
        ("GET", f"{place}/actions/artifacts?name=tfslim-report-x", 200),
        ("GET", f"{place}/actions/artifacts/{artifact}", 200),
        ("GET", f"{place}/actions/artifacts/{artifact}/zip", 302),
        ("GET", "/user", 403),
    ]
    for method, path, status in asked:
        assert _ask(fake, method, path).status_code == status, path
    made = _ask(fake, "POST", f"{place}/issues/5/comments", json={"body": "new"})
    assert made.status_code == 201
    changed = _ask(fake, "PATCH", f"{place}/issues/comments/{comment}", json={"body": "other"})
    assert changed.json()["body"] == "other"
    assert _ask(fake, "DELETE", f"{place}/issues/comments/{comment}").status_code == 204
    assert here.body() == ["new"]
    me = httpx.get(f"{fake.url}/user", headers={**HEADERS, "authorization": "Bearer ghp_me"})
    assert me.json()["login"] == "me"
    assert not fake.violations
    assert {item.token for item in fake.requests} == {"github-actions[bot]", "me"}


def test_what_the_description_does_not_allow_is_seen(fake: FakeGitHub) -> None:
    place = "/repos/org/app/issues/5/comments"
    assert _ask(fake, "POST", place, json={"text": "no body"}).status_code == 422
    assert _ask(fake, "GET", f"{place}?per_pages=3").status_code == 422
    assert _ask(fake, "GET", "/repos/org/app/no-such").status_code == 404
    assert len(fake.violations) == 3
    assert "'body' is a required property" in fake.violations[0]


def test_an_answer_that_github_would_not_give_is_seen() -> None:
    description = Description()
    asked = Asked("GET", "/repos/o/r/pulls/5", (), b"", "")
    problem = description.problem_of_answer(asked, 200, b'{"number": "five"}', "application/json")
    assert "is a required property" in problem
    assert description.problem_of_answer(asked, 201, b"{}", "application/json")


def test_pages(fake: FakeGitHub) -> None:
    for number in range(4):
        fake.state.comment("org/app", 5, f"text {number}")
    first = _ask(fake, "GET", "/repos/org/app/issues/5/comments?per_page=2")
    assert [item["body"] for item in first.json()] == ["hello", "text 0"]
    second = httpx.get(first.links["next"]["url"], headers=HEADERS)
    assert [item["body"] for item in second.json()] == ["text 1", "text 2"]
    assert "next" in second.links
    assert "next" not in httpx.get(second.links["next"]["url"], headers=HEADERS).links


def test_tokens(fake: FakeGitHub) -> None:
    place = f"{fake.url}/repos/org/app/issues/5/comments"
    fake.state.token("ghs_fork", permissions={"contents": "read"})
    nobody = httpx.post(place, headers={**HEADERS, "authorization": "Bearer x"}, json={"body": "a"})
    reader = httpx.post(
        place, headers={**HEADERS, "authorization": "Bearer ghs_fork"}, json={"body": "a"}
    )
    assert (nobody.status_code, reader.status_code) == (401, 403)
    assert "pull_requests=write" in reader.headers["x-accepted-github-permissions"]
    text = repr(fake.requests)
    assert "ghs_fork" not in text
    assert "unknown:" in text


def test_faults_before_and_after(fake: FakeGitHub) -> None:
    place = "/repos/org/app/issues/5/comments"
    fake.state.fault(502, method="POST")
    fake.state.fault(502, method="POST", after=True)
    assert _ask(fake, "POST", place, json={"body": "a"}).status_code == 502
    assert fake.state.repositories["org/app"].body() == ["hello"]
    assert _ask(fake, "POST", place, json={"body": "a"}).status_code == 502
    assert fake.state.repositories["org/app"].body() == ["hello", "a"]
    fake.state.fault(0)
    with pytest.raises(httpx.RemoteProtocolError):
        _ask(fake, "GET", place)


def test_downloads_come_from_another_host_and_refuse_tokens(fake: FakeGitHub) -> None:
    artifact = fake.state.repositories["org/app"].artifacts[0]
    answer = _ask(fake, "GET", f"/repos/org/app/actions/artifacts/{artifact.id}/zip")
    place = answer.headers["location"]
    assert httpx.get(place).content == zipped({"report.json": b"{}"})
    assert not fake.violations
    assert httpx.get(place, headers=HEADERS).status_code == 403
    assert fake.violations == ["a token was sent to another host"]
    artifact.expired = True
    gone = _ask(fake, "GET", f"/repos/org/app/actions/artifacts/{artifact.id}/zip")
    assert gone.status_code == 410


def test_events(fake: FakeGitHub) -> None:
    run = fake.state.repositories["org/app"].runs[0]
    event = fake.workflow_run_event("org/app", run.id)
    assert [item["number"] for item in event["workflow_run"]["pull_requests"]] == [5]
    run.head_repository, run.head_branch = "else/app", "change-6"
    assert fake.workflow_run_event("org/app", run.id)["workflow_run"]["pull_requests"] == []
    event = fake.pull_request_event("org/app", 6)
    assert event["pull_request"]["head"]["repo"]["full_name"] == "else/app"


def test_in_a_process_of_its_own(fake: FakeGitHub, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    fake.state.save(path)
    support = Path(__file__).parents[2] / "support"
    process = subprocess.Popen(
        [sys.executable, "-m", "fake_github", "--state", str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(support)},
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["api_url"]
        place = f"{url}/repos/org/app/issues/5/comments"
        assert httpx.post(place, headers=HEADERS, json={"body": "a"}).status_code == 201
        run = fake.state.repositories["org/app"].runs[0].id
        asked = {"repository": "org/app", "run_id": run, "name": "more"}
        packed = zipped({"report.json": b"{}"})
        assert httpx.post(f"{url}/_fake/artifacts", params=asked, content=packed).is_success
        there = httpx.get(f"{url}/repos/org/app/actions/runs/{run}/artifacts", headers=HEADERS)
        assert [item["name"] for item in there.json()["artifacts"]] == ["more", "tfslim-report-x"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()
    saved = json.loads(path.read_text())
    assert [item["body"] for item in saved["repositories"]["org/app"]["comments"]] == ["hello", "a"]
    log = json.loads((tmp_path / "state.log.json").read_text())
    assert log["violations"] == []
    assert log["requests"][0]["token"] == "github-actions[bot]"
