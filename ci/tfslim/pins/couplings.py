"""Which wheels go together, and which serve the GPUs. Pure; the data is in couplings.yaml."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from tfslim.pins.candidates import short_name
from tfslim.pins.choice import Candidate

__all__ = ["Couplings", "conflict", "couplings", "unfit"]


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-")
    )


class OpensLater(_Row):
    """A library that opens another one at run time, and must not be newer than it."""

    library: str
    opens: str
    why: str
    source: str
    release: dict[str, str]


class Couplings(_Row):
    """The data of couplings.yaml; see there."""

    compilers: frozenset[str]
    architectures: dict[int, str]
    opens_later: tuple[OpensLater, ...] = Field(default=())


@cache
def couplings() -> Couplings:
    """Return the data that ships with tfslim."""
    text = resources.files("tfslim.pins").joinpath("couplings.yaml").read_text(encoding="utf-8")
    return Couplings.model_validate(yaml.safe_load(text))


def unfit(candidate: Candidate, others: tuple[Candidate, ...], sms: tuple[int, ...]) -> str:
    """Return why a wheel cannot serve the GPUs; nothing where it can.

    Args:
        candidate: The wheel.
        others: All wheels of the same library.
        sms: Compute capabilities.
    """
    data = couplings()
    for sm in sms:
        if candidate.library in data.compilers:
            needed = data.architectures.get(sm)
            if needed and Version(candidate.version) < Version(needed):
                return f"makes no code for sm_{sm}: that needs {needed}"
        elif not candidate.cubins.get(sm) and any(other.cubins.get(sm) for other in others):
            return f"holds no machine code for sm_{sm}"
    return ""


def conflict(one: Candidate, other: Candidate) -> str:
    """Return why two wheels of different libraries do not go together; nothing where they do."""
    return _directed(one, other) or _directed(other, one)


def _directed(user: Candidate, used: Candidate) -> str:
    for library, names in user.links.needs.items():
        missing = names - used.links.provides.get(library, names)
        if missing:
            return (
                f"{user.library} {user.version} needs {min(missing)} of {library}, which "
                f"{used.library} {used.version} lacks"
            )
    for line in user.requires:
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        same = short_name(canonicalize_name(wanted.name)) == used.library
        if applies and same and not wanted.specifier.contains(used.version):
            return f"{user.library} {user.version} requires {wanted}"
    return _opens_later(user, used)


def _opens_later(user: Candidate, used: Candidate) -> str:
    for row in couplings().opens_later:
        if (row.library, row.opens) != (user.library, used.library):
            continue
        line = ".".join(map(str, Version(user.version).release[:3]))
        needed = row.release.get(line)
        if needed is None and used.newer:
            return (
                f"{user.library} {user.version} is known to go with the newest {used.library} only"
            )
        if needed is not None and Version(used.version) < Version(needed):
            return f"{row.why.rstrip('.')}: CUDA {needed}"
    return ""
