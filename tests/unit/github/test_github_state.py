"""What a job leaves for the next step, and for whoever reads its artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfslim.errors import InputError
from tfslim.github.state import ErrorText, JobState


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    state = JobState(id="x", error=ErrorText(label="build", what="w"), pull_request=3)
    assert JobState.load(state.save(tmp_path)) == state
    assert [path.name for path in tmp_path.iterdir()] == ["action.json"]


def test_a_state_that_nobody_finished_says_so() -> None:
    state = JobState(id="x")
    assert (state.status, state.exit_code, state.verdict) == ("running", 1, "error")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../x"},
        {"id": "x" * 41},
        {"exit_code": 300},
        {"pull_request": -1},
        {"pull_request": "1; rm"},
        {"head_sha": "a" * 39},
        {"repository": "a/b/c"},
        {"verdict": "great"},
        {"why": ["x" * 2000]},
        {"unknown": 1},
        {"schema_version": 2},
    ],
)
def test_what_does_not_fit_is_refused_and_named(change: dict[str, Any]) -> None:
    content = json.dumps({"id": "x", **change}).encode()
    with pytest.raises(InputError) as told:
        JobState.read(content)
    assert next(iter(change)) in told.value.why


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{" * 100])
def test_what_is_no_state_is_an_input_error(content: bytes) -> None:
    with pytest.raises(InputError):
        JobState.read(content)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "action.json"
    path.write_bytes(b" " * 300_000)
    with pytest.raises(InputError, match="larger"):
        JobState.load(path)
    with pytest.raises(InputError):
        JobState.load(tmp_path / "missing.json")
