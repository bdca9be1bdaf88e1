"""Names that nobody asks for leave a library; whoever uses what stays notices nothing."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import linked
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linked import compiled, said
from synthetic import CUBIN, container, entry

from tfslim.errors import SlimError
from tfslim.slim import apply, exports, layout, loader, unasked, verify
from tfslim.slim import plan as plans
from tfslim.slim.archs import parse_targets
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import Elf
from tfslim.slim.plan import FilePlan, Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import load_profile, make_policy
from tfslim.slim.symbols import read_symbols

pytestmark = linked.needs_compiler

LIBRARY = "tensorflow/libtensorflow_cc.so.2"
OPTIONS = (
    (),
    ("-Wl,-z,now",),
    ("-Wl,-z,ibtplt",),  # stubs as with Intel CET
    ("-Wl,-z,pack-relative-relocs",),  # RELR
    ("-Wl,--version-script=VERSIONS",),
    ("-Wl,--no-as-needed", "-lm", "-ldl"),
)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's code, compiled once."""
    return compiled(tmp_path_factory.mktemp("code") / "code.o", linked.LIBRARY)


@pytest.fixture
def tree(code: Path, tmp_path: Path) -> Path:
    """A tree with the library and a program that uses it."""
    return planted(tmp_path / "tree", code)


def planted(tree: Path, code: Path, *options: str) -> Path:
    versions = tree.parent / "versions"
    versions.write_text("EXAMPLE_1 { global: *; };")
    given = [option.replace("VERSIONS", str(versions)) for option in options]
    library = compiled(tree / LIBRARY, code, *given)
    compiled(tree / "bin" / "user", linked.PROGRAM, libraries=[library])
    return tree


def planned(tree: Path, keep: tuple[str, ...] = ()) -> Plan:
    return make_plan(tree, make_policy("inference", parse_targets("90"), keep=keep))


def of(plan: Plan, path: str = LIBRARY) -> FilePlan:
    return next(item for item in plan.files if item.path == path)


def exported(path: Path) -> set[bytes]:
    with Elf(path) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        return set(symbols.names())


def called(library: Path, call: str) -> str:
    """Call a function of a library in a process of its own; return its answer, or the error."""
    code = "import ctypes, sys\ntry: print(eval('ctypes.CDLL(sys.argv[1]).' + sys.argv[2]))\n"
    code += "except (OSError, AttributeError) as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(library), call], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def hidden_names(path: Path, cuts: FileCuts) -> set[bytes]:
    with Elf(path) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        names = symbols.names()
    return {names[i] for first, count in cuts.hidden for i in range(first, first + count)}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
def test_a_program_that_uses_the_library_says_the_same(
    options: tuple[str, ...], code: Path, tmp_path: Path
) -> None:
    """Bound when first called and bound at once; through the PLT, the GOT and tables."""
    tree = planted(tmp_path / "tree", code, *options)
    before = said(tree / "bin" / "user")
    size = (tree / LIBRARY).stat().st_size
    plan = planned(tree)
    outcome = apply.apply_plan(plan, tree)
    assert {item.state for item in outcome.files} == {"verified"}
    assert next(item.loader for item in outcome.files if item.path == LIBRARY) == "same"
    assert (tree / LIBRARY).stat().st_size == of(plan).after < 0.6 * size
    assert said(tree / "bin" / "user") == before
    assert said(tree / "bin" / "user", LD_BIND_NOW="1") == before
    assert planned(tree).files == ()


def test_versions_that_share_the_record_of_their_name(code: Path, tmp_path: Path) -> None:
    """As NVIDIA's linker writes them, where a version is called like the library."""
    tree = tmp_path / "tree"
    versions = tmp_path / "versions"
    versions.write_text("libtensorflow_cc.so.2 { global: *; };")
    library = compiled(tree / LIBRARY, code, f"-Wl,--version-script={versions}")
    compiled(tree / "bin" / "user", linked.PROGRAM, libraries=[library])
    with Elf(library) as elf:
        at = elf.to_offset(elf.dynamic[0x6FFFFFFC]) or 0  # DT_VERDEF
        first, second = elf.data[at : at + 12], elf.data[at + 28 : at + 40]
        name = elf.data[at + 20 : at + 28]
    records = first + struct.pack("<II", 40, 20) + second + struct.pack("<II", 20, 0) + name
    spoil(library, at, records + bytes(56 - len(records)))
    before = said(tree / "bin" / "user")
    outcome = apply.apply_plan(planned(tree), tree)
    assert {item.state for item in outcome.files} == {"verified"}
    assert said(tree / "bin" / "user") == before


