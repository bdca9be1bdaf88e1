"""Relative relocations are packed; whoever uses the library finds the same memory."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import linked
import pytest
from linked import compiled
from synthetic import CUBIN, container, entry

from tfslim.slim import libc, relr, scan, verify
from tfslim.slim.apply import apply_plan, write_pieces
from tfslim.slim.archs import parse_targets
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import Elf
from tfslim.slim.layout import lay_out
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy
from tfslim.slim.symbols import DT
from tfslim.slim.tree import tree_files

pytestmark = linked.needs_compiler

COUNT = 15_000
PACKED = FileCuts(packed=True)
# What a linker does about packed relocations, dynamic tables and versions.
OPTIONS = (
    (),
    ("-Wl,-z,now",),
    ("-Wl,--spare-dynamic-tags=1",),  # as lld leaves it: no entry to spare
    ("-Wl,-z,norelro", "-Wl,-z,separate-code"),
    ("-Wl,--no-as-needed", "-lm", "-ldl"),
    ("-Wl,-z,combreloc", "-Wl,--hash-style=sysv"),
)

SOURCE = (
    """
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
"""
    + f"static int values[{COUNT}];\n"
    + f"static int *table[{COUNT}] = {{"
    + ",".join(f"&values[{n * 7 % COUNT}]" for n in range(COUNT))
    + "};\n"
    + """
static int *const sparse[3][700] = {{&values[3], [65] = &values[5], [699] = &values[9]}};
struct __attribute__((packed)) { char before; int *at; } odd = {1, &values[11]};
static int chosen(int x) { return x + *table[x] - *table[x]; }
static void *choose(void) { return chosen; }
int through_ifunc(int) __attribute__((ifunc("choose")));
int *untouched[600];
long sum(void) {
  long all = 0;
  for (int i = 0; i < COUNT; i++) values[i] = i;
  for (int i = 0; i < COUNT; i++) all = all * 31 + *table[i];
  for (int i = 0; i < 700; i++) all = all * 31 + (sparse[0][i] ? *sparse[0][i] : -1);
  for (int i = 0; i < 600; i++) all += untouched[i] != 0;
  return all * 31 + *odd.at + through_ifunc(7) + (long)strlen("abc") + abs(-4);
}
"""
).replace("COUNT", str(COUNT))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's code, compiled once."""
    return compiled(tmp_path_factory.mktemp("relr") / "code.o", SOURCE)


@pytest.fixture
def library(code: Path, tmp_path: Path) -> Path:
    """A library with many pointers into itself."""
    return compiled(tmp_path / "tree" / "lib" / "libmany.so", code)


def answer(path: Path) -> str:
    """Return what the library's function says, in a process of its own, or the loader's error."""
    code = "import ctypes, sys\ntry: f = ctypes.CDLL(sys.argv[1]).sum\n"
    code += "except OSError as error: sys.exit(str(error))\nf.restype = ctypes.c_long; print(f())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip()


def packed(path: Path) -> Path:
    """Return the same library with packed relocations."""
    target = path.with_name(f"packed-{path.name}")
    with Elf(path) as elf:
        write_pieces(path, lay_out(elf, PACKED).pieces, target)
    return target


def written(path: Path) -> dict[int, tuple[int, int, int]]:
    """Return what the loader is to do at each address: kind, symbol, addend."""
    with Elf(path) as elf:
        found = elf.relocations
        columns = zip(
            found.kind.tolist(), found.symbol.tolist(), found.addend.tolist(), strict=True
        )
        records = dict(zip(found.where.tolist(), columns, strict=True))
        where, addends = elf.packed
        more = zip(where.tolist(), addends.tolist(), strict=True)
        return records | {at: (8, 0, addend) for at, addend in more}


# --- packed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_the_same_is_written_at_the_same_addresses(
    code: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    library = compiled(tmp_path / "libmany.so", code, *options)
    new = packed(library)
    assert verify.verify_file(library, new, PACKED) == []
    assert written(new) == written(library)
    assert answer(new) == answer(library)
    saved = library.stat().st_size - new.stat().st_size
    assert saved > 20 * COUNT
    with Elf(library) as elf:
        count, about = relr.saving(elf)
        assert count >= COUNT
        assert abs(saved - about) <= 2 * 4096


def test_it_is_what_the_linker_makes(code: Path, tmp_path: Path) -> None:
    """The same places as with the linker's own packed relocations, in not more words."""
    library = compiled(tmp_path / "libmany.so", code)
    theirs = compiled(tmp_path / "libtheirs.so", code, "-Wl,-z,pack-relative-relocs")
    sizes, counts = [], []
    for path in (packed(library), theirs):
        with Elf(path) as elf:
            counts.append(len(elf.packed_addresses))
            sizes.append(elf.dynamic[DT["RELRSZ"]])
    assert counts[0] == counts[1] > COUNT
    assert sizes[0] <= sizes[1] + 64


