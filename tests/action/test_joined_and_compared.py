"""Several jobs in one report, a run held against an earlier one, and a report that is too long."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

import report_records as records
from act_runner import World, checkout, step
from tfslim.report.record import RunRecord

pytestmark = pytest.mark.action

STAGES = """\
FROM scratch AS small
COPY Dockerfile /
FROM scratch AS large
COPY data.bin /
"""


def matrix_jobs(**join: Any) -> dict[str, Any]:
    """Return jobs that measure two stages and join what they found."""
    part = step("part", id="${{ format('image--{0}', matrix.stage) }}", dockerfile="Dockerfile",
                target="${{ matrix.stage }}", comment="never", fail_on="never")  # fmt: skip
    download = {
        "uses": "actions/download-artifact@v8",
        "with": {"pattern": "tfslim-report-image--*", "path": "parts"},
    }
    joined = step("join", mode="join", id="image", records="parts", **join)
    stages = ["small", "large"]
    return {
        "part": {
            "runs-on": "ubuntu-latest",
            "strategy": {"fail-fast": False, "matrix": {"stage": stages}},
            "steps": [checkout(), part],
        },
        "join": {
            "needs": "part",
            "if": "${{ !cancelled() }}",
            "runs-on": "ubuntu-latest",
            "steps": [checkout(), download, joined],
        },
    }


def test_a_matrix_becomes_one_report(world: World) -> None:
    world.repository.write({"Dockerfile": STAGES})
    world.use(**matrix_jobs(max_disk="200 kB"))
    world.repository.branch("feature")
    world.repository.commit(message="A feature")
    world.open_pull()
    run = world.pull_request().expect(part="success", join="failure")  # large is over the limit
    assert run.artifacts == [
        f"tfslim-report-{one}" for one in ("image", "image--large", "image--small")
    ]
    record = json.loads((run.artifact("tfslim-report-image") / "report.json").read_text())
    parts = [record, *record["others"]]  # nothing is mixed: each with its own machine
    assert sorted(name for part in parts for name in part["sizes"]) == ["large", "small"]
    (comment,) = world.comments
    assert comment.startswith("<!-- tfslim-report:image -->\n❌")
    assert "small" in comment
    assert "large" in comment
    assert run.outputs("join")["verdict"] == "bad"


def test_a_part_that_is_missing_is_said(world: World) -> None:
    world.repository.write({"Dockerfile": STAGES.replace("COPY data.bin /", "COPY nothing /")})
    world.use(**matrix_jobs())
    run = world.push().expect(part="failure", join="success")
    assert run.outputs("join")["verdict"] == "unsure"
    assert any("image--large is missing" in one.message for one in run.annotations)


def test_a_pull_request_is_compared_with_the_run_of_its_merge_base(world: World) -> None:
    world.use(step(dockerfile="Dockerfile", max_growth="20 kB"))
    first = world.push().expect(measure="success")
    assert "no baseline" in first.summary.lower()

    world.repository.branch("feature")
    world.repository.commit({"more.bin": noise(50_000)}, "More")
    world.repository.commit(
        {"Dockerfile": "FROM scratch\nCOPY data.bin /data.bin\nCOPY more.bin /more.bin\n"}, "Use it"
    )
    world.open_pull()
    run = world.pull_request().expect(measure="failure")
    (comment,) = world.comments
    assert "no baseline" not in comment.lower()
    assert "+50" in comment.replace("\u00a0", " ")
    errors = [one for one in run.annotations if one.level == "error"]
    assert len(errors) == 2  # pull and disk
    assert all("max-growth" in one.message for one in errors)
    assert {(one.file, one.line) for one in errors} == {("Dockerfile", 3)}  # the line that grew

    verdict = json.loads((run.artifact("tfslim-report-tfslim") / "verdict.json").read_text())
    assert verdict["comparison"]


def test_the_commit_before_is_built_on_the_spot(world: World) -> None:
    world.repository.commit({"data.bin": noise(100_000)}, "Smaller")
    job = {
        "runs-on": "ubuntu-latest",
        "steps": [checkout(**{"fetch-depth": 0}), step(dockerfile="Dockerfile", baseline="build")],
    }
    world.use(measure=job)
    world.repository.commit({"data.bin": noise(300_000)}, "Larger")
    run = world.push().expect(measure="success")
    assert "+200" in run.summary.replace("\u00a0", " ")
    assert not world.fake.asked()  # what is built here needs no earlier run


def test_a_report_that_is_longer_than_a_comment_may_be(world: World) -> None:
    world.repository.write({"parts/all/report.json": long_record().model_dump_json()})
    world.use(step(mode="join", records="parts", baseline="none", fail_on="never"))
    world.repository.branch("feature")
    world.repository.commit(message="A feature")
    world.open_pull()
    run = world.pull_request().expect(measure="success")
    (comment,) = world.comments
    assert len(comment.encode()) <= 65_536
    assert len(run.summary.encode()) > 65_536  # a summary may be longer, and has all of it
    assert "left out" in comment or "no room" in comment, comment[-1500:]
    assert len((run.artifact("tfslim-report-tfslim") / "report.html").read_bytes()) > 65_536


def long_record() -> RunRecord:
    """Return a record with so many images and words that a comment has no room for all of them."""
    data = records.full().model_dump(mode="json")
    names = [f"image-{number:02}-{'long-name-' * 7}" for number in range(40)]
    for part in ("sizes", "removals", "parity", "budgets"):
        data[part] |= dict.fromkeys(names, data[part]["inference"])
    starts = data["cold_starts"]
    for holder, part in (
        (data, "http"),
        (data, "in_process"),
        (starts, "launches"),
        (starts, "pulls"),
    ):
        one = [item for item in holder[part] if item["subject"] == "inference"]
        holder[part] += [{**item, "subject": name} for item in one for name in names]
    data["notes"] = [f"Note {number}: {'many words ' * 80}" for number in range(40)]
    return RunRecord.model_validate(data)


def noise(size: int) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(size).randbytes(size)