def test_what_others_ask_for_can_be_found_and_nothing_else(tree: Path) -> None:
    before = exported(tree / LIBRARY)
    apply.apply_plan(planned(tree), tree)
    library = tree / LIBRARY
    assert called(library, "_ZN7example4keptEi(1)") == "42"  # the program asks for it
    assert called(library, "exports_through_got()") == str(sum(range(linked.COUNT)))  # not C++
    assert "undefined symbol" in called(library, "_ZN7example8functionE7i(1)")
    left = exported(tree / LIBRARY)
    assert left < before
    assert {name for name in left if name.startswith(b"_Z")} == {
        b"_ZN7example4keptEi",
        b"_ZN7example5localE",  # thread-local
        b"_ZN7example6chosenEi",  # IFUNC
        b"_ZN7example6uniqueE",  # one object in the whole process
        b"_ZN7example8absoluteE",  # not an address in the library
    }


def test_a_name_that_another_library_offers_too_stays(tree: Path) -> None:
    """Whichever is found first serves both: hiding one of them would make two."""
    source = "int _ZN7example5valueE7 = 700; int other_value(void) { return _ZN7example5valueE7; }"
    other = compiled(tree / "lib" / "libother.so", source)
    plan = planned(tree)
    assert b"_ZN7example5valueE7" not in hidden_names(tree / LIBRARY, of(plan).cuts)
    assert b"_ZN7example5valueE8" in hidden_names(tree / LIBRARY, of(plan).cuts)
    apply.apply_plan(plan, tree)
    preloaded = said(tree / "bin" / "user", LD_PRELOAD=str(other))
    assert preloaded.split()[2] == str(sum(range(linked.COUNT)) + 693)


def test_a_library_of_the_tree_that_is_to_go_does_not_count(tree: Path) -> None:
    source = (
        "int _ZN7example8functionE7i(int); int other(void) { return _ZN7example8functionE7i(1); }"
    )
    packages = tree / "lib" / "python3.11" / "site-packages"
    asking = compiled(packages / "asking.so", source)
    stays = planned(tree)
    assert b"_ZN7example8functionE7i" not in hidden_names(tree / LIBRARY, of(stays).cuts)
    names = [LIBRARY, "bin/user"]
    left = unasked.unasked_names(tree, {LIBRARY: "_Z"}, names)[LIBRARY]
    assert sum(count for _, count in left.symbols) == 1 + sum(
        count for _, count in of(stays).cuts.hidden
    )
    assert asking.exists()


CUSTOM_OP = """
int _ZN7example8functionE7i(int);
int custom_op(int x) { return _ZN7example8functionE7i(x); }
"""


def test_a_custom_op_in_the_tree_keeps_its_names_and_one_from_elsewhere_fails(
    tree: Path, tmp_path: Path
) -> None:
    inside = compiled(tree / "ops" / "op.so", CUSTOM_OP, libraries=[tree / LIBRARY])
    outside = compiled(
        tmp_path / "elsewhere" / "op.so",
        CUSTOM_OP.replace("E7i", "E8i"),
        libraries=[tree / LIBRARY],
    )
    apply.apply_plan(planned(tree), tree)
    assert called(inside, "custom_op(1)") == "10"
    assert "undefined symbol: _ZN7example8functionE8i" in called(outside, "custom_op(1)")


def test_a_saved_plan_refuses_a_tree_to_which_a_custom_op_came(tree: Path, tmp_path: Path) -> None:
    planned(tree).save(tmp_path / "plan.json")
    compiled(tree / "ops" / "op.so", CUSTOM_OP, libraries=[tree / LIBRARY])
    before = (tree / LIBRARY).read_bytes()
    with pytest.raises(SlimError, match="ask for names that the plan hides") as refused:
        apply.apply_plan(plans.load(tmp_path / "plan.json"), tree)
    assert "ops/op.so" in str(refused.value.why)
    assert (tree / LIBRARY).read_bytes() == before