def test_what_is_not_aligned_stays(library: Path) -> None:
    new = packed(library)
    with Elf(library) as before, Elf(new) as after:
        odd = {at for at in before.relocations.where.tolist() if at % 8}
        assert odd
        assert odd <= set(after.relocations.where.tolist())
        assert not set(after.packed_addresses.tolist()) & odd


def test_tools_read_it(library: Path) -> None:
    """The linker's own reader finds the table, the version and no fault."""
    new = packed(library)
    told = subprocess.run(
        ["readelf", "-WdrVS", str(new)], capture_output=True, text=True, check=True
    )
    assert told.stderr == ""
    assert "(RELR)" in told.stdout
    assert re.search(r"Name: GLIBC_ABI_DT_RELR\s+Flags: none", told.stdout)


# --- refused --------------------------------------------------------------------------------------


def test_a_packed_library_is_not_packed_again(library: Path) -> None:
    with Elf(packed(library)) as elf:
        assert relr.refusal(elf) == "they are packed already"


def test_a_library_without_glibc_stays(tmp_path: Path) -> None:
    library = compiled(tmp_path / "libalone.so", SOURCE.partition("long sum")[0], "-nostdlib")
    with Elf(library) as elf:
        assert "which version of glibc" in relr.refusal(elf)


def patched(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def spoil_addend(path: Path) -> None:
    with Elf(path) as elf:
        at = elf.to_offset(int(elf.packed_addresses[700])) or 0
    patched(path, at, struct.pack("<Q", 64))


def spoil_bitmap(path: Path) -> None:
    with Elf(path) as elf:
        at = elf.to_offset(elf.dynamic[DT["RELR"]]) or 0
        words = struct.iter_unpack("<Q", elf.data[at : at + elf.dynamic[DT["RELRSZ"]]])
        index = next(n for n, (word,) in enumerate(words) if word == 2**64 - 1)
    patched(path, at + 8 * index, struct.pack("<Q", 2**63 - 1))


def spoil_count(path: Path) -> None:
    with Elf(path) as elf:
        at = next(at for tag, _, at in elf.dynamic_entries if tag == DT["RELACOUNT"])
    patched(path, at, struct.pack("<Q", COUNT))


def spoil_version(path: Path) -> None:
    at = path.read_bytes().index(b"GLIBC_ABI_DT_RELR")
    patched(path, at, b"GLIBC_2.2.5\0")


def spoil_entry(path: Path) -> None:
    with Elf(path) as elf:
        at = next(at for tag, _, at in elf.dynamic_entries if tag == DT["RELRENT"])
    patched(path, at, struct.pack("<Q", 16))


def spoil_size(path: Path) -> None:
    with Elf(path) as elf:
        at, size = next((a, v) for tag, v, a in elf.dynamic_entries if tag == DT["RELRSZ"])
    patched(path, at, struct.pack("<Q", size - 8))


def spoil_data(path: Path) -> None:
    """One byte that no relocation writes, between two places that one does."""
    with Elf(path) as elf:
        where = set(elf.packed_addresses.tolist())
        free = next(at + 8 for at in sorted(where) if at + 8 not in where)
        at = elf.to_offset(free) or 0
    patched(path, at, b"\x01")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_addend,
        spoil_bitmap,
        spoil_count,
        spoil_version,
        spoil_entry,
        spoil_size,
        spoil_data,
    ],
)
def test_the_proof_finds_what_is_wrong(library: Path, spoil: Callable[[Path], None]) -> None:
    new = packed(library)
    assert verify.verify_file(library, new, PACKED) == []
    spoil(new)
    assert verify.verify_file(library, new, PACKED)


# --- as a rule ------------------------------------------------------------------------------------


def planned(tree: Path, **options: tuple[str, ...]) -> Plan:
    return make_plan(tree, make_policy("inference", parse_targets("90"), **options))


@pytest.fixture
def tree(library: Path) -> Path:
    """A tree with a C library that is new enough, as far as it says."""
    new = library.parent / "libc.so.6"
    new.write_bytes(b"\0GLIBC_2.36\0GLIBC_ABI_DT_RELR\0")
    return library.parents[1]


def test_it_is_planned_applied_and_then_done(tree: Path) -> None:
    library = tree / "lib" / "libmany.so"
    before, size = answer(library), library.stat().st_size
    plan = planned(tree)
    item = next(item for item in plan.files if item.path == "lib/libmany.so")
    assert item.cuts.packed
    assert [removal.what for removal in item.removals if removal.rule == "relr"] == [
        "relative relocation"
    ]
    outcome = apply_plan(plan, tree)
    assert [(one.state, one.unpacked) for one in outcome.files if one.path == item.path] == [
        ("verified", "")
    ]
    assert library.stat().st_size == item.after
    assert size - library.stat().st_size > 20 * COUNT
    assert answer(library) == before
    assert planned(tree).files == ()
    assert sorted(path.name for path in (tree / "lib").iterdir()) == ["libc.so.6", "libmany.so"]


def test_it_is_kept_on_demand(tree: Path) -> None:
    plan = planned(tree, keep=("relr",))
    assert not any(item.cuts.packed for item in plan.files)


