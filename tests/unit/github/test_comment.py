"""The sticky comment: one for each report, edited in place, nobody else's touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from github_world import HERE, READER, TOKEN, World, world
from tfslim.github.api import Api
from tfslim.github.comment import (
    CommentOutcome,
    Origin,
    body_of,
    marker,
    normalised,
    post_comment,
    upsert,
)

REPORT = """<!-- tfslim-report:tfslim -->
✅ **within budgets**

| | pull |
| --- | ---: |
| app | 1.0 GB |

<details><summary>Environment</summary>

| machine | x86 |
| started | 2026-01-02 03:04 UTC |
| load when it began | 0.5 |

</details>
"""


@pytest.fixture
def github() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "report.md").write_text(REPORT)
    return tmp_path


def _post(
    github: World, folder: Path, *, run_id: int = 900, number: int = 5, **more: str
) -> CommentOutcome:
    event = github.pull_event(number, run_id)
    run = github.run_of(number)
    state = github.job_state(run, number, id=more.pop("id", "tfslim"))
    token = more.pop("token", TOKEN)
    return post_comment(github.api(token), event, state, folder, more.pop("wish", "auto"))


def test_the_first_report_is_written(github: World, folder: Path) -> None:
    outcome = _post(github, folder)
    assert outcome.done == "created"
    assert (
        outcome.url == f"https://github.com/{HERE}/pull/5#issuecomment-{github.here.comments[0].id}"
    )
    (body,) = github.bodies
    assert body.startswith("<!-- tfslim-report:tfslim -->\n✅ **within budgets**\n")
    assert body.count("<!-- tfslim-report:") == 1
    assert f"[run 900](https://github.com/{HERE}/actions/runs/900)" in body
    assert github.five[:12] in body
    assert "`tfslim-report-tfslim`" in body


def test_the_second_report_edits_it(github: World, folder: Path) -> None:
    first = _post(github, folder)
    (folder / "report.md").write_text(REPORT.replace("1.0 GB", "1.1 GB"))
    second = _post(github, folder, run_id=901)
    assert (second.done, second.url) == ("updated", first.url)
    assert len(github.bodies) == 1
    assert "1.1 GB" in github.bodies[0]
    assert github.here.comments[0].edits == 1


def test_an_unchanged_report_is_not_written_again(github: World, folder: Path) -> None:
    _post(github, folder)
    text = REPORT.replace("2026-01-02 03:04", "2026-01-05 06:07").replace("| 0.5 |", "| 7.5 |")
    (folder / "report.md").write_text(text)
    # GitHub gives a comment back with the line ends of a form.
    one = github.here.comments[0]
    one.body = one.body.replace("\n", "\r\n")
    assert _post(github, folder, run_id=901).done == "unchanged"
    assert one.edits == 0
    assert not github.fake.asked("PATCH")


def test_each_id_has_its_own(github: World, folder: Path) -> None:
    _post(github, folder)
    assert _post(github, folder, id="tfslim-gpu").done == "created"
    assert _post(github, folder, id="tfslim-gpu", run_id=901).done == "unchanged"
    assert len(github.bodies) == 2


@pytest.mark.parametrize("author", ["mallory", "other-app[bot]"])
def test_another_authors_comment_is_left_alone(github: World, folder: Path, author: str) -> None:
    theirs = github.state.comment(HERE, 5, REPORT.replace("within", "not within"), author)
    assert _post(github, folder).done == "created"
    assert len(github.bodies) == 2
    assert theirs.edits == 0
    assert "not within" in theirs.body


def test_a_quoted_marker_is_no_comment_of_ours(github: World, folder: Path) -> None:
    github.state.comment(HERE, 5, f"> {marker('tfslim')}\n\nlook at this")
    assert _post(github, folder).done == "created"


def test_of_several_the_newest_is_kept(github: World, folder: Path) -> None:
    for number in range(3):
        github.state.comment(HERE, 5, f"{marker('tfslim')}\nold {number}")
    human = github.state.comment(HERE, 5, f"{marker('tfslim')}\nmine", "mallory")
    newest = github.here.comments[2]
    outcome = _post(github, folder)
    assert outcome.done == "updated"
    assert github.here.comments == [newest, human]
    assert "within budgets" in newest.body


def test_two_jobs_at_once_leave_one_comment(github: World, folder: Path) -> None:
    """Another job writes between our look and our writing."""
    origin = Origin(HERE, 5, "tfslim", run_id=900)

    def meanwhile() -> None:
        github.state.comment(HERE, 5, f"{marker('tfslim')}\nthe other job's")

    upsert(github.api(), origin, body_of(REPORT, origin), meanwhile)
    assert len(github.bodies) == 1


def test_an_older_run_does_not_write_over_a_newer(github: World, folder: Path) -> None:
    _post(github, folder, run_id=905)
    (folder / "report.md").write_text(REPORT.replace("1.0 GB", "0.9 GB"))
    outcome = _post(github, folder, run_id=904)
    assert (outcome.done, outcome.note) == ("skipped", "a newer run has commented already")
    assert "1.0 GB" in github.bodies[0]


def test_a_comment_deleted_meanwhile_is_written_anew(github: World, folder: Path) -> None:
    github.state.comment(HERE, 5, f"{marker('tfslim')}\nold")
    origin = Origin(HERE, 5, "tfslim", run_id=900)
    outcome = upsert(github.api(), origin, body_of(REPORT, origin), github.here.comments.clear)
    assert outcome.done == "created"
    assert len(github.bodies) == 1


def test_a_lost_answer_leaves_one_comment(github: World, folder: Path) -> None:
    github.state.fault(502, method="POST", after=True)
    assert _post(github, folder).done == "created"
    assert len(github.bodies) == 1


def test_a_fork_is_not_even_tried(github: World, folder: Path) -> None:
    outcome = _post(github, folder, number=6, token=READER)
    assert (outcome.done, outcome.level) == ("skipped", "notice")
    assert "docs/workflows/pr-comment.yml" in outcome.note
    assert github.fake.requests == []


def test_always_tries_a_fork_and_warns(github: World, folder: Path) -> None:
    outcome = _post(github, folder, number=6, token=READER, wish="always")
    assert (outcome.done, outcome.level) == ("failed", "warning")
    assert "`pull-requests: write`" in outcome.note
    assert github.bodies == []


def test_a_reading_token_is_a_notice_with_auto(github: World, folder: Path) -> None:
    outcome = _post(github, folder, token=READER)
    assert (outcome.done, outcome.level) == ("failed", "notice")
    assert "permissions: pull-requests: write" in outcome.note


@pytest.mark.parametrize("status", [401, 404, 422, 429, 500, 502, 0])
def test_no_failure_is_raised(github: World, folder: Path, status: int) -> None:
    github.state.fault(status, times=99)
    outcome = _post(github, folder)
    assert (outcome.done, outcome.level) == ("failed", "warning")
    assert outcome.note.startswith("no comment: ")
    assert TOKEN not in outcome.note


def test_never_and_no_pull_request(github: World, folder: Path) -> None:
    assert _post(github, folder, wish="never").done == "skipped"
    event = replace(github.pull_event(), name="push", pull_request=None)
    state = github.job_state(github.run_of(5))
    outcome = post_comment(github.api(), event, state, folder)
    assert outcome.note == "this event is of no pull request"
    assert github.fake.requests == []


def test_without_a_report_nothing_is_posted(github: World, tmp_path: Path) -> None:
    outcome = _post(github, tmp_path)
    assert outcome.done == "skipped"
    assert "there is no report" in outcome.note


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 40_000, "a\n\n" * 30_000])
def test_a_report_that_is_too_long_is_cut_to_what_counts(
    github: World, tmp_path: Path, text
) -> None:
    (tmp_path / "report.md").write_text(f"❌ **too big**\n\n{text}")
    assert _post(github, tmp_path).done == "created"
    (body,) = github.bodies
    assert len(body.encode()) < 65_536
    assert "❌ **too big**" in body
    assert "too long for a comment" in body
    assert "[run 900]" in body


def test_the_longest_report_that_fits_is_whole() -> None:
    origin = Origin(
        HERE, 5, "a" * 40, 10**15, 9, f"https://github.com/{HERE}/x", "f" * 40, "b" * 60
    )
    report = "x" * (65_536 - 1_000)  # what a report leaves free
    assert report in body_of(report, origin)


def test_what_makes_two_reports_differ() -> None:
    one, other = (
        Origin(HERE, 5, "x", 1, 1, "u", "a" * 40),
        Origin(HERE, 5, "x", 2, 3, "v", "b" * 40),
    )
    assert normalised(body_of(REPORT, one)) == normalised(body_of(REPORT, other))
    assert normalised(body_of(REPORT, one, remarks="- whose word")) == normalised(
        body_of(REPORT, other)
    )
    changed = REPORT.replace("1.0 GB", "1.1 GB")
    assert normalised(body_of(REPORT, one)) != normalised(body_of(changed, other))


def test_a_client_without_a_token_is_refused(github: World, folder: Path) -> None:
    outcome = _post(github, folder, token="")
    assert "does not accept the token" in outcome.note
    assert isinstance(github.api(""), Api)
