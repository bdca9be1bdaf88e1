"""What each event leads to: a push, a pull request, one from a fork, and what follows it."""

from __future__ import annotations

import json
import random

import pytest

from act_runner import FORK_TOKEN, TOKEN, ActRun, World, checkout, step, workflow
from fake_github import zipped

pytestmark = pytest.mark.action

MARKER = "<!-- tfslim-report:tfslim -->"
PUBLISH = workflow(
    step(mode="publish"), on={"workflow_run": {"workflows": ["tfslim"], "types": ["completed"]}}
)


def grow(world: World, size: int) -> None:
    """Commit a larger file, so that the image differs."""
    world.repository.commit({"data.bin": random.Random(size).randbytes(size)}, f"{size} bytes")


def state_of(run: ActRun) -> dict[str, object]:
    return json.loads((run.artifact("tfslim-report-tfslim") / "action.json").read_text())


def test_a_push_is_measured_and_told_in_the_summary(world: World) -> None:
    world.use(step(dockerfile="Dockerfile"))
    run = world.push()
    run.expect(measure="success")
    outputs = run.outputs("tfslim")
    assert outputs["verdict"] == "good"
    assert int(outputs["disk-bytes"]) == 300_000
    assert outputs["digest"].startswith("sha256:")
    assert outputs["artifact"] == "tfslim-report-tfslim"
    folder = run.artifact("tfslim-report-tfslim")
    record = json.loads((folder / "report.json").read_text())
    assert [size["disk_bytes"] for size in record["sizes"].values()] == [300_000]
    assert {"report.md", "report.html", "verdict.json", "action.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert MARKER in run.summary
    assert not world.comments
    assert not world.fake.asked("POST", "/comments$")
    assert state_of(run)["exit_code"] == 0


def test_a_pull_request_has_one_comment_which_is_edited(world: World) -> None:
    world.use(step(dockerfile="Dockerfile"))
    world.repository.branch("feature")
    world.repository.commit(message="A feature")
    world.open_pull()

    first = world.pull_request()
    first.expect(measure="success")
    (comment,) = world.comments
    assert comment.startswith(MARKER)
    assert "pulls 30" in comment.replace("\u00a0", " ")
    url = first.outputs("tfslim")["comment-url"]
    assert url.startswith("https://")

    # The same again: nothing is written.
    written = len(world.fake.asked("PATCH")) + len(world.fake.asked("POST", "comments$"))
    again = world.pull_request()
    again.expect(measure="success")
    assert len(world.fake.asked("PATCH")) + len(world.fake.asked("POST", "comments$")) == written
    assert world.comments == [comment]

    # A larger image: the same comment, with the new size.
    grow(world, 900_000)
    world.push_to_pull()
    third = world.pull_request()
    third.expect(measure="success")
    (edited,) = world.comments
    assert edited != comment
    assert "pulls 90" in edited.replace("\u00a0", " ")
    assert len(world.fake.asked("PATCH", "comments")) == 1
    assert third.outputs("tfslim")["comment-url"] == url


def test_a_fork_writes_nothing_and_its_report_is_published_by_another_workflow(
    world: World,
) -> None:
    world.use(step(dockerfile="Dockerfile"))
    world.repository.commit({".github/workflows/pr-comment.yml": PUBLISH}, "Comment on forks")
    world.repository.branch("feature")
    grow(world, 400_000)
    number = world.open_pull(fork=True)

    measured = world.pull_request(number)
    measured.expect(measure="success")
    assert not [one for one in world.fake.requests if one.method != "GET"]
    assert not world.comments
    assert MARKER in measured.summary
    assert measured.artifacts == ["tfslim-report-tfslim"]
    assert measured.outputs("tfslim").get("comment-url", "") == ""
    assert not measured.leaks(FORK_TOKEN)

    world.repository.switch("main")  # the workflow that comments is the default branch's
    published = world.workflow_run(measured, "pr-comment.yml")
    published.expect(measure="success")
    (comment,) = world.comments
    assert comment.startswith(MARKER)
    assert "pulls 40" in comment.replace("\u00a0", " ")
    assert not published.leaks(TOKEN)


@pytest.fixture
def forked(world: World) -> World:
    """A fork's pull request, and the workflow that comments; nothing has been measured yet."""
    world.repository.commit({".github/workflows/pr-comment.yml": PUBLISH}, "Comment on forks")
    world.repository.branch("feature")
    world.repository.commit(message="A fork's change")
    world.open_pull(7, fork=True)
    world.repository.switch("main")
    return world


def forge(world: World, **changes: object) -> ActRun:
    """Publish an artifact that a fork made up."""
    state = world.fake.state
    pull = state.repository(world.name).pulls[0]
    run = state.run(
        world.name,
        pull.head_sha,
        event="pull_request",
        path=".github/workflows/tfslim.yml",
        head_branch=pull.head_branch,
        head_repository=pull.head_repository,
    )
    told = {
        "schema_version": 1,
        "id": "tfslim",
        "mode": "run",
        "status": "done",
        "exit_code": 0,
        "verdict": "good",
        "why": [],
        "artifact": "tfslim-report-tfslim",
        "event": "pull_request",
        "repository": world.name,
        "pull_request": 7,
        "head_sha": pull.head_sha,
        "run_id": run.id,
        **changes,
    }
    files = {"action.json": json.dumps(told).encode(), "report.md": b"@everyone [x](http://evil)"}
    state.artifact(world.name, run.id, "tfslim-report-tfslim", zipped(files))
    ended = ActRun(0, "", "", world.act.store, run.id)
    return world.workflow_run(ended, "pr-comment.yml")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param(
            {"pull_request": 8, "head_sha": "e" * 40},
            "of another commit",
            id="of another pull request",
        ),
        pytest.param({"verdict": "<img src=x>"}, "not as expected: verdict", id="not as agreed"),
        pytest.param({"run_id": 2}, "of another run", id="of another run"),
    ],
)
def test_a_forged_artifact_is_refused(
    forked: World, changes: dict[str, object], reason: str
) -> None:
    other = forked.repository.git("rev-parse", "main")
    forked.fake.state.pull(forked.name, 8, "e" * 40, head_branch="other", base_sha=other)
    run = forge(forked, **changes).expect(measure="failure")
    assert forked.fake.asked("GET", "/zip$"), "the artifact was not even looked at"
    assert reason in run.errors_of("tfslim")
    comments = forked.fake.state.repository(forked.name).comments
    assert not [one for one in comments if one.issue != 7], run
    assert not any("evil" in one.body or "<img" in one.body for one in comments), run


