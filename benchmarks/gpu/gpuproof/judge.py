"""What the steps add up to: parity with the stock tree, rules, open questions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuproof.document import (
    Answer,
    CaseResult,
    Parity,
    ProofDocument,
    RuleResult,
    StepResult,
    TreeFacts,
)
from gpuproof.plan import ALL_TREES, Plan, Question
from tfslim.slim.proofs import Proof

__all__ = ["Evidence", "answers", "judge_rules", "parities", "proofs_of"]

Said = Literal["yes", "no", "not measured"]
_BAD = ("failed", "crashed", "timed out")
_NO_TOLERANCE = 1e-6


def parities(evidence: Evidence) -> Iterator[Parity]:
    """Yield what comes of holding slim trees' cases against the stock tree's."""
    stock = evidence.stock
    theirs = {(step.part, step.mode): step for step in evidence.steps if step.tree == stock}
    for step in evidence.steps:
        other = theirs.get((step.part, step.mode))
        if step.tree in (stock, ALL_TREES) or other is None or not (step.cases and other.cases):
            continue
        if any(case.sha256 for case in step.cases):  # models are compared where they are run
            yield _parity(step, other)


def _parity(mine: StepResult, stock: StepResult) -> Parity:
    right = {case.name: case for case in stock.cases}
    counts = dict.fromkeys(("same_bits", "near", "same_errors", "refused"), 0)
    differ: dict[str, str] = {}
    for case in mine.cases:
        other = right.get(case.name)
        if other is None:
            differ[case.name] = "the stock tree has no such case"
            continue
        how = _held_against(case, other)
        if how in counts:
            counts[how] += 1
        elif how:
            differ[case.name] = how
    return Parity(tree=mine.tree, part=mine.part, mode=mine.mode, differ=differ, **counts)


def _held_against(case: CaseResult, stock: CaseResult) -> str:
    """Return the name of a count, what differs, or nothing where neither was measured."""
    if case.status == "refused":
        return "refused"
    if case.error or stock.error:
        if case.error is None or stock.error is None:
            return f"an error on one side only: {case.why or stock.why}"
        same = case.error.type == stock.error.type
        return "same_errors" if same else f"{stock.error.type} became {case.error.type}"
    if not case.sha256 or not stock.sha256:
        return "" if case.status == stock.status else f"{stock.status} became {case.status}"
    if case.sha256 == stock.sha256:
        return "same_bits"
    apart = _apart(case.sample, stock.sample)
    # Each may be off the exact value by its tolerance, to either side.
    allowed = 2 * (case.tolerance or _NO_TOLERANCE)
    return "near" if apart <= allowed else f"{apart:.3g} apart, {allowed:.3g} allowed"


def _apart(first: Sequence[float | None], second: Sequence[float | None]) -> float:
    if len(first) != len(second):
        return float("inf")
    pairs = list(zip(first, second, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    scale = max((abs(b) for _, b in known), default=0.0) or 1.0
    return max((abs(a - b) for a, b in known), default=0.0) / scale


@dataclass(frozen=True)
class Evidence:
    """All steps of a run, and the trees they ran in."""

    plan: Plan
    steps: Sequence[StepResult]
    trees: Sequence[TreeFacts]

    @property
    def stock(self) -> str:
        """The stock tree's name; empty where none was carried."""
        return next((tree.name for tree in self.trees if tree.role == "stock"), "")

    def blamed(self, steps: Iterable[StepResult]) -> list[StepResult]:
        """Return those that failed, and not just as the stock tree does."""
        return [step for step in steps if step.status in _BAD and not self._as_stock(step)]

    def _as_stock(self, step: StepResult) -> bool:
        key = (self.stock, step.part, step.mode)
        stock = next((other for other in self.steps if other.key == key), None)
        failed = _failed(step)
        return (
            stock is not None
            and stock.status == step.status
            and bool(failed)
            and (failed <= _failed(stock))
        )


def _failed(step: StepResult) -> set[str]:
    return {case.name for case in step.cases if case.status == "failed"}


def answers(evidence: Evidence) -> Iterator[Answer]:
    """Yield what the steps say to each open question."""
    for question in evidence.plan.questions:
        rules = set(question.rules)
        subjects = [
            tree.name
            for tree in evidence.trees
            if tree.role == "slim" and (not rules or rules & set(tree.rules))
        ]
        text = " ".join(question.text.split())
        said, why = _answer(question, evidence, subjects)
        yield Answer(id=question.id, text=text, answer=said, why=why)


def _answer(question: Question, evidence: Evidence, subjects: list[str]) -> tuple[Said, str]:
    if not subjects:
        rules = ", ".join(question.rules)
        return "not measured", f"no tree was carried that follows {rules}"
    measured = [
        step
        for step in evidence.steps
        if step.tree in subjects
        and step.part in question.parts
        and step.mode in question.modes
        and step.on_gpu
    ]
    bad = evidence.blamed(measured)
    if bad:
        return "no", _listed(bad)
    done = {step.part for step in measured if step.status == "passed"}
    left = [part for part in question.parts if part not in done]
    if left:
        return "not measured", f"nothing on a GPU of: {', '.join(left)}"
    return "yes", ", ".join(".".join(step.key) for step in measured)


def judge_rules(evidence: Evidence) -> dict[str, RuleResult]:
    """Return what the run says of every rule that a slim tree followed."""
    slim = [tree for tree in evidence.trees if tree.role != "stock"]
    followed = sorted({rule for tree in slim for rule in tree.rules})
    return {rule: _rule(rule, evidence) for rule in followed}


def _rule(rule: str, evidence: Evidence) -> RuleResult:
    subjects = {tree.name for tree in evidence.trees if rule in tree.rules and tree.role != "stock"}
    parts = [part.id for part in evidence.plan.parts if part.stands_for(rule)]
    mine = [
        step
        for step in evidence.steps
        if step.tree in subjects and step.part in parts and step.on_gpu
    ]
    names = tuple(".".join(step.key) for step in mine)
    bad = evidence.blamed(mine)
    if bad:
        return RuleResult(result="failed", why=_listed(bad), steps=names)
    passed = {step.part for step in mine if step.status == "passed"}
    left = [part for part in parts if part not in passed]
    if left:
        why = f"nothing on a GPU of: {', '.join(left)}"
        return RuleResult(result="not proved", why=why, steps=names)
    return RuleResult(result="passed", steps=names)


def _listed(steps: Iterable[StepResult]) -> str:
    return "; ".join(f"{'.'.join(step.key)} {step.status}: {step.why}" for step in steps)


def proofs_of(document: ProofDocument, record: str) -> dict[str, Proof]:
    """Return what may be written into the rules: nothing of a run without a GPU."""
    if document.device != "gpu" or not document.environment.gpus:
        return {}
    gpu = document.environment.gpus[0]
    versions: Mapping[str, str] = next((s.versions for s in document.steps if s.versions), {})
    return {
        rule: Proof(
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            driver=gpu.driver,
            tensorflow=versions.get("tensorflow", ""),
            date=document.started.date(),
            result=found.result,
            record=record,
            why=found.why[:500],
        )
        for rule, found in document.rules.items()
        if found.result in ("passed", "failed")
    }