def test_names_that_nobody_asks_for_go_first(code: Path, tmp_path: Path) -> None:
    many = compiled(tmp_path / "many.o", linked.LIBRARY)
    library = compiled(tmp_path / "tree/tensorflow/libtensorflow_cc.so.2", many, str(code))
    before = answer(library)
    plan = planned(tmp_path / "tree", also=("relr",))
    cuts = plan.files[0].cuts
    assert cuts.hidden
    assert cuts.packed
    outcome = apply_plan(plan, tmp_path / "tree")
    assert [(one.state, one.unpacked) for one in outcome.files] == [("verified", "")]
    assert library.stat().st_size == plan.files[0].after
    assert answer(library) == before
    with Elf(library) as elf:
        assert len(elf.packed_addresses) > COUNT + linked.COUNT


def test_a_library_that_cannot_be_packed_is_slimmed_all_the_same(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that was made elsewhere, or a proof that fails: the other cuts stand."""
    monkeypatch.setattr(verify.RelrProof, "problems", lambda _: ["something is wrong"])
    library = tree / "lib" / "libmany.so"
    before = answer(library)
    outcome = apply_plan(planned(tree), tree, jobs=1)
    one = next(one for one in outcome.files if one.path == "lib/libmany.so")
    assert (one.state, one.unpacked) == ("verified", "something is wrong")
    assert answer(library) == before
    with Elf(library) as elf:
        assert not len(elf.packed_addresses)


def gpu_library(path: Path, size: int) -> Path:
    """A library with many pointers, and GPU code for two architectures of `size` bytes each."""
    body = container(*(entry(CUBIN, sm, bytes([sm]) * size) for sm in (80, 90)))
    source = f"""
{SOURCE}
static const unsigned char body[] __attribute__((section(".nv_fatbin"), aligned(8), used)) =
  {{{",".join(map(str, body))}}};
static struct {{ int magic, version; const void *data; void *second; }} wrapper
  __attribute__((section(".nvFatBinSegment"), used)) = {{0x466243B1, 1, body, 0}};
"""
    return compiled(path, source)


def test_the_size_is_foreseen_with_gpu_code_also_where_that_went_before(tree: Path) -> None:
    """An earlier run put a longer table of program headers where the GPU code was."""
    library = gpu_library(tree / "lib" / "libgpu.so", 90_000)
    twice = gpu_library(tree / "lib" / "libtwice.so", 95_000)
    apply_plan(planned(tree, keep=("relr",)), tree)
    gpu_library(library, 90_000)
    with Elf(twice) as elf:
        assert elf.phoff > 4096
    plan = planned(tree)
    assert all(item.cuts.packed for item in plan.files if item.action == "rewrite")
    apply_plan(plan, tree)
    foreseen = {item.path: item.after for item in plan.files if item.action == "rewrite"}
    assert {"lib/libgpu.so", "lib/libtwice.so"} <= set(foreseen)
    assert foreseen == {name: (tree / name).stat().st_size for name in foreseen}


def test_where_gpu_code_is_reached_is_known_of_packed_libraries(tmp_path: Path) -> None:
    library = gpu_library(tmp_path / "libgpu.so", 30_000)
    (before,) = scan.scan_file(library).found
    (after,) = scan.scan_file(packed(library)).found
    assert (before.wrapped, before.movable) == (True, True)
    assert (after.wrapped, after.movable) == (True, False)  # only records are led elsewhere


# --- which C library ------------------------------------------------------------------------------


def why(tree: Path) -> str:
    return libc.unpacked_because(tree, tree_files(tree))


def test_the_trees_own_glibc_decides(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    own = tmp_path / "lib" / "libc.so.6"
    own.write_bytes(b"\0GLIBC_2.35\0")
    assert why(tmp_path) == f"{own} is older than glibc 2.36"
    own.write_bytes(b"\0GLIBC_2.36\0GLIBC_ABI_DT_RELR\0")
    assert why(tmp_path) == ""
    (tmp_path / "lib" / "ld-musl-x86_64.so.1").touch()
    assert why(tmp_path) == "the tree has another C library than glibc"


def test_a_venv_runs_with_the_glibc_of_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why(tmp_path) == "which C library the tree runs with is not known"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "bin").mkdir()
    assert why(tmp_path) == "which C library the tree runs with is not known"
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    machine = tmp_path.parent / f"{tmp_path.name}-libc.so.6"
    monkeypatch.setattr(libc.loader, "mapped_libraries", lambda _: {"libc.so.6": machine})
    machine.write_bytes(b"\0GLIBC_2.35\0")
    assert why(tmp_path) == f"{machine} is older than glibc 2.36"
    machine.write_bytes(b"\0GLIBC_ABI_DT_RELR\0")
    assert why(tmp_path) == ""


def test_an_unknown_c_library_is_said(library: Path) -> None:
    tree = library.parents[1]
    plan = planned(tree)
    assert not any(item.cuts.packed for item in plan.files)
    assert [note.why for note in plan.notes if note.path == "lib/libmany.so"] == [
        "relative relocations stay as they are: which C library the tree runs with is not known"
    ]
