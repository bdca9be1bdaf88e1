"""The smallest set that goes together: against trying everything."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim.pins.choice import OBJECTIVES, Candidate, Objective, best_sets, costs
from tfslim.pins.links import Links

MB = 10**6
NOTHING = Links(needs={}, provides={})


def candidate(library: str, version: str, pull: int, disk: int, newer: int = 0) -> Candidate:
    return Candidate(
        project=f"nvidia-{library}-cu12",
        library=library,
        version=version,
        newer=newer,
        sha256="0" * 64,
        wheel_bytes=pull,
        disk=disk,
        pull=pull,
        cubins={},
        links=NOTHING,
    )


def no_conflict(one: Candidate, other: Candidate) -> str:
    return ""


@st.composite
def offers(draw: st.DrawFn) -> tuple[dict[str, list[Candidate]], set[frozenset[tuple[str, str]]]]:
    sizes = st.integers(0, 20).map(lambda n: n * MB)
    offered = {}
    for library in "abcd"[: draw(st.integers(1, 4))]:
        rows = draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4))
        offered[library] = [
            candidate(library, str(place), pull, disk, newer=len(rows) - 1 - place)
            for place, (pull, disk) in enumerate(rows)
        ]
    everything = [(c.library, c.version) for row in offered.values() for c in row]
    pairs = [frozenset({a, b}) for a in everything for b in everything if a[0] < b[0]]
    broken = set(draw(st.lists(st.sampled_from(pairs), max_size=8))) if pairs else set()
    return offered, broken


@settings(deadline=None)
@given(offers(), st.sampled_from(OBJECTIVES))
def test_the_order_is_that_of_trying_everything(
    offer: tuple[dict[str, list[Candidate]], set[frozenset[tuple[str, str]]]],
    objective: Objective,
) -> None:
    offered, broken = offer

    def conflict(one: Candidate, other: Candidate) -> str:
        pair = frozenset({(one.library, one.version), (other.library, other.version)})
        return "broken" if pair in broken else ""

    price = {name: cost for row in offered.values() for name, cost in costs(row, objective).items()}

    def cost(chosen: tuple[Candidate, ...]) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(price[item.name] for item in chosen), strict=True)))

    expected = sorted(
        cost(chosen)
        for chosen in product(*offered.values())
        if not any(conflict(a, b) for a in chosen for b in chosen if a.library < b.library)
    )
    found = [cost(tuple(chosen.values())) for chosen in best_sets(offered, conflict, objective)]
    assert found == expected


def test_the_objective_decides() -> None:
    offered = {"a": [candidate("a", "1", 10 * MB, 90 * MB), candidate("a", "2", 20 * MB, 30 * MB)]}
    chosen = {one: next(best_sets(offered, no_conflict, one))["a"].version for one in OBJECTIVES}
    assert chosen == {"pull": "1", "disk": "2", "both": "2"}


def test_a_few_bytes_are_no_reason_for_an_older_version() -> None:
    offered = {
        "a": [candidate("a", "1", 10 * MB - 9, 1, 1), candidate("a", "2", 10 * MB + 9, 1)],
        "b": [candidate("b", "1", 10 * MB, 1, 1), candidate("b", "2", 10 * MB + MB, 1)],
    }
    chosen = next(best_sets(offered, no_conflict, "pull"))
    assert (chosen["a"].version, chosen["b"].version) == ("2", "1")


def test_nothing_goes_together() -> None:
    offered = {name: [candidate(name, "1", MB, MB)] for name in "ab"}
    assert list(best_sets(offered, lambda *_: "never", "pull")) == []
    assert list(best_sets({"a": [], "b": offered["b"]}, no_conflict, "pull")) == []


def test_each_pair_is_asked_about_once() -> None:
    offered = {
        name: [candidate(name, str(n), n * MB, n * MB, 7 - n) for n in range(8)]
        for name in "abcdefgh"
    }
    asked = []

    def conflict(one: Candidate, other: Candidate) -> str:
        asked.append(frozenset({one.name, other.name}))
        return "broken" if {one.library, other.library} == {"g", "h"} and one.version < "5" else ""

    chosen = next(best_sets(offered, conflict, "pull"))
    assert {chosen[name].version for name in "abcdef"} == {"0"}
    assert chosen["g"].version == "5"
    assert len(asked) == len(set(asked))