def test_a_report_of_a_commit_that_is_not_the_newest_is_refused(forked: World) -> None:
    forked.repository.switch("feature")
    forked.repository.commit(message="Pushed while the first was measured")
    forked.repository.switch("main")
    pull = forked.fake.state.repository(forked.name).pulls[0]
    stale = pull.head_sha
    run = forked.fake.state.run(
        forked.name,
        stale,
        event="pull_request",
        path=".github/workflows/tfslim.yml",
        head_branch=pull.head_branch,
        head_repository=pull.head_repository,
    )
    pull.head_sha = forked.repository.git("rev-parse", "feature")
    told = {
        "id": "tfslim",
        "status": "done",
        "exit_code": 0,
        "verdict": "good",
        "repository": forked.name,
        "pull_request": 7,
        "head_sha": stale,
        "run_id": run.id,
    }
    files = {"action.json": json.dumps(told).encode()}
    forked.fake.state.artifact(forked.name, run.id, "tfslim-report-tfslim", zipped(files))
    published = forked.workflow_run(ActRun(0, "", "", forked.act.store, run.id), "pr-comment.yml")
    published.expect(measure="success")  # nobody did wrong
    assert "has moved on to" in published.log
    assert not forked.comments


def test_a_fork_reaches_no_gpu_without_a_label(world: World) -> None:
    world.use(step(dockerfile="Dockerfile", gpu="required"))
    world.repository.branch("feature")
    world.repository.commit(message="A fork's change")
    number = world.open_pull(fork=True)

    run = world.pull_request(number)
    run.expect(measure="failure")
    assert any("fork" in one.message and "gpu-ok" in one.message for one in run.annotations), run
    assert not world.comments

    # The label opens the door for the run that it starts; here it only sees that there is no GPU.
    labeled = world.pull_request(number, action="labeled", label="gpu-ok")
    assert not any("fork" in one.message for one in labeled.annotations), labeled


def test_a_second_checkout_of_history_is_not_needed(world: World) -> None:
    """A checkout has one commit: the baseline comes from the API, and its absence is said."""
    text = workflow(checkout(fetch_depth=1), step(dockerfile="Dockerfile"))
    world.repository.commit({".github/workflows/tfslim.yml": text})
    run = world.push()
    run.expect(measure="success")
    assert "no baseline" in run.summary.lower()