def test_exports_can_be_kept(tree: Path) -> None:
    assert not of(planned(tree, keep=("exports",))).cuts.hidden


def test_the_plan_says_how_many_names_go_and_by_which_rule(tree: Path) -> None:
    plan = planned(tree)
    (removal,) = [r for r in of(plan).removals if r.what == "exported name"]
    assert load_profile("inference").rule(removal.rule).keep == "exports"
    assert removal.count == sum(count for _, count in of(plan).cuts.hidden) > 2 * linked.COUNT
    assert any("exported name ×3" in line for line in plan.explain())
    assert plans.Plan.model_validate_json(plan.model_dump_json()) == plan


THROWING = """
struct Oops { virtual ~Oops() {} int code = 5; };
%s
extern "C" void throw_oops(void);
extern "C" int catch_oops(void) {
  try { throw_oops(); } catch (Oops &oops) { return oops.code; } catch (...) { return -1; }
  return -2;
}
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_an_exception_is_caught_by_a_library_with_its_own_copy_of_the_type(tmp_path: Path) -> None:
    """libstdc++ compares the names of types: a hidden type is still the same type.

    The catching library is not in the tree, so its copy is not known when names are hidden.
    """
    tree = tmp_path / "tree"
    define = 'extern "C" void throw_oops(void) { throw Oops(); } int _Z6unusedv() { return 1; }'
    many = "".join(f"int many{n}() {{ return {n}; }}\n" for n in range(1500))
    compiled(tree / LIBRARY, THROWING % (define + many), language="c++")
    apply.apply_plan(planned(tree), tree)
    assert b"_ZTI4Oops" not in exported(tree / LIBRARY)
    caught = THROWING.replace("catch_oops", "caught_elsewhere") % ""
    outside = tmp_path / "outside.so"
    compiled(outside, caught, libraries=[tree / LIBRARY], language="c++")
    assert b"_ZTI4Oops" in exported(outside)
    assert called(outside, "caught_elsewhere()") == "5"


# --- together with GPU code ---------------------------------------------------------------------


def gpu_source() -> str:
    """C source of three wrapped containers, and functions that say what lies behind them."""
    code = [
        container(*(entry(CUBIN, sm, bytes([sm + n]) * (30_000 + 8 * n)) for sm in (80, 90)))
        for n in range(3)
    ]
    bodies = "".join(
        f'static const unsigned char body{n}[] __attribute__((section(".nv_fatbin"), aligned(8), '
        f"used)) = {{{','.join(map(str, body))}}};\n"
        for n, body in enumerate(code)
    )
    wrappers = ",".join(f"{{0x466243B1, 1, body{n}, 0}}" for n in range(3))
    return f"""
{bodies}
struct wrapper {{ int magic, version; const void *data; void *second; }};
static struct wrapper wrappers[]
  __attribute__((section(".nvFatBinSegment"), used)) = {{{wrappers}}};
