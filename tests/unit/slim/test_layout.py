"""The new file holds the same memory, whatever containers a library has."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from helpers import FIXTURES, planned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import CUBIN, LTO, PTX, Library, container, entry

from tfslim.slim import apply, layout, loader, scan, verify
from tfslim.slim.cuts import ContainerCut, FileCuts, Span
from tfslim.slim.elf import PT_LOAD, PT_PHDR, Elf, FormatRefusedError


def rewrite(path: Path, *sms: int, keep_ptx: bool = False) -> tuple[Path, layout.Layout] | None:
    """Plan, lay out and write a file aside; None where there is nothing to do."""
    plan = planned(path, *sms, keep_ptx=keep_ptx)
    if plan is None:
        return None
    aside = path.with_name("aside.so")
    aside.unlink(missing_ok=True)
    with Elf(path) as elf:
        laid = layout.lay_out(elf, plan.cuts)
    apply.write_pieces(path, laid.pieces, aside)
    assert aside.stat().st_size == laid.size == plan.after
    assert verify.verify_file(path, aside, plan.cuts) == []
    return aside, laid


entries = st.builds(
    entry,
    st.sampled_from([PTX, CUBIN, CUBIN, CUBIN, LTO]),
    st.sampled_from([75, 80, 86, 90, 100]),
    st.sampled_from([8, 100, 5000, 20_000, 70_000]).map(lambda n: b"code" * (n // 4)),
)
containers = st.lists(entries, min_size=1, max_size=5).map(lambda items: container(*items))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(containers, max_size=6),
    st.lists(containers, max_size=4),
    st.sets(st.sampled_from([75, 80, 86, 90, 100]), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_any_library_is_rewritten_to_the_same_memory(
    wrapped: list[bytes], data: list[bytes], sms: set[int], keep_ptx: bool, symbols: bool
) -> None:
    """Proved by `verify`, loaded by the real loader, and a second run finds nothing to do."""
    library = Library(wrapped, data=b"".join(data), symbols=bytes(2400 if symbols else 0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lib.so")
        path.write_bytes(library.build())
        done = rewrite(path, *sorted(sms), keep_ptx=keep_ptx)
        if done is None:
            return
        aside, _ = done
        assert aside.stat().st_size < path.stat().st_size
        assert planned(aside, *sorted(sms), keep_ptx=keep_ptx) is None


@pytest.mark.parametrize("sms", [(90,), (80,), (75, 100), (120,)])
@pytest.mark.parametrize(
    "name", ["libwrapped.so", "libpacked.so", "librelocatable.so", "libtables.so", "libplain.so"]
)
def test_real_libraries(name: str, sms: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes((FIXTURES / name).read_bytes())
    done = rewrite(path, *sms)
    assert done is not None  # all have at least a symbol table to lose
    aside, _ = done
    assert loader.loader_answer(aside) == loader.loader_answer(path)
    assert planned(aside, *sms) is None


def test_holes_leave_the_file_and_the_memory_stays(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    code = [container(entry(CUBIN, 80, b"x" * 50_000), entry(CUBIN, 90, b"y" * 5000))] * 2
    path.write_bytes(Library(code).build())
    aside, laid = rewrite(path, 90) or pytest.fail("nothing was done")
    assert len(laid.holes) == 1
    low, high = laid.holes[0]
    assert low % 4096 == high % 4096 == 0
    assert path.stat().st_size - aside.stat().st_size == high - low
    with Elf(path) as old, Elf(aside) as new:
        before = [s for s in old.segments if s.type == PT_LOAD]
        after = [s for s in new.segments if s.type == PT_LOAD]
        assert sum(s.memsz for s in after) == sum(s.memsz for s in before)
        assert len(after) == len(before) + 1
        table = next(s for s in new.segments if s.type == PT_PHDR)
        assert table.offset == new.phoff


def test_several_runs_of_containers_give_several_holes(tmp_path: Path) -> None:
    """What lies between two runs stays where it is."""
    big = container(entry(CUBIN, 80, b"x" * 50_000), entry(CUBIN, 90, b"y" * 100))
    path = tmp_path / "lib.so"
    path.write_bytes(Library([big, b"not a container at all, but here", big]).build())
    _, laid = rewrite(path, 90) or pytest.fail("nothing was done")
    assert len(laid.holes) == 2
    assert len(laid.moved) == 0  # each already starts its run


def test_wrappers_of_emptied_containers_share_one_real_cubin(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    foreign = [container(entry(CUBIN, 80, bytes([n]) * (3000 + n))) for n in range(1, 6)]
    useful = container(entry(CUBIN, 90, b"z" * 3000))
    path.write_bytes(Library([*foreign, useful], symbols=bytes(4800)).build())
    aside, _ = rewrite(path, 90) or pytest.fail("nothing was done")
    found = scan.scan_file(aside).found
    assert [f.container.entries[0].sm for f in found] == [80, 90]
    assert all(f.movable for f in found)


def test_a_table_by_architecture_becomes_zero_and_a_lone_container_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    table = [container(entry(CUBIN, sm, b"t" * 30_000)) for sm in (75, 80, 90)]
    path.write_bytes(Library([], data=b"".join(table)).build())
    aside, _ = rewrite(path, 90) or pytest.fail("nothing was done")
    assert [f.container.entries[0].sm for f in scan.scan_file(aside).found] == [90]
    lone = tmp_path / "lone.so"
    lone.write_bytes(Library([], data=table[0]).build())
    assert planned(lone, 90) is None


def test_a_page_that_a_relocation_writes_stays(tmp_path: Path) -> None:
    """Between two removed pieces of a table lies a pointer; it looks like padding in the file."""
    library = Library([], data=b"", pointers=[])
    piece = container(entry(CUBIN, 80, b"t" * 40_000))
    kept = container(entry(CUBIN, 90, b"k" * 100))
    other = container(entry(CUBIN, 75, b"t" * 40_000))
    library.data = piece + bytes(8) + other + kept
    raw = bytearray(library.build())
    path = tmp_path / "lib.so"
    path.write_bytes(raw)
    _, free = rewrite(path, 90) or pytest.fail("nothing was done")
    assert len(free.holes) == 1
    # The same with a relocation that fills the 8 bytes between the pieces.
    library.pointers = [len(piece) * 2 + 8]
    raw = bytearray(library.build())
    slot = library.offsets[".rodata"] + len(piece)
    raw[library.offsets[".rela.dyn"] : library.offsets[".rela.dyn"] + 8] = slot.to_bytes(
        8, "little"
    )
    path.write_bytes(raw)
    _, split = rewrite(path, 90) or pytest.fail("nothing was done")
    assert len(split.holes) == 2
    assert all(not low <= slot < high for low, high in split.holes)


def test_a_container_that_the_plan_does_not_know_is_refused() -> None:
    with Elf(FIXTURES / "libwrapped.so") as elf:
        start = scan.scan_elf(elf).found[0].container.offset
        for cuts in (
            FileCuts(containers=(ContainerCut(offset=start + 8, keep=(0,)),)),
            FileCuts(containers=(ContainerCut(offset=start, keep=(99,)),)),
            FileCuts(containers=(ContainerCut(offset=start, keep=(), empty="copy"),)),
            FileCuts(containers=(ContainerCut(offset=start, keep=(), movable=True),)),
            FileCuts(spans=(Span(offset=0, size=200), Span(offset=100, size=200))),
            FileCuts(spans=(Span(offset=elf.size, size=1 << 40),)),
            FileCuts(sections=(1,)),
            FileCuts(sections=(9999,)),
        ):
            with pytest.raises(FormatRefusedError):
                layout.lay_out(elf, cuts)


def test_a_tail_that_belongs_to_nothing_keeps_the_symbols(tmp_path: Path) -> None:
    """A self-extracting library: what follows its sections may be found by its end."""
    path = tmp_path / "lib.so"
    code = container(entry(CUBIN, 80, b"x" * 50_000), entry(CUBIN, 90, b"y" * 5000))
    path.write_bytes(Library([code], symbols=bytes(2400), tail=b"appended archive").build())
    aside, _ = rewrite(path, 90) or pytest.fail("nothing was done")
    assert aside.read_bytes().endswith(b"appended archive")
    with Elf(aside) as elf:
        assert ".symtab" in [s.name for s in elf.sections]


def test_stripping_leaves_what_is_loaded_and_the_sections_that_stay(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes((FIXTURES / "libplain.so").read_bytes())
    aside, laid = rewrite(path) or pytest.fail("nothing was done")
    assert laid.holes == ()
    with Elf(path) as old, Elf(aside) as new:
        names = [s.name for s in new.sections]
        assert ".comment" in names
        assert not [n for n in names if n in (".symtab", ".strtab") or n.startswith(".debug")]
        assert new.data[64 : new.loaded_end] == old.data[64 : old.loaded_end]
        assert [s.pack() for s in new.segments] == [s.pack() for s in old.segments]
