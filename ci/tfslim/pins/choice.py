"""Choose the set of wheels that is smallest and goes together. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, count, product
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict

from tfslim.pins.links import Links

__all__ = ["OBJECTIVES", "Candidate", "Cost", "Objective", "best_sets", "costs"]

Objective = Literal["both", "pull", "disk"]
Cost = tuple[int, int]
_Name = tuple[str, str]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)
# How many bytes on disk weigh as much as one compressed byte, when both count. A byte takes 8 ns to
# pull at 1 Gbit/s; to unpack, a CUDA layer of 1.5 GB took an engine 5.6 s (zstd, 2 cores): 4 ns.
_DISK_PER_PULL: Final = 2
# Less than this many bytes is no reason to take an older version.
_GRAIN: Final = 100_000


class Candidate(BaseModel):
    """A wheel that may be chosen.

    Attributes:
        project: Canonical name of the package.
        library: Its short name, such as "cudnn".
        version: Its version.
        newer: How many of those offered are newer.
        sha256: Of the wheel.
        wheel_bytes: Of the wheel as it is downloaded.
        disk: Bytes of its files after slimming.
        pull: Bytes of these, compressed by zstd, level 10.
        cubins: For each GPU, the highest architecture of machine code that serves it; 0 for none.
        links: What its libraries need and provide.
        requires: What its metadata requires.
        excluded: Why the user does not want it; empty where nothing was said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    library: str
    version: str
    newer: int
    sha256: str
    wheel_bytes: int
    disk: int
    pull: int
    cubins: dict[int, int]
    links: Links
    requires: tuple[str, ...] = ()
    excluded: str = ""

    @property
    def name(self) -> _Name:
        """What tells it from all others."""
        return self.library, self.version

    def size(self, objective: Objective) -> int:
        """Return the bytes that are minimised."""
        if objective == "both":
            return self.pull + self.disk // _DISK_PER_PULL
        return self.pull if objective == "pull" else self.disk


def costs(candidates: Sequence[Candidate], objective: Objective) -> dict[_Name, Cost]:
    """Return what each version of one library costs: bytes, then age.

    A version within a grain of a newer one counts as just as large.
    """
    found: dict[_Name, Cost] = {}
    for candidate in sorted(candidates, key=lambda item: item.newer):
        size = candidate.size(objective)
        same = (known for known, _ in found.values() if abs(known - size) <= _GRAIN)
        found[candidate.name] = next(same, size), candidate.newer
    return found


def best_sets(
    offered: Mapping[str, Sequence[Candidate]],
    conflict: Callable[[Candidate, Candidate], str],
    objective: Objective,
) -> Iterator[dict[str, Candidate]]:
    """Yield the sets that go together, one wheel of each library, the smallest first.

    Best-first search: a set in the making is judged by what it has plus the least that the other
    libraries can add, so the first one complete is the smallest of all. Of equals, the newer comes
    first. Libraries that conflict are decided first: what is left is then free to be the smallest.

    Args:
        offered: The wheels of each library.
        conflict: Says why two wheels do not go together; empty where they do.
        objective: What to minimise.
    """
    if not all(offered.values()):
        return
    apart = _conflicts(offered, conflict)
    involved = {library for pair in apart for library, _ in pair}
    libraries = sorted(offered, key=lambda name: (name not in involved, name))
    price = [costs(offered[name], objective) for name in libraries]
    least = _least_of_rest([each.values() for each in price])
    order = count()  # equal costs: first come, first served; candidates are never compared
    heap: list[tuple[Cost, int, tuple[Candidate, ...]]] = [(least[0], next(order), ())]
    while heap:
        bound, _, chosen = heapq.heappop(heap)
        if len(chosen) == len(libraries):
            yield dict(sorted(zip(libraries, chosen, strict=True)))
            continue
        place = len(chosen)
        spent, further = _minus(bound, least[place]), least[place + 1]
        for candidate in offered[libraries[place]]:
            if any(frozenset({candidate.name, other.name}) in apart for other in chosen):
                continue
            total = _plus(_plus(spent, price[place][candidate.name]), further)
            heapq.heappush(heap, (total, next(order), (*chosen, candidate)))


def _conflicts(
    offered: Mapping[str, Sequence[Candidate]], conflict: Callable[[Candidate, Candidate], str]
) -> frozenset[frozenset[_Name]]:
    """Return the pairs of wheels that do not go together."""
    return frozenset(
        frozenset({one.name, other.name})
        for first, second in combinations(offered.values(), 2)
        for one, other in product(first, second)
        if conflict(one, other)
    )


def _least_of_rest(prices: Sequence[Iterable[Cost]]) -> list[Cost]:
    """Return, for each library, the least that it and all after it can add; at the end nothing."""
    least: list[Cost] = [(0, 0)]
    for column in reversed(prices):
        sizes, ages = zip(*column, strict=True)
        least.append(_plus((min(sizes), min(ages)), least[-1]))
    return least[::-1]


def _plus(one: Cost, other: Cost) -> Cost:
    return one[0] + other[0], one[1] + other[1]


def _minus(one: Cost, other: Cost) -> Cost:
    return one[0] - other[0], one[1] - other[1]
