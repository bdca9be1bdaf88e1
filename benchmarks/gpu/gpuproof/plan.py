"""Parts as data, and the list of steps that a run consists of; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from gpuproof.document import StepResult, TreeFacts
from tfslim.errors import ConfigError

__all__ = ["Mode", "Part", "Plan", "Question", "Step", "load_plan", "steps"]

Mode = Literal["lazy", "eager", "deterministic", "cold-jit", "warm-jit"]
Kind = Literal["listing", "guard", "suite", "models", "throughput", "cold-start"]
DATA = Path(__file__).parents[1] / "parts.yaml"
# They launch all trees in turn, so that they are one step each.
_TOGETHER = ("throughput", "cold-start")
ALL_TREES = "all"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Data):
    """One part of the proof.

    Attributes:
        modes: How its processes are run.
        quick: Modes in which a few cases are enough.
        seconds: After which a process of it is ended.
        rules: Rules that it stands for; "*" for all that a tree followed.
    """

    id: str
    title: str
    kind: Kind
    modes: tuple[Mode, ...]
    quick: tuple[Mode, ...] = ()
    seconds: float
    rules: tuple[str, ...]

    def stands_for(self, rule: str) -> bool:
        """True where it says something about a rule."""
        return rule in self.rules or "*" in self.rules


class Question(_Data):
    """Something that only a GPU can answer."""

    id: str
    text: str
    rules: tuple[str, ...]
    parts: tuple[str, ...]
    modes: tuple[Mode, ...]


class Plan(_Data):
    """All parts and questions."""

    parts: tuple[Part, ...]
    questions: tuple[Question, ...]


class Step(_Data):
    """A part in a mode, for a tree or for all of them."""

    part: Part
    mode: Mode
    tree: str

    @property
    def name(self) -> str:
        """What it is called in files and on the screen."""
        return f"{self.tree}.{self.part.id}.{self.mode}"

    def result(self, **found: Any) -> StepResult:
        """Return what came of it; it has no identity before it is kept."""
        return StepResult(tree=self.tree, part=self.part.id, mode=self.mode, identity="", **found)


@cache
def load_plan(path: Path) -> Plan:
    """Read the parts."""
    return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def chosen(plan: Plan, names: Sequence[str]) -> tuple[Part, ...]:
    """Return the parts that were named, in their own order; all without any.

    Raises:
        ConfigError: There is no such part.
    """
    known = [part.id for part in plan.parts]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"there is no part called {', '.join(unknown)}", way_out=f"Parts: {', '.join(known)}."
        )
    return tuple(part for part in plan.parts if not names or part.id in names)


def steps(
    parts: Sequence[Part], trees: Sequence[TreeFacts], *, stand_in: bool = False
) -> Iterator[Step]:
    """Yield what is run, in order: part by part, slim trees before the stock one.

    With a stand-in for the driver any slim tree is one for another architecture.
    """
    wrong = ("wrong", "slim") if stand_in else ("wrong",)
    compared = sorted((tree for tree in trees if tree.role != "wrong"), key=_slim_first)
    for part in parts:
        if part.kind in _TOGETHER:
            yield Step(part=part, mode=part.modes[0], tree=ALL_TREES)
        elif part.kind == "guard":
            yield from (
                Step(part=part, mode=part.modes[0], tree=tree.name)
                for tree in trees
                if tree.role in wrong and tree.served
            )
        else:
            # A mode may need what the one before it left (warm-jit), in the same tree.
            yield from (
                Step(part=part, mode=mode, tree=tree.name)
                for tree in compared
                for mode in part.modes
            )


def _slim_first(tree: TreeFacts) -> bool:
    return tree.role == "stock"
