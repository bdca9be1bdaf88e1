"""Marks of a service as phases."""

from __future__ import annotations

import json

import pytest

from tfslim.bench.coldmarks import phases, ready_marks

MARKS = {
    "process_start": 100.2,
    "first_line": 100.3,
    "http_imported": 100.6,
    "tensorflow_imported": 102.3,
    "gpu_initialised": 102.4,
    "model_loaded": 103.0,
    "warm": 103.1,
}


def line(**event: object) -> str:
    return json.dumps({"event": "ready", **event})


def test_each_mark_ends_a_phase() -> None:
    found = phases(100.0, MARKS)
    assert found == pytest.approx(
        {
            "create": 0.2,
            "interpreter": 0.1,
            "imports": 2.0,
            "gpu_init": 0.1,
            "model_load": 0.6,
            "warm_up": 0.1,
        }
    )


def test_a_missing_mark_lengthens_the_next_phase() -> None:
    found = phases(100.0, {k: v for k, v in MARKS.items() if k != "gpu_initialised"})
    assert "gpu_init" not in found
    assert found["model_load"] == pytest.approx(0.7)


def test_a_mark_out_of_order_does_not_change_the_sum() -> None:
    found = phases(100.0, {**MARKS, "gpu_initialised": 101.0})
    assert found["gpu_init"] == 0.0
    assert sum(found.values()) == pytest.approx(3.1)


def test_a_process_that_started_before_it_was_asked_for_by_a_clock_tick() -> None:
    assert phases(100.205, MARKS)["create"] == 0.0


def test_marks_of_the_ready_line() -> None:
    assert ready_marks(line(marks={**MARKS, "more": 1.0})) == MARKS


def test_imports_end_when_http_is_imported_too() -> None:
    found = phases(100.0, {**MARKS, "http_imported": 102.35})
    assert found["imports"] == pytest.approx(2.05)
    assert found["gpu_init"] == pytest.approx(0.05)


def test_services_that_log_durations_only() -> None:
    old = {
        "monotonic_s": 103.1,
        "process_s": 2.9,
        "interpreter_s": 0.1,
        "load_s": 0.6,
        "warmup_s": 0.1,
    }
    found = ready_marks(line(**old))
    assert found == pytest.approx(
        {
            "process_start": 100.2,
            "first_line": 100.3,
            "tensorflow_imported": 102.4,
            "model_loaded": 103.0,
            "warm": 103.1,
        }
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ready",
        '"ready"',
        '["ready"]',
        '{"event": "ready"',
        '{"event": "ready"}',
        '{"event": "ready", "marks": {"warm": "soon"}}',
        '{"event": "ready", "marks": {"warm": NaN}}',
        '{"event": "listening", "marks": {"warm": 1}, "x": "ready"}',
    ],
)
def test_other_lines_are_no_marks(text: str) -> None:
    assert ready_marks(text) is None
