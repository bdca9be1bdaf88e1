"""The steps `tfslim action comment` and `tfslim action publish`: outputs, log and exit code."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import run_records
from fake_github.state import Run
from github_world import HERE, READER, TOKEN, World, world
from tfslim.github import tell_comment
from tfslim.github.commands import Commands
from tfslim.ui import Ui


@pytest.fixture
def github() -> Iterator[World]:
    with world() as made:
        yield made


class Step:
    """One step: its environment, its log and its outputs."""

    def __init__(self, github: World, folder: Path, number: int = 5, **more: str) -> None:
        run = github.run_of(number)
        event = github.pull_event(number, run.id)
        self.folder = folder / "tfslim-report"
        github.job_state(run, number).save(self.folder)
        (self.folder / "report.md").write_text("<!-- tfslim-report:tfslim -->\n✅ **fine**\n")
        self.env = {**github.in_actions(event, folder), **more}
        self.log = io.StringIO()
        self.commands = Commands(self.env, self.log)
        self.github = github

    def comment(self) -> None:
        clock = self.github.time.clock()
        tell_comment.comment(self.env, self.folder, self.commands, clock)

    def output(self, name: str) -> str:
        lines = Path(self.env["GITHUB_OUTPUT"]).read_text().splitlines()
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}<<"))
        return lines[at + 1]


def test_a_comment_and_its_address(github: World, tmp_path: Path) -> None:
    step = Step(github, tmp_path)
    step.comment()
    url = f"https://github.com/{HERE}/pull/5#issuecomment-{github.here.comments[0].id}"
    assert step.output("comment-url") == url
    assert f"comment created: {url}" in step.log.getvalue()
    assert "::warning" not in step.log.getvalue()


def test_a_fork_is_told_quietly(github: World, tmp_path: Path) -> None:
    step = Step(github, tmp_path, 6, TFSLIM_TOKEN=READER)
    step.comment()
    assert step.output("comment-url") == ""
    assert "comment skipped: a fork's pull request gets no token" in step.log.getvalue()
    assert "::warning" not in step.log.getvalue()


def test_what_fails_is_a_warning(github: World, tmp_path: Path) -> None:
    github.state.fault(502, times=99)
    step = Step(github, tmp_path)
    step.comment()
    assert (
        "::warning title=tfslim%3A comment::no comment: GitHub answers 502" in step.log.getvalue()
    )
    assert "again in 1 s" in step.log.getvalue()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GITHUB_EVENT_PATH", "/nowhere", "cannot be read"),
        ("GITHUB_API_URL", "http://api.github.com", "readable on its way"),
    ],
)
def test_nothing_fails_the_job(
    github: World, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    step = Step(github, tmp_path, **{variable: value})
    step.comment()
    assert "::warning" in step.log.getvalue()
    assert told in step.log.getvalue()


def test_a_state_that_is_missing_is_a_warning(github: World, tmp_path: Path) -> None:
    step = Step(github, tmp_path)
    (step.folder / "action.json").unlink()
    step.comment()
    assert "::warning" in step.log.getvalue()
    assert github.bodies == []


def test_the_token_is_masked_and_nowhere_else(github: World, tmp_path: Path) -> None:
    github.state.fault(422, body={"message": f"bad {TOKEN}"}, times=9)
    step = Step(github, tmp_path)
    step.comment()
    lines = [line for line in step.log.getvalue().splitlines() if TOKEN in line]
    assert lines == [f"::add-mask::{TOKEN}"]
    assert step.log.getvalue().startswith("::add-mask::")


def test_what_github_says_is_no_command(github: World, tmp_path: Path) -> None:
    github.state.fault(422, body={"message": "x\n::error::owned"}, times=9)
    step = Step(github, tmp_path)
    step.comment()
    assert not [line for line in step.log.getvalue().splitlines() if line.startswith("::error")]


@pytest.mark.parametrize("wish", ["never", "always", "auto", ""])
def test_the_wish_is_read(github: World, tmp_path: Path, wish: str) -> None:
    step = Step(github, tmp_path, TFSLIM_INPUT_COMMENT=wish)
    step.comment()
    assert len(github.bodies) == (0 if wish == "never" else 1)


# ── publish ──────────────────────────────────────────────────────────────────────────────────


def _publish(github: World, folder: Path, run: Run, **more: str) -> tuple[int, str, str]:
    env = github.in_actions(github.workflow_event(run), folder)
    env |= {"TFSLIM_INPUT_MODE": "publish", **more}
    log = io.StringIO()
    code = tell_comment.publish(env, Commands(env, log), Ui(interactive=False), github.time.clock())
    output = Path(env["GITHUB_OUTPUT"])
    return code, log.getvalue(), output.read_text() if output.exists() else ""


def _measured(github: World, **state: object) -> Run:
    run = github.run_of(6)
    record = run_records.document(sizes={"app": run_records.inspection()})
    files = {
        "action.json": github.job_state(run, 6, **state).model_dump_json().encode(),
        "report.json": json.dumps(record).encode(),
    }
    github.state.artifact(HERE, run.id, "tfslim-report-tfslim", files)
    return run


def test_publish_posts_and_says_where(github: World, tmp_path: Path) -> None:
    code, log, output = _publish(github, tmp_path, _measured(github))
    assert code == 0
    assert "comment created: https://github.com/org/app/pull/6#issuecomment-" in log
    assert "issuecomment-" in output
    assert len(github.bodies) == 1


def test_publish_of_an_old_run_is_no_failure(github: World, tmp_path: Path) -> None:
    run = _measured(github)
    pull = github.here.pull(6)
    assert pull is not None
    pull.head_sha = github.state.commit("seven", github.six)
    code, log, _ = _publish(github, tmp_path, run)
    assert code == 0
    assert "comment skipped: #6 has moved on" in log


def test_publish_refuses_with_an_error_that_is_seen(github: World, tmp_path: Path) -> None:
    code, log, _ = _publish(github, tmp_path, _measured(github, pull_request=5))
    assert code == 9
    assert "::error title=tfslim%3A publish::the artifact says it is of another pull request" in log
    assert github.bodies == []


def test_publish_that_cannot_reach_github_fails(github: World, tmp_path: Path) -> None:
    run = _measured(github)
    github.state.fault(500, times=99)
    code, log, _ = _publish(github, tmp_path, run)
    assert code == 5
    assert "GitHub answers 500" in log


def test_publish_names_an_input_that_is_wrong(github: World, tmp_path: Path) -> None:
    code, log, _ = _publish(github, tmp_path, _measured(github), TFSLIM_INPUT_MAX_PULL="much")
    assert code == 2
    assert "max-pull" in log