int gpu_code(int index, int size) {{
  const unsigned char *data = wrappers[index].data;
  int sum = 0;
  for (int i = 0; i < size; i++) sum += data[i];
  return sum;
}}
"""


def test_together_with_gpu_code_each_wrapper_leads_where_it_should(
    code: Path, tmp_path: Path
) -> None:
    """Containers move, so addends change in tables that are written anew."""
    gpu = compiled(tmp_path / "gpu.o", gpu_source())
    tree = planted(tmp_path / "tree", code, str(gpu))
    before = said(tree / "bin" / "user")
    plan = planned(tree)
    cuts = of(plan).cuts
    assert cuts.hidden
    assert len([cut for cut in cuts.containers if cut.movable]) == 3
    outcome = apply.apply_plan(plan, tree)
    assert {item.state for item in outcome.files} == {"verified"}
    assert said(tree / "bin" / "user") == before
    for n in range(3):
        wanted = container(entry(CUBIN, 90, bytes([90 + n]) * (30_000 + 8 * n)))
        assert called(tree / LIBRARY, f"gpu_code({n}, {len(wanted)})") == str(sum(wanted))
    assert planned(tree).files == ()


def test_in_two_steps_as_in_one(code: Path, tmp_path: Path) -> None:
    """First the GPU code, then the names, from the file that the first step made."""
    gpu = compiled(tmp_path / "gpu.o", gpu_source())
    tree = planted(tmp_path / "tree", code, str(gpu))
    before = said(tree / "bin" / "user")
    one = shutil.copytree(tree, tmp_path / "one")
    apply.apply_plan(planned(tree, keep=("exports",)), tree)
    apply.apply_plan(planned(tree), tree)
    apply.apply_plan(planned(one), one)
    assert exported(tree / LIBRARY) == exported(one / LIBRARY)
    difference = (tree / LIBRARY).stat().st_size - (one / LIBRARY).stat().st_size
    assert abs(difference) <= 3 * 4096
    assert said(tree / "bin" / "user") == before


# --- what is left alone ---------------------------------------------------------------------------


def noted(tree: Path) -> list[str]:
    plan = planned(tree)
    assert not [item for item in plan.files if item.cuts.hidden]
    return [note.why for note in plan.notes if note.path == LIBRARY]


def test_without_the_newer_hash_table_names_stay(code: Path, tmp_path: Path) -> None:
    (why,) = noted(planted(tmp_path / "tree", code, "-Wl,--hash-style=both"))
    assert why.startswith("exported names stay: what tag 0x4 of its dynamic table means")


def test_a_filter_library_keeps_its_names(code: Path, tmp_path: Path) -> None:
    (why,) = noted(planted(tmp_path / "tree", code, "-Wl,--filter=libm.so.6"))
    assert why.startswith("exported names stay: what tag 0x7fffffff")


def test_where_a_needed_library_is_nowhere_names_stay(code: Path, tmp_path: Path) -> None:
    """It could offer the same names, and nobody knows."""
    missing = compiled(tmp_path / "libmissing.so", "int missing(void) { return 1; }")
    tree = planted(tmp_path / "tree", code, "-Wl,--no-as-needed", str(missing))
    missing.unlink()
    (why,) = noted(tree)
    assert why == "exported names stay: it needs libmissing.so, which was found nowhere"


def test_where_a_file_cannot_be_read_names_stay(tree: Path) -> None:
    broken = bytearray((tree / "bin" / "user").read_bytes())
    with Elf(tree / "bin" / "user") as elf:
        entry_at = next(at for tag, _, at in elf.dynamic_entries if tag == 5)  # DT_STRTAB
    struct.pack_into("<Q", broken, entry_at, 1 << 40)
    (tree / "bin" / "broken").write_bytes(broken)
    (why,) = noted(tree)
    assert why.startswith("exported names stay: what broken asks for cannot be read")


def test_files_for_other_machines_do_not_matter(tree: Path) -> None:
    foreign = bytearray((tree / "bin" / "user").read_bytes())
    struct.pack_into("<H", foreign, 18, 183)  # AArch64
    (tree / "bin" / "foreign").write_bytes(foreign)
    assert of(planned(tree)).cuts.hidden


def test_without_a_loader_only_what_the_tree_holds_is_known(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LOADER", Path("/nowhere/ld-linux-x86-64.so.2"))
    (why,) = noted(tree)
    assert why == "exported names stay: it needs libc.so.6, which was found nowhere"


def test_two_copies_of_a_library_keep_all_their_names(tree: Path) -> None:
    shutil.copytree(tree / "tensorflow", tree / "other" / "tensorflow")
    assert not [item for item in planned(tree).files if item.cuts.hidden]


# --- refused, and caught --------------------------------------------------------------------------


def forged(tree: Path, hidden: tuple[tuple[int, int], ...]) -> str:
    """Apply a plan that hides what it should not; return why the file stayed as it was."""
    plan = planned(tree)
    item = of(plan)
    cuts = item.cuts.model_copy(update={"hidden": hidden})
    files = [
        other.model_copy(update={"cuts": cuts}) if other is item else other for other in plan.files
    ]
    before = (tree / LIBRARY).read_bytes()
    outcome = apply.apply_plan(plan.model_copy(update={"files": tuple(files)}), tree)
    assert (tree / LIBRARY).read_bytes() == before
    (restored,) = outcome.restored
    return restored.why


@pytest.mark.parametrize(
    "name",
    [
        b"strlen",
        b"_ZN7example5localE",
        b"_ZN7example6chosenEi",
        b"_ZN7example6uniqueE",
        b"_ZN7example8absoluteE",
    ],
)
def test_a_symbol_that_must_stay_is_not_hidden_by_any_plan(name: bytes, tree: Path) -> None:
    with Elf(tree / LIBRARY) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        index = symbols.names().index(name)
    assert forged(tree, ((index, 1),)) == "the plan hides a symbol that must stay"


def test_a_symbol_that_is_not_there_is_not_hidden(tree: Path) -> None:
    assert "does not have" in forged(tree, ((10**6, 1),))


@pytest.fixture
def proved(tree: Path, tmp_path: Path) -> tuple[Path, Path, FileCuts]:
    """The original, its proved result, and the cuts."""
    cuts = of(planned(tree)).cuts
    result = tmp_path / "result.so"
    with Elf(tree / LIBRARY) as elf:
        apply.write_pieces(elf.path, layout.lay_out(elf, cuts).pieces, result)
    assert verify.verify_file(tree / LIBRARY, result, cuts) == []
    return tree / LIBRARY, result, cuts


def spoil(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


def test_one_flipped_byte_anywhere_is_caught(proved: tuple[Path, Path, FileCuts]) -> None:
    original, result, cuts = proved
    clean = result.read_bytes()
    with Elf(result) as elf:
        tables = [(s.offset, s.file_end) for s in elf.sections if s.name in _TABLES]
        visible = [(s.offset, s.file_end) for s in elf.loads]
    dice = random.Random(11)
    for turn in range(120):
        low, high = dice.choice(tables if turn % 2 else visible)
        at = dice.randrange(low, high)
        spoil(result, at, bytes([clean[at] ^ 1 << dice.randrange(8)]))
        problems = verify.verify_file(original, result, cuts)
        assert problems or _only_filter(result, at), f"a flip at {at:#x} was not noticed"
        result.write_bytes(clean)


_TABLES = {
    *(".dynsym", ".dynstr", ".gnu.hash", ".gnu.version", ".gnu.version_r"),
    *(".rela.dyn", ".rela.plt", ".dynamic", ".plt"),
}


def _only_filter(path: Path, at: int) -> bool:
    """True for a bit more in the hash table's filter, which costs a look-up and no more."""
    with Elf(path) as elf:
        table = next(s for s in elf.sections if s.name == ".gnu.hash")
        words = int.from_bytes(elf.data[table.offset + 8 : table.offset + 12], "little")
    return table.offset + 16 <= at < table.offset + 16 + 8 * words


