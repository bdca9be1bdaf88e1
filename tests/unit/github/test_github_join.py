"""Records of many jobs, joined; what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from report_records import small
from tfslim.errors import InputError
from tfslim.github.join import joined
from tfslim.github.state import ErrorText, JobState


def _part(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    small(notes=[name]).save(folder / name / "report.json")


def test_every_part_is_in_the_record(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        _part(tmp_path, name)
    found = joined(tmp_path)
    assert [part.notes for part in found.record.parts] == [["a"], ["b"], ["c"]]
    assert found.missing == ()


def test_a_job_that_failed_is_named_with_its_error(tmp_path: Path) -> None:
    _part(tmp_path, "good")
    error = ErrorText(label="build", what="the build of Dockerfile failed")
    JobState(id="x", status="failed", error=error).save(tmp_path / "bad")
    JobState(id="x").save(tmp_path / "killed")
    found = joined(tmp_path)
    assert found.missing == (
        "part bad is missing: its job is failed: the build of Dockerfile failed",
        "part killed is missing: its job is running: it left no record",
    )
    assert found.record.notes[-2:] == list(found.missing)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    _part(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "report.json").write_text('{"schema_version": 99}')
    (missing,) = joined(tmp_path).missing
    assert missing.startswith("part bad is broken")


def test_no_record_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record"):
        joined(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        joined(tmp_path / "none")
    JobState(id="x").save(tmp_path / "killed")
    with pytest.raises(InputError) as told:
        joined(tmp_path)
    assert "part killed" in told.value.why
