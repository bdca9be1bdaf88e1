"""Which rules were proved on a GPU: data beside the rules, written from results and never by hand.

A rule that failed on a GPU is demoted: it is not followed by default until it has passed there.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.errors import InputError
from tfslim.files import write_whole

__all__ = ["NOT_PROVED", "Proof", "Proofs", "load_proofs", "save_proofs", "with_results"]

NOT_PROVED = "not proved on a GPU"
DATA = Path(__file__).with_name("proofs.yaml")


class _Data(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class Proof(_Data):
    """What steps on one GPU said about one rule.

    Attributes:
        gpu: The GPU's name, as its driver gives it.
        compute_capability: As "9.0".
        driver: Version of the driver.
        tensorflow: Version that ran.
        date: Day of the run, UTC.
        result: passed: every step that stands for the rule passed in a tree that followed it.
        record: The document with the evidence.
        why: What failed; empty where it passed.
    """

    gpu: str
    compute_capability: str = ""
    driver: str
    tensorflow: str = ""
    date: datetime.date
    result: Literal["passed", "failed"]
    record: str = ""
    why: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        where = f"on {self.gpu}, driver {self.driver}, {self.date.isoformat()}"
        return f"proved {where}" if self.result == "passed" else f"failed {where}: {self.why}"


class Proofs(_Data):
    """All results, by rule, oldest first."""

    schema_version: Literal[1] = 1
    proofs: dict[str, tuple[Proof, ...]] = {}

    def newest(self, rule: str) -> tuple[Proof, ...]:
        """Return a rule's newest result on each GPU."""
        found = {proof.gpu: proof for proof in self.proofs.get(rule, ())}
        return tuple(found.values())

    def demoted(self, rule: str) -> bool:
        """True when a rule failed on a GPU, and has not passed there since."""
        return any(proof.result == "failed" for proof in self.newest(rule))

    def text(self, rule: str) -> str:
        """Say what is known of a rule on GPUs."""
        return "; ".join(map(str, self.newest(rule))) or NOT_PROVED


@cache
def load_proofs(path: Path = DATA) -> Proofs:
    """Read the results.

    Raises:
        InputError: The file is not what it should be.
    """
    try:
        return Proofs.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"{path} holds no proofs of rules",
            why=str(error),
            way_out="It is written by `python benchmarks/gpu/prove.py --record-proof FILE`.",
        ) from error


def with_results(known: Proofs, results: Mapping[str, Proof]) -> Proofs:
    """Return what is known with new results, by rule; the same run twice counts once."""
    proofs = dict(known.proofs)
    for rule, proof in results.items():
        others = (one for one in proofs.get(rule, ()) if not _same_run(one, proof))
        proofs[rule] = tuple(sorted((*others, proof), key=lambda one: one.date))
    return known.model_copy(update={"proofs": dict(sorted(proofs.items()))})


def _same_run(one: Proof, other: Proof) -> bool:
    return (one.gpu, one.date, one.record) == (other.gpu, other.date, other.record)


def save_proofs(proofs: Proofs, path: Path = DATA) -> None:
    """Write the results in one step; the comment that the file begins with stays."""
    head = _comment(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else []
    data = proofs.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    body = yaml.safe_dump(
        {"schema-version": proofs.schema_version, "proofs": data.get("proofs", {})},
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    write_whole(path, "\n".join([*head, body]))
    load_proofs.cache_clear()


def _comment(lines: Iterable[str]) -> list[str]:
    found = []
    for line in lines:
        if not line.startswith("#"):
            break
        found.append(line)
    return found
