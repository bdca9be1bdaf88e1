"""Launches take turns, so that a machine that drifts is fair to all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["rotated"]

_Item = TypeVar("_Item")


def rotated(subjects: Sequence[_Item], turn: int) -> list[_Item]:
    """Start each turn with another subject, so that none always follows the same one."""
    start = turn % max(1, len(subjects))
    return [*subjects[start:], *subjects[:start]]
