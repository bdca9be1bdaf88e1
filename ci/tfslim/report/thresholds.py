"""From which change on a measure counts: the defaults, and what the configuration says instead."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from tfslim.config import Threshold
from tfslim.report.measures import Measured

__all__ = ["DEFAULTS", "threshold_for"]

DEFAULTS: Final = (
    # A build of the same input gives the same bytes; half a percent is a newer package of a base.
    Threshold(change=0.005, least_bytes=1_000_000),
    # Times and rates of two runs, each a median of some launches, on one machine.
    Threshold(measure="*latency*", change=0.10),
    Threshold(measure="*rate*", change=0.10),
    Threshold(measure="first-*", change=0.10),
    Threshold(measure="cold-start*", change=0.10),
    Threshold(measure="*-time", change=0.10),
    Threshold(measure="phase*", change=0.20),
    Threshold(measure="memory", change=0.05),
    Threshold(measure="resident*", change=0.05),
    Threshold(measure="read*", change=0.05),
)
"""What counts without a configuration; the last that fits is taken."""


def threshold_for(item: Measured, configured: Sequence[Threshold] = ()) -> Threshold:
    """Return the threshold of a measure: the last that fits, of the defaults and then the others.

    A `*` in the names of variant, machine and measure stands for any text.
    """
    fitting = [
        rule
        for rule in (*DEFAULTS, *configured)
        if fnmatchcase(item.subject, rule.variant)
        and fnmatchcase(item.machine, rule.machine)
        and fnmatchcase(item.measure, rule.measure)
    ]
    return fitting[-1]
