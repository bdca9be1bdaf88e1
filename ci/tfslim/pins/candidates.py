"""Which versions come into question: those that TensorFlow allows, a few of each line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tfslim.pins.index import Wheel

__all__ = ["cuda_requirements", "short_name", "shortlist"]

_EXTRA: Final = "and-cuda"
# A line of releases is told by two numbers (12.6, 12.8); by three where two tell nearly none apart,
# as for cuRAND (10.3.6, 10.3.7, …).
_FEWEST_LINES: Final = 3


def cuda_requirements(listed: Iterable[Requirement], python: str) -> list[Requirement]:
    """Return what TensorFlow requires for its extra `and-cuda` and not without it."""
    base = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return [
        requirement
        for requirement in listed
        if requirement.marker is not None
        and requirement.marker.evaluate({**base, "extra": _EXTRA})
        and not requirement.marker.evaluate({**base, "extra": ""})
    ]


def shortlist(requirement: Requirement, wheels: Sequence[Wheel], *, all_: bool) -> list[Wheel]:
    """Return the wheels to compare, oldest first.

    Args:
        requirement: What TensorFlow allows.
        wheels: What the index has.
        all_: Every version, instead of the lowest and the last of each line.
    """
    allowed = sorted(
        (wheel for wheel in wheels if requirement.specifier.contains(wheel.version)),
        key=lambda wheel: wheel.version,
    )
    if all_ or not allowed:
        return allowed
    length = 2 if len({_line(wheel.version, 2) for wheel in allowed}) >= _FEWEST_LINES else 3
    last = {_line(wheel.version, length): wheel for wheel in allowed}
    return sorted({allowed[0], *last.values()}, key=lambda wheel: wheel.version)


def _line(version: Version, length: int) -> tuple[int, ...]:
    return version.release[:length]


def short_name(project: str) -> str:
    """Return a library's name without what all share: `nvidia-cudnn-cu12` is `cudnn`."""
    return re.sub(r"^nvidia-(.+?)(-cu\d+)?$", r"\1", canonicalize_name(project))
