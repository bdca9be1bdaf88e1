"""The client of GitHub's REST API: what it asks again, what it says, what it never says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from fake_github import FakeGitHub, zipped
from github_world import HERE, READER, TOKEN, USER, World, world
from tfslim.errors import ConfigError
from tfslim.github.api import Api, ApiError
from tfslim.github.rest import Ask, Clock, Rest


@pytest.fixture
def github() -> Iterator[World]:
    with world() as made:
        yield made


def _nothing() -> None:
    return None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_what_passes_is_asked_again_after_growing_pauses(github: World, status: int) -> None:
    github.state.fault(status, times=3)
    assert github.api().pull(HERE, 5).head.sha == github.five
    assert github.time.slept == [1.0, 2.0, 4.0]
    assert len(github.fake.requests) == 4
    assert github.said[0] == (f"GitHub answers {status} (GET /repos/org/app/pulls/5); again in 1 s")


def test_a_lost_connection_is_asked_again(github: World) -> None:
    github.state.fault(0, times=2)
    assert github.api().pull(HERE, 5).number == 5
    assert github.time.slept == [1.0, 2.0]


def test_patience_ends_with_the_attempts(github: World) -> None:
    github.state.fault(502, times=99)
    with pytest.raises(ApiError) as caught:
        github.api().pull(HERE, 5)
    assert caught.value.status == 502
    assert len(github.fake.requests) == 6
    assert github.time.slept == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_patience_is_of_the_whole_client(github: World) -> None:
    github.state.fault(502, times=99)
    api = github.api(patience_s=4.0)
    for _ in range(3):
        with pytest.raises(ApiError):
            api.pull(HERE, 5)
    assert sum(github.time.slept) <= 4.0


@pytest.mark.parametrize("status", [429, 403, 503])
def test_retry_after_is_obeyed(github: World, status: int) -> None:
    github.state.fault(status, headers={"retry-after": "7"})
    github.api().pull(HERE, 5)
    assert github.time.slept == [7.5]


def test_retry_after_may_be_a_date(github: World) -> None:
    date = formatdate(github.time.at + 9, usegmt=True)
    github.state.fault(429, headers={"retry-after": date})
    github.api().pull(HERE, 5)
    assert github.time.slept == [9.5]


def test_a_secondary_limit_without_a_time_waits_a_minute(github: World) -> None:
    said = {"message": "You have exceeded a secondary rate limit. Please wait."}
    github.state.fault(403, body=said)
    github.api().pull(HERE, 5)
    assert github.time.slept == [60.0]


def test_the_rate_limit_is_waited_for_where_it_ends_soon(github: World) -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{github.time.at + 20:.0f}"}
    github.state.fault(403, headers=headers, body={"message": "API rate limit exceeded"})
    github.api().pull(HERE, 5)
    assert github.time.slept == [20.5]


def test_the_rate_limit_is_told_where_it_ends_late(github: World) -> None:
    github.state.remaining, github.state.reset = 0, int(github.time.at) + 1800
    with pytest.raises(ApiError, match="rate limit is used up until 08:30 UTC"):
        github.api().pull(HERE, 5)
    assert github.time.slept == []


def test_401_says_what_is_wrong_with_the_token(github: World) -> None:
    with pytest.raises(ApiError, match="does not accept the token") as caught:
        github.api("ghs_another").pull(HERE, 5)
    assert caught.value.status == 401
    assert len(github.fake.requests) == 1


@pytest.mark.parametrize(
    ("ask", "needed"),
    [
        (lambda api: api.create_comment(HERE, 5, "x", _nothing), "pull-requests: write"),
        (lambda api: api.run(HERE, 1), "actions: read"),
        (lambda api: api.file(HERE, "a", "main"), "contents: read"),
    ],
)
def test_403_names_the_permission_that_is_missing(github: World, ask, needed: str) -> None:
    github.state.token("ghs_none", permissions={"metadata": "read"})
    with pytest.raises(ApiError) as caught:
        ask(github.api("ghs_none"))
    assert caught.value.what == f"the token may not do this: it needs the permission `{needed}`"
    assert f"permissions:\n  {needed}" in caught.value.way_out
    assert "Resource not accessible by integration" in caught.value.why
    assert github.time.slept == []


def test_404_says_that_it_may_be_hidden(github: World) -> None:
    with pytest.raises(ApiError, match="or hides it") as caught:
        github.api().pull(HERE, 77)
    assert caught.value.status == 404
    assert "pull-requests: read" in caught.value.way_out


def test_422_brings_what_github_says(github: World) -> None:
    with pytest.raises(ApiError) as caught:
        github.api().create_comment(HERE, 5, "x" * 65_537, _nothing)
    assert "body is too long" in caught.value.why
    assert len(github.fake.requests) == 1


@pytest.mark.parametrize("status", [502, 0])
def test_a_comment_that_was_written_is_not_written_again(github: World, status: int) -> None:
    github.state.fault(status, method="POST", after=True)
    api = github.api()

    def there():
        return next(iter(api.comments(HERE, 5)), None)

    made = api.create_comment(HERE, 5, "once", there)
    assert made.body == "once"
    assert github.bodies == ["once"]
    assert len(github.fake.asked("POST")) == 1


def test_a_comment_that_was_not_written_is_written_again(github: World) -> None:
    github.state.fault(502, method="POST", times=2)
    looked = []
    made = github.api().create_comment(HERE, 5, "once", lambda: looked.append(1))
    assert made.body == "once"
    assert github.bodies == ["once"]
    assert len(looked) == 2


def test_a_comment_is_given_up_with_the_last_error(github: World) -> None:
    github.state.fault(502, method="POST", times=99)
    with pytest.raises(ApiError, match="GitHub answers 502"):
        github.api().create_comment(HERE, 5, "once", _nothing)
    assert len(github.fake.asked("POST")) == 6


def test_a_refused_post_is_sent_again_without_a_look(github: World) -> None:
    github.state.fault(429, method="POST", headers={"retry-after": "1"})

    def never() -> None:
        pytest.fail("a refused request has no effect to look for")

    assert github.api().create_comment(HERE, 5, "once", never).body == "once"


def test_pages_are_followed_up_to_the_limit(github: World) -> None:
    for number in range(230):
        github.state.comment(HERE, 5, f"text {number}")
    assert len(github.api().comments(HERE, 5)) == 230
    assert [item.query["page"] for item in github.fake.requests] == ["1", "2", "3"]
    github.fake.requests.clear()
    for number in range(900):
        github.state.comment(HERE, 5, f"more {number}")
    assert len(github.api().comments(HERE, 5)) == 1000
    assert len(github.fake.requests) == 10


def test_comments_are_edited_and_deleted(github: World) -> None:
    one = github.state.comment(HERE, 5, "old")
    api = github.api()
    assert api.update_comment(HERE, one.id, "new").body == "new"
    api.delete_comment(HERE, one.id)
    api.delete_comment(HERE, one.id)
    assert github.bodies == []


@pytest.mark.parametrize(
    ("token", "login"),
    [(TOKEN, "github-actions[bot]"), (USER, "hubot"), ("ghs_app", "my-app[bot]")],
)
def test_whose_token_it_is(github: World, token: str, login: str) -> None:
    github.state.token("ghs_app", "my-app[bot]")
    assert github.api(token).login() == login


def test_without_graphql_an_installation_is_taken_for_the_jobs_own(github: World) -> None:
    github.state.fault(404, path="graphql")
    assert github.api().login() == "github-actions[bot]"


def test_commits_files_pulls_and_runs(github: World) -> None:
    github.here.files["main"] = {"a/tfslim.yaml": "model: {}\n"}
    run = github.state.run(HERE, github.main)
    api = github.api()
    assert api.merge_base(HERE, "main", github.six) == github.main
    assert api.file(HERE, "a/tfslim.yaml", "main") == b"model: {}\n"
    assert api.file(HERE, "none", "main") is None
    assert [pull.number for pull in api.pulls_from(HERE, "someone", "main")] == [6]
    assert [pull.number for pull in api.pulls_of(HERE, github.five)] == [5]
    assert [one.id for one in api.runs_of(HERE, github.main)] == [run.id]
    assert [one.id for one in api.runs_on(HERE, 7, "main")] == [run.id]
    assert api.run(HERE, run.id).event == "push"


def test_a_download_follows_without_the_token(github: World, tmp_path: Path) -> None:
    run = github.state.run(HERE, github.main)
    github.state.artifact(HERE, run.id, "report", {"report.json": b"{}"})
    api = github.api()
    found = api.artifacts(HERE, run.id, "report")
    path = api.download(HERE, found[0], tmp_path, most=1 << 20)
    assert path.read_bytes() == zipped({"report.json": b"{}"})
    blob = [item for item in github.fake.requests if item.server == "blob"]
    assert [(item.token, item.status) for item in blob] == [("", 200)]


def test_a_download_is_given_up_when_it_is_too_large(github: World, tmp_path: Path) -> None:
    run = github.state.run(HERE, github.main)
    github.state.artifact(HERE, run.id, "report", b"x" * 5000)
    api = github.api()
    found = api.artifacts(HERE, run.id, "report")[0]
    with pytest.raises(ApiError, match="larger than"):
        api.download(HERE, found, tmp_path, most=4999)
    assert not github.fake.asked("GET", "zip")
    small = found.model_copy(update={"size_in_bytes": 1})  # GitHub's word is not taken for it
    with pytest.raises(ApiError, match="larger than"):
        api.download(HERE, small, tmp_path, most=4999)
    assert list(tmp_path.iterdir()) == []


def test_an_expired_download_says_so(github: World, tmp_path: Path) -> None:
    run = github.state.run(HERE, github.main)
    github.state.artifact(HERE, run.id, "report", b"x").expired = True
    found = github.api().artifacts(HERE, run.id, "report")[0]
    with pytest.raises(ApiError) as caught:
        github.api().download(HERE, found, tmp_path, most=10_000)
    assert caught.value.status == 410


def test_an_enterprises_server(tmp_path: Path) -> None:
    with world(prefix="/api/v3") as github:
        api = github.api()
        assert api.pull(HERE, 5).number == 5
        assert api.login() == "github-actions[bot]"
        assert github.fake.asked("POST", "^/api/graphql$")


def test_the_token_is_nowhere(github: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = github.api()
    github.state.fault(422, body={"message": f"bad header {TOKEN}"})
    with pytest.raises(ApiError) as caught:
        api.pull(HERE, 5)
    github.state.fault(502)
    api.pull(HERE, 5)
    told = f"{caught.value} {caught.value.as_dict()} {api!r} {github.said} {caplog.text}"
    assert "***" in told
    assert TOKEN not in told
    assert TOKEN not in repr(Ask("GET", "/x", "y"))


@pytest.mark.parametrize(
    "url", ["http://api.github.com", "ftp://127.0.0.1", "api.github.com", "http://[", ""]
)
def test_a_token_is_not_sent_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigError, match="GITHUB_API_URL"):
        Rest(url, TOKEN)


def test_a_redirect_to_a_place_that_is_not_safe_is_refused(github: World) -> None:
    github.state.fault(302, headers={"location": "http://example.com/x"})
    with pytest.raises(ApiError, match="not safe"):
        github.api().pull(HERE, 5)
    github.state.fault(307, headers={"location": "https://127.0.0.1:1/x"})
    with pytest.raises(ApiError, match="not safe"):
        github.api().update_comment(HERE, 1, "x")


def test_a_moved_repository_is_followed(github: World) -> None:
    github.state.fault(301, headers={"location": f"{github.fake.url}/repos/{HERE}/pulls/5"})
    assert github.api().pull(HERE, 4).number == 5
    assert {item.token for item in github.fake.requests} == {"github-actions[bot]"}


def test_redirects_in_a_circle_end(github: World) -> None:
    headers = {"location": f"{github.fake.url}/repos/{HERE}/pulls/5"}
    github.state.fault(302, headers=headers, times=50)
    with pytest.raises(ApiError, match="from one place to the next"):
        github.api().pull(HERE, 5)


def test_an_answer_that_is_not_githubs(github: World) -> None:
    github.state.fault(200, body={"number": "five"})
    with pytest.raises(ApiError, match="not understood"):
        github.api().pull(HERE, 5)
    github.state.fault(200, body={"not": "a list"})
    with pytest.raises(ApiError, match="not understood"):
        github.api().comments(HERE, 5)


def test_nobody_there() -> None:
    with FakeGitHub() as fake:
        url = fake.url
    pauses: list[float] = []
    api = Api(Rest(url, TOKEN, clock=Clock(pauses.append, jitter=lambda: 0.5)))
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        api.pull(HERE, 5)
    assert len(pauses) == 5
    assert "HTTPS_PROXY" in caught.value.way_out
    with pytest.raises(ApiError):  # it was never sent, so there is nothing to look for
        api.create_comment(HERE, 5, "x", lambda: pytest.fail("looked"))


@pytest.mark.parametrize("name", ["app", "org/app/../x", "org/app?x", "", "a b/c"])
def test_a_repositorys_name_is_checked(github: World, name: str) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        github.api().pull(name, 5)


def test_a_reader_reads(github: World) -> None:
    assert github.api(READER).comments(HERE, 5) == []
