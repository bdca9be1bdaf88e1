"""What the parity gate found, with its evidence: plain data that is saved as JSON.

One principle at every level. Two sides that differ: failed. Two that agree on something that says
something: passed. Two that agree on nothing but errors, or cannot be asked: inconclusive. What only
Python's TensorFlow can serve is not asked of a side that does without it, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tfslim.parity.results import Environment, ProbeError

__all__ = [
    "CallVerdict",
    "Mode",
    "ModelVerdict",
    "Outcome",
    "OutputVerdict",
    "Rule",
    "Side",
    "Verdict",
    "merged",
    "worst",
]

Outcome = Literal["not asked", "passed", "inconclusive", "failed"]
Mode = Literal["cpu", "gpu", "gpu-deterministic"]
_ORDER: tuple[Outcome, ...] = ("not asked", "passed", "inconclusive", "failed")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of some outcomes; "passed" of none."""
    return max(outcomes, key=_ORDER.index, default="passed")


class _Record(BaseModel):
    # JSON has no infinity: it is written as a string.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Rule(_Record):
    """How outputs of one mode have to agree, and why so.

    Attributes:
        kind: "bits": the same bytes. "tolerance": |slim - stock| <= atol + rtol * |stock| for
            floating point, the same bytes for everything else.
        rtol: Relative tolerance; None takes the one for the dtype.
        atol: Absolute tolerance; None takes rtol times the largest finite |stock| of the output.
        words: Errors have to say the same, not only be of one type.
        kinds: Errors have only to be of one kind (`kinds`): the sides were asked in different ways.
        why: The reason, for the reader of a verdict.
    """

    kind: Literal["bits", "tolerance"]
    why: str
    rtol: float | None = None
    atol: float | None = None
    words: bool = True
    kinds: bool = False


class OutputVerdict(_Record):
    """One output of one call.

    Attributes:
        elements: How many values were compared.
        differing: How many of them break the rule.
        max_abs: Largest |slim - stock| where both are finite; None where that means nothing.
        max_rel: Largest |slim - stock| / |stock|, likewise.
        rtol: Relative tolerance that was used; None where bytes were compared.
        atol: Absolute tolerance, likewise.
        first_index: Where the first difference is.
        first_stock: The value there.
        first_slim: The value there.
        sha256_stock: Digest over shape and content.
        sha256_slim: Likewise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    outcome: Outcome
    reason: str = ""
    elements: int = 0
    differing: int = 0
    max_abs: float | None = None
    max_rel: float | None = None
    rtol: float | None = None
    atol: float | None = None
    first_index: tuple[int, ...] | None = None
    first_stock: str | None = None
    first_slim: str | None = None
    sha256_stock: str | None = None
    sha256_slim: str | None = None


class CallVerdict(_Record):
    """One call made on both sides.

    Attributes:
        kind: "load", "run", or "misuse" (wrong on purpose).
        case: What tells it from other calls of its signature.
        reason: Why it is not passed; empty where it is.
        outputs: Every output, where both sides answered.
        error_stock: The error of the side, where it gave one.
        error_slim: Likewise.
    """

    mode: Mode
    kind: Literal["load", "run", "misuse"]
    signature: str
    case: str
    outcome: Outcome
    reason: str = ""
    outputs: tuple[OutputVerdict, ...] = ()
    error_stock: ProbeError | None = None
    error_slim: ProbeError | None = None

    @property
    def says_something(self) -> bool:
        """True for a real call whose values were compared and agree."""
        compared = any(output.elements for output in self.outputs)
        return self.kind == "run" and self.outcome == "passed" and compared


class ModelVerdict(_Record):
    """One model: failed with any of its calls, passed if every signature was really compared."""

    name: str
    outcome: Outcome
    reason: str = ""
    notes: tuple[str, ...] = ()
    calls: tuple[CallVerdict, ...] = ()


def merged(rounds: Sequence[ModelVerdict]) -> ModelVerdict:
    """Join the verdicts on one model in several modes.

    A difference in any mode fails it. Else one mode that shows equality is enough: some models
    give other results each run by default, others use ops that have no deterministic form.
    """
    outcomes = [verdict.outcome for verdict in rounds]
    outcome: Outcome = "failed" if "failed" in outcomes else min(outcomes, key=_ORDER.index)
    reasons = dict.fromkeys(verdict.reason for verdict in rounds if verdict.reason)
    return ModelVerdict(
        name=rounds[0].name,
        outcome=outcome,
        reason="\n".join(reasons),
        notes=tuple(dict.fromkeys(note for verdict in rounds for note in verdict.notes)),
        calls=tuple(call for verdict in rounds for call in verdict.calls),
    )


class Side(_Record):
    """One of the two targets, and what it computed with, by mode."""

    name: str
    kind: str
    environments: dict[Mode, Environment | None]


class Verdict(_Record):
    """The whole comparison.

    Attributes:
        schema_version: Raised when a field changes its meaning.
        reason: What decided the outcome, in one line.
        rules: How outputs had to agree, by mode.
        started: UTC.
        seconds: What it took.
        unseen: What this run cannot show.
        differences: Where the two targets' environments differ.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    reason: str
    tfslim: str
    started: datetime
    seconds: float
    stock: Side
    slim: Side
    rules: dict[Mode, Rule]
    unseen: tuple[str, ...]
    differences: tuple[str, ...]
    models: tuple[ModelVerdict, ...]
