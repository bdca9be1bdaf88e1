"""Which wheels go together, and which serve the GPUs."""

from __future__ import annotations

import pytest

from tfslim.pins.choice import Candidate
from tfslim.pins.couplings import conflict, unfit
from tfslim.pins.links import Links


def wheel(
    library: str,
    version: str,
    *,
    needs: dict[str, set[str]] | None = None,
    provides: dict[str, set[str]] | None = None,
    requires: tuple[str, ...] = (),
    cubins: dict[int, int] | None = None,
    newer: int = 0,
) -> Candidate:
    return Candidate(
        project=f"nvidia-{library}-cu12",
        library=library,
        version=version,
        newer=newer,
        sha256="0" * 64,
        wheel_bytes=1,
        disk=1,
        pull=1,
        cubins=cubins or {},
        links=Links(
            needs={k: frozenset(v) for k, v in (needs or {}).items()},
            provides={k: frozenset(v) for k, v in (provides or {}).items()},
        ),
        requires=requires,
    )


LINKER = "libnvJitLink.so.12"


def test_a_name_that_is_lacking_keeps_versions_apart() -> None:
    old = wheel("nvjitlink", "12.5.82", provides={LINKER: {"create_12_5"}})
    new = wheel("nvjitlink", "12.9.86", provides={LINKER: {"create_12_5", "create_12_9"}})
    sparse = wheel("cusparse", "12.5.10.65", needs={LINKER: {"create_12_9"}})
    for pair in ((old, sparse), (sparse, old)):
        assert "needs create_12_9 of libnvJitLink.so.12" in conflict(*pair)
    assert conflict(sparse, new) == ""


def test_a_wheels_own_requirement_counts() -> None:
    solver = wheel(
        "cusolver", "12.0", requires=("nvidia-cublas-cu12>=12.6", "nvidia-x; extra=='y'")
    )
    assert "requires nvidia-cublas-cu12>=12.6" in conflict(wheel("cublas", "12.5.3"), solver)
    assert conflict(wheel("cublas", "12.6.4"), solver) == ""
    assert conflict(wheel("x", "1"), solver) == ""


@pytest.mark.parametrize(
    ("cufft", "linker", "newer", "good"),
    [
        ("11.2.3.61", "12.5.82", 1, True),
        ("11.4.1.4", "12.5.82", 1, False),
        ("11.4.1.4", "12.9.86", 0, True),
        ("11.9.0.1", "12.8.93", 1, False),
        ("11.9.0.1", "12.9.86", 0, True),
    ],
)
def test_cufft_wants_a_linker_at_least_as_new(
    cufft: str, linker: str, newer: int, good: bool
) -> None:
    pair = wheel("cufft", cufft), wheel("nvjitlink", linker, newer=newer)
    assert (conflict(*pair) == "") == good
    assert (conflict(*reversed(pair)) == "") == good


def test_a_wheel_without_code_that_others_have_does_not_serve() -> None:
    old, new = (
        wheel("cublas", "12.5", cubins={90: 90, 120: 0}),
        wheel("cublas", "12.9", cubins={90: 90, 120: 120}),
    )
    assert unfit(old, (old, new), (90,)) == ""
    assert "no machine code for sm_120" in unfit(old, (old, new), (90, 120))
    assert unfit(new, (old, new), (90, 120)) == ""


def test_a_library_that_never_has_gpu_code_serves_all() -> None:
    one = wheel("cuda-runtime", "12.5", cubins={90: 0})
    assert unfit(one, (one,), (90,)) == ""


def test_compilers_must_know_the_architecture() -> None:
    old, new = wheel("cuda-nvcc", "12.5.82"), wheel("cuda-nvcc", "12.8.93")
    assert "makes no code for sm_120" in unfit(old, (old, new), (120,))
    assert unfit(new, (old, new), (120,)) == ""
    assert unfit(old, (old, new), (90,)) == ""
