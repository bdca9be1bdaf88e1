"""What a service says of its own start, as phases.

The `ready` line of a service carries `marks`: when it came how far, in seconds on CLOCK_MONOTONIC,
which is one clock for a machine and every container on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["ENDS", "phases", "ready_marks"]

ENDS = (
    ("process_start", "create"),
    ("first_line", "interpreter"),
    ("tensorflow_imported", "imports"),
    ("gpu_initialised", "gpu_init"),
    ("model_loaded", "model_load"),
    ("warm", "warm_up"),
)
"""Marks of a service in their order, and the phase that each ends."""
_HTTP = "http_imported"


def phases(asked: float, marks: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each phase up to readiness, from a service's marks.

    A phase whose mark is missing is left out; its time is in the next one. A mark that comes too
    early for its place ends its phase at once, so that the sum stays right. Imports end when both
    HTTP and TensorFlow are imported, in whatever order.

    Args:
        asked: When the container was asked for, on the same clock.
        marks: When the service came how far.
    """
    found: dict[str, float] = {}
    last = asked
    for mark, phase in ENDS:
        if mark in marks:
            also = marks.get(_HTTP, last) if phase == "imports" else last
            now = max(marks[mark], also, last)
            found[phase] = now - last
            last = now
    return found


def ready_marks(line: str) -> dict[str, float] | None:
    """Return the marks in a service's line, if it is the `ready` line; None for any other."""
    if '"ready"' not in line:
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("event") != "ready":
        return None
    found = event["marks"] if isinstance(event.get("marks"), dict) else _derived(event)
    marks = {
        name: float(found[name])
        for name in (*dict(ENDS), _HTTP)
        if isinstance(found.get(name), (int, float)) and math.isfinite(found[name])
    }
    return marks if "warm" in marks else None


def _derived(event: Mapping[str, Any]) -> dict[str, float]:
    """Return marks from durations: what services of ours logged before they gave marks."""
    names = ("monotonic_s", "process_s", "interpreter_s", "warmup_s", "load_s")
    if not all(isinstance(event.get(name), (int, float)) for name in names):
        return {}
    warm = event["monotonic_s"]
    loaded = warm - event["warmup_s"]
    start = warm - event["process_s"]
    return {
        "process_start": start,
        "first_line": start + event["interpreter_s"],
        "tensorflow_imported": loaded - event["load_s"],
        "model_loaded": loaded,
        "warm": warm,
    }
