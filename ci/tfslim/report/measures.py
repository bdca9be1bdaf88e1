"""What a record measured, as one flat list: each measure with samples, unit and machine.

Comparing, budgets, dashboards and the history read this list and nothing else of a record, so that
a name means the same in all of them. The names are stable; they are what thresholds match.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Measured", "Unit"]

Unit = Literal["bytes", "seconds", "samples/s"]


class Measured(BaseModel):
    """One measure of one subject on one machine.

    Attributes:
        subject: A variant's name, or an image reference.
        measure: Stable name: "pull", "disk", "wasted", "gpu-code", "first-answer",
            "cold-start cold-cache", "cold-start warm-cache", "memory", "rate batch=32",
            "http-rate batch=1 clients=4", "http-latency batch=1 clients=4", "first-call batch=1",
            "phase NAME cold-cache", "pull-time", "unpack-time".
        unit: Of the values.
        better: Which way is good.
        machine: Key of the machine (`Environment.machine_key`).
        device: "CPU", the GPUs' names, or empty where it does not matter (sizes).
        group: Subjects of one record with the same group took turns; None for sizes.
        values: One a launch (the median within it); one alone for a size, which has no spread.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    measure: str
    unit: Unit
    better: Literal["smaller", "larger"]
    machine: str
    device: str = ""
    group: int | None = None
    values: tuple[float, ...]

    @property
    def exact(self) -> bool:
        """True for sizes: the same input gives the same number."""
        return self.group is None
