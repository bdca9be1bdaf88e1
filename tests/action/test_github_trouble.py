"""GitHub's API when it is slow, refuses or fails: the report is a courtesy, the job goes on."""

from __future__ import annotations

import pytest

from act_runner import TOKEN, World, step

pytestmark = pytest.mark.action

REFUSALS = {401: "401", 403: "403", 404: "404", 422: "422"}


@pytest.fixture
def pulled(world: World) -> World:
    """A repository with an open pull request."""
    world.repository.branch("feature")
    world.repository.commit(message="A feature")
    world.open_pull()
    return world


def test_what_passes_is_waited_for(pulled: World) -> None:
    """A rate limit, a lost connection, an error, and an answer that is lost: still one comment."""
    pulled.use(step(dockerfile="Dockerfile", baseline="none"))
    pulled.push_to_pull()
    fault = pulled.fake.state.fault
    fault(429, method="GET", path="comments$", headers={"retry-after": "1"})
    fault(0, method="GET", path="comments$")
    fault(503, method="POST", path="comments$")
    fault(502, method="POST", path="comments$", after=True)
    run = pulled.pull_request().expect(measure="success")
    assert len(pulled.comments) == 1
    assert run.outputs("tfslim")["comment-url"]
    assert [one.status for one in pulled.fake.asked(path="comments$")].count(429) == 1
    assert not run.leaks(TOKEN)
    # After each fault it was asked again, and before the last repetition whether it had worked.
    told = [(one.method, one.status) for one in pulled.fake.asked(path="comments$")]
    assert told.index(("GET", 200)) > told.index(("GET", 0)) > told.index(("GET", 429)), told
    assert told[-1] == ("GET", 200), told


def test_a_refusal_fails_no_job_and_says_which(pulled: World) -> None:
    steps = [
        step(f"refused-{status}", id=f"r{status}", image="${{ steps.build.outputs.image }}",
             comment="always", baseline="none")
        for status in REFUSALS
    ]  # fmt: skip
    build = step("build", id="build", dockerfile="Dockerfile", comment="never", baseline="none")
    pulled.use(build, *steps)
    pulled.push_to_pull()
    for status in REFUSALS:
        pulled.fake.state.fault(status, method="POST", path="comments$")
    run = pulled.pull_request().expect(measure="success")
    assert not pulled.comments
    for status, words in REFUSALS.items():
        told = [
            one.message
            for one in run.annotations_of(f"refused-{status}")
            if one.level == "warning" and words in one.message
        ]
        assert told, f"{status}: {run.annotations_of(f'refused-{status}')}\n{run!r}"
        assert run.outputs(f"refused-{status}")["verdict"] == "good"
    assert not run.leaks(TOKEN)


def test_a_token_that_may_not_write(pulled: World) -> None:
    """As with `permissions: contents: read`: said once, with the line that gives the right."""
    pulled.use(step(dockerfile="Dockerfile", baseline="none"))
    pulled.push_to_pull()
    secret = "ghs_AThirdL0ngTokenOfAJobWithoutThePermission2342"
    pulled.fake.state.token(secret, permissions={"contents": "read", "pull_requests": "read"})
    run = pulled.pull_request(token=secret).expect(measure="success")
    assert not pulled.comments
    told = " ".join(one.message for one in run.annotations_of("tfslim")) + run.log
    assert "pull-requests: write" in told
    assert not run.leaks(secret)


def test_a_token_that_nobody_knows(pulled: World) -> None:
    pulled.use(step(dockerfile="Dockerfile", token="ghp_AF0urthLongTokenThatWasRevokedLastYear99"))
    pulled.push_to_pull()
    run = pulled.pull_request().expect(measure="success")
    assert not pulled.comments
    assert "401" in run.log or "401" in str(run.annotations)
    assert not run.leaks("ghp_AF0urthLongTokenThatWasRevokedLastYear99")


def test_an_api_that_is_down(pulled: World) -> None:
    """Nobody answers at all: after some patience there is a report without a comment."""
    pulled.use(step(dockerfile="Dockerfile", baseline="none"))
    pulled.push_to_pull()
    run = pulled.pull_request(env={"GITHUB_API_URL": "http://127.0.0.1:9"})
    run.expect(measure="success")
    assert run.artifacts == ["tfslim-report-tfslim"]
    (told,) = [one.message for one in run.annotations_of("tfslim") if one.level == "warning"]
    assert "no comment" in told
