from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfslim.errors import SlimError
from tfslim.gpu import Gpu, Gpus
from tfslim.slim import archs
from tfslim.slim.archs import ALL_MAJOR, parse_targets, select, serves
from tfslim.slim.fatbin import Kind


@dataclass(frozen=True)
class Code:
    kind: Kind
    sm: int
    specific: bool = False
    family: bool = False


@pytest.mark.parametrize(
    ("text", "sms", "keep_ptx"),
    [
        ("90", (90,), False),
        ("9.0", (90,), False),
        ("sm_90", (90,), False),
        ("90a", (90,), False),
        ("8.6, 9.0", (86, 90), False),
        ("90;80,90", (80, 90), False),
        ("12.0", (120,), False),
        ("120", (120,), False),
        ("100f", (100,), False),
        ("90+PTX", (90,), True),
        ("all-major", ALL_MAJOR, True),
        (" ALL-MAJOR ", ALL_MAJOR, True),
    ],
)
def test_targets_are_read_as_people_write_them(
    text: str, sms: tuple[int, ...], keep_ptx: bool
) -> None:
    targets = parse_targets(text)
    assert targets.sms == sms
    assert targets.keep_ptx is keep_ptx


@pytest.mark.parametrize(
    "text", ["", ",", "hopper", "compute_90", "9", "1.0", "90b", "90-80", "-90"]
)
def test_what_is_no_gpu_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(SlimError) as caught:
        parse_targets(text)
    assert "--cuda-arch" in caught.value.way_out


def test_native_asks_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [Gpu("one", "9.0", 1, "575"), Gpu("two", "8.6", 1, "575"), Gpu("three", "9.0", 1, "575")]
    monkeypatch.setattr(archs, "find_gpus", lambda: Gpus(tuple(seen)))
    assert parse_targets("native").sms == (86, 90)
    assert not parse_targets("native").keep_ptx


def test_native_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archs, "find_gpus", lambda: Gpus((), "no NVIDIA driver"))
    with pytest.raises(SlimError, match="no GPU answers") as caught:
        parse_targets("native")
    assert "no NVIDIA driver" in caught.value.why


@pytest.mark.parametrize(
    ("code", "sm", "expected"),
    [
        (Code(Kind.CUBIN, 80), 80, True),
        (Code(Kind.CUBIN, 80), 86, True),
        (Code(Kind.CUBIN, 86), 80, False),
        (Code(Kind.CUBIN, 80), 90, False),
        (Code(Kind.CUBIN, 90, specific=True), 90, True),
        (Code(Kind.CUBIN, 100, specific=True), 103, False),
        (Code(Kind.CUBIN, 100, family=True), 103, True),
        (Code(Kind.CUBIN, 100, family=True), 120, False),
        (Code(Kind.PTX, 80), 90, True),
        (Code(Kind.PTX, 90), 80, False),
        (Code(Kind.PTX, 90, specific=True), 100, False),
        (Code(Kind.PTX, 120, family=True), 121, True),
        (Code(Kind.PTX, 100, family=True), 120, False),
        (Code(Kind.LTO, 50), 90, True),
    ],
)
def test_compatibility(code: Code, sm: int, expected: bool) -> None:
    assert serves(code, sm) is expected


TENSORFLOW = [Code(Kind.PTX, 90), *(Code(Kind.CUBIN, sm) for sm in (60, 70, 80, 89, 90))]


@pytest.mark.parametrize(
    ("entries", "targets", "keep_ptx", "kept"),
    [
        (TENSORFLOW, [90], False, {5}),
        (TENSORFLOW, [86], False, {3}),
        (TENSORFLOW, [89], False, {4}),
        (TENSORFLOW, [75, 80], False, {2, 3}),
        (TENSORFLOW, [100], False, {0}),  # no cubin of that major: PTX
        (TENSORFLOW, [90], True, {0, 5}),
        (TENSORFLOW, [50], False, set()),
        ([Code(Kind.LTO, 50), Code(Kind.LTO, 80), Code(Kind.LTO, 100)], [90], False, {1}),
        ([Code(Kind.LTO, 80), Code(Kind.CUBIN, 90)], [90], False, {0, 1}),
        ([Code(Kind.CUBIN, 90), Code(Kind.CUBIN, 90, specific=True)], [90], False, {0, 1}),
        # Family code on top of plain code does not displace it, nor the PTX without it.
        ([Code(Kind.CUBIN, 100), Code(Kind.CUBIN, 101, family=True)], [103], False, {0, 1}),
        ([Code(Kind.CUBIN, 100, family=True), Code(Kind.PTX, 90)], [103], False, {0, 1}),
        ([Code(Kind.CUBIN, 100, family=True), Code(Kind.PTX, 90)], [100], False, {0}),
        # Only plain PTX is worth keeping for GPUs to come.
        ([Code(Kind.PTX, 90), Code(Kind.PTX, 120, family=True)], [80], True, {0}),
        ([], [90], True, set()),
    ],
)
def test_selection(entries: list[Code], targets: list[int], keep_ptx: bool, kept: set[int]) -> None:
    assert select(entries, targets, keep_ptx=keep_ptx) == kept


codes = st.builds(
    Code,
    st.sampled_from(Kind),
    st.sampled_from([50, 52, 60, 61, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121]),
    st.booleans(),
    st.just(False),
) | st.builds(
    Code,
    st.sampled_from(Kind),
    st.sampled_from([100, 101, 103, 120, 121]),
    st.just(False),
    st.just(True),
)
gpus = st.sampled_from([50, 61, 75, 80, 86, 89, 90, 100, 103, 120, 121])


def best(pool: list[Code], kind: Kind, sm: int, *, certain: bool) -> int:
    """The highest architecture of usable code; `certain` leaves family code of others out."""
    usable = [c for c in pool if c.kind is kind and serves(c, sm)]
    return max((c.sm for c in usable if not (certain and c.family and c.sm != sm)), default=0)


@given(
    st.lists(codes, max_size=16),
    st.lists(gpus, min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_no_target_loses_code_it_had(
    entries: list[Code], targets: list[int], keep_ptx: bool, certain: bool
) -> None:
    """For each GPU the best code of each kind that driver or linker would take is still there."""
    kept = [entries[i] for i in select(entries, targets, keep_ptx=keep_ptx)]
    for sm in targets:
        for kind in (Kind.CUBIN, Kind.LTO):
            assert best(kept, kind, sm, certain=certain) == best(entries, kind, sm, certain=certain)
        if not best(entries, Kind.CUBIN, sm, certain=True):
            assert best(kept, Kind.PTX, sm, certain=certain) == best(
                entries, Kind.PTX, sm, certain=certain
            )


@given(st.lists(codes, max_size=16), st.lists(gpus, min_size=1, max_size=3), gpus)
def test_more_targets_never_keep_less(entries: list[Code], targets: list[int], more: int) -> None:
    fewer = select(entries, targets, keep_ptx=False)
    assert fewer <= select(entries, [*targets, more], keep_ptx=False)
    assert fewer <= select(entries, targets, keep_ptx=True)
