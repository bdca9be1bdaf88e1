"""Budgets: limits that a person set, and what a run makes of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tfslim.report.measures import Unit

__all__ = ["BudgetResult", "BudgetState"]

BudgetState = Literal["kept", "broken", "inconclusive", "not measured"]


class BudgetResult(BaseModel):
    """One limit and what was measured against it.

    Attributes:
        subject: A variant's name.
        budget: The key in the configuration: "max-pull", "max-disk", "max-cold-start",
            "min-throughput", "max-growth (pull)", "max-growth (disk)", "library NAME".
        measure: What was measured: a name as in `measures.Measured`; empty where nothing was.
        unit: Of actual and limit.
        actual: Median; bytes of growth for a growth budget; None where it was not measured.
        limit: The limit, in the same unit.
        state: kept, broken, inconclusive or not measured.
        why: The reason where it is inconclusive or not measured, or what the value stands for.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    budget: str
    measure: str = ""
    unit: Unit
    actual: float | None
    limit: float
    state: BudgetState
    why: str = ""