def test_tables_that_hide_more_or_less_than_planned_are_caught(
    proved: tuple[Path, Path, FileCuts],
) -> None:
    original, result, cuts = proved
    for hidden in (cuts.hidden[1:], cuts.hidden[:-1], ((cuts.hidden[0][0], 1),)):
        other = cuts.model_copy(update={"hidden": hidden})
        assert verify.verify_file(original, result, other)


def test_a_reference_that_leads_elsewhere_is_caught(proved: tuple[Path, Path, FileCuts]) -> None:
    original, result, cuts = proved
    with Elf(result) as elf:
        relocations = elf.relocations
        index = int((relocations.kind == 8).nonzero()[0][40])
        record, addend = int(relocations.record[index]), int(relocations.addend[index])
    spoil(result, record + 16, struct.pack("<Q", addend + 16))
    assert verify.verify_file(original, result, cuts)


@pytest.fixture(scope="module")
def choices(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Hide any of the symbols that can be hidden, and prove it."""
    folder = tmp_path_factory.mktemp("choices")
    library = compiled(folder / "library.so", code)
    with Elf(library) as elf:
        symbols = read_symbols(elf)
        assert symbols is not None
        able = exports.hideable(elf, symbols).nonzero()[0].tolist()

    def hide(chosen: set[int]) -> None:
        hidden = tuple((able[i], 1) for i in sorted({i % len(able) for i in chosen}))
        result = folder / "result.so"
        result.unlink(missing_ok=True)
        with Elf(library) as elf:
            laid = layout.lay_out(elf, FileCuts(hidden=hidden))
        apply.write_pieces(library, laid.pieces, result)
        assert verify.verify_file(library, result, FileCuts(hidden=hidden)) == []
        assert loader.loader_answer(result) == loader.loader_answer(library)

    return hide


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=400))
def test_any_choice_of_names_is_proved(choices: Callable[..., None], chosen: set[int]) -> None:
    choices(chosen)
