"""LTO-IR goes from the libraries that a rule names, where somebody asks for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import CUBIN, LTO, Library, container, entry

from tfslim.slim import scan
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy
from tfslim.slim.trace import Trace

FFT = Trace(ops=frozenset({"FFT", "@xla"}), opened=frozenset())


def lto(size: int) -> bytes:
    return container(entry(LTO, 50, b"ir" * (size // 2)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two libraries of the same content: LTO-IR alone, beside a cubin, and behind a wrapper."""
    mixed = container(entry(CUBIN, 90, b"code" * 3000), entry(LTO, 50, b"ir" * 20000))
    library = Library(wrapped=[mixed], data=lto(30000) + container(entry(CUBIN, 90, b"c" * 800)))
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in ("libcufft.so.11", "libother.so.1"):
        (folder / name).write_bytes(library.build())
    return folder


def plan_of(tree: Path, *also: str) -> Plan:
    policy = make_policy("workload", parse_targets("90"), trace=FFT, also=also)
    return make_plan(tree, policy, jobs=1)


def kinds(path: Path) -> set[str]:
    return {kind for kind, _, _ in scan.scan_file(path).bytes_by}


def test_it_stays_unless_asked_for(tree: Path) -> None:
    assert plan_of(tree).files == ()


def test_it_goes_from_the_named_library_alone(tree: Path, tmp_path: Path) -> None:
    plan = plan_of(tree, "cufft-lto")
    (item,) = plan.files
    assert item.path == "libcufft.so.11"
    assert {(removal.rule, removal.what) for removal in item.removals} == {("cufft-lto", "LTO-IR")}
    outcome = apply_plan(plan, tree, tmp_path / "out")
    assert [one.state for one in outcome.files] == ["verified"]
    assert kinds(tmp_path / "out" / "libcufft.so.11") == {"cubin"}
    assert kinds(tmp_path / "out" / "libother.so.1") == {"cubin", "LTO-IR"}
    assert plan_of(tmp_path / "out", "cufft-lto").files == ()
    assert any("[cufft-lto] risk: " in line for line in plan.explain())
