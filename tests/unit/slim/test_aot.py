"""PTX compiled ahead of time: what is compiled, where it goes, and what stays as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import fake_ptxas
import pytest
from helpers import FIXTURES
from synthetic import CUBIN, LTO, PTX, SPECIFIC, Library, container, entry

from tfslim.errors import ConfigError, InputError, SlimError
from tfslim.slim import fatbin, scan
from tfslim.slim.aot.entry import pack_entry
from tfslim.slim.aot.ptxas import find_ptxas
from tfslim.slim.aot.settings import Settings, default_cache
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.elf import Elf, FormatRefusedError
from tfslim.slim.fatbin import Kind
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.recompress import expanded
from tfslim.slim.rules import make_policy
from tfslim.slim.serving import Serving, serving_by_gpu
from tfslim.slim.verify import verify_file
from tfslim.ui import Step

OLD = entry(CUBIN, 80, fake_ptxas.cubin(80, ["old"], pad=4000))


def ptx(name: str, says: str = "", *, sm: int = 90, flags: int = 0x11, options: str = "") -> bytes:
    """Return an entry of PTX; `says` is a comment that the stand-in obeys."""
    text = f"// {says}\n.version 8.5\n.target sm_{sm}\n.visible .entry {name}(\n)\n{{ ret; }}\n"
    header = 64
    if options:
        header = (64 + 8 + len(options) + 1 + 7) // 8 * 8
    raw = bytearray(entry(PTX, sm, text.encode(), flags=flags, header=header))
    if options:
        struct.pack_into("<I", raw, 20, 64)  # where they are said to stand
        struct.pack_into("<II", raw, 64, 72, len(options))
        raw[72 : 72 + len(options)] = options.encode()
    return bytes(raw)


@dataclass(frozen=True)
class Place:
    """A tree with one library, a compiler and a cache."""

    tree: Path
    ptxas: Path
    cache: Path

    @property
    def library(self) -> Path:
        return self.tree / "libgpu.so"

    def put(self, *inside: bytes, wrapped: tuple[bytes, ...] = ()) -> None:
        """Make the library: containers in place, and behind wrappers."""
        self.tree.mkdir(exist_ok=True)
        data = b"".join(one + bytes(-len(one) % 64) for one in inside)
        self.library.write_bytes(Library(wrapped=wrapped, data=data).build())

    def plan(self, archs: str = "90", *, keep_ptx: bool = False, also: str = "aot") -> Plan:
        settings = Settings(self.ptxas, self.cache, timeout=3)
        policy = make_policy(
            "arch",
            parse_targets(archs),
            keep_ptx=keep_ptx,
            also=also.split(),
            keep=("guard",),
            aot=settings,
        )
        return make_plan(self.tree, policy)

    def slim(self, archs: str = "90", *, keep_ptx: bool = False) -> tuple[Plan, Outcome]:
        """Slim it, which includes every proof."""
        plan = self.plan(archs, keep_ptx=keep_ptx)
        outcome = apply_plan(plan, self.tree)
        assert not outcome.restored, [item.why for item in outcome.restored]
        return plan, outcome

    def held(self) -> list[list[str]]:
        """What the library's containers hold: "cubin 90", "PTX 90" and so on."""
        with Elf(self.library) as elf:
            found = scan.scan_elf(elf).found
            return [
                [f"{e.kind.label} {e.sm}{'a' if e.specific else ''}" for e in one.container.entries]
                for one in found
            ]

    def compiled(self) -> list[str]:
        """Options of each run of the compiler."""
        log = self.ptxas.with_suffix(".log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def place(tmp_path: Path, ptxas: Path) -> Place:
    return Place(tmp_path / "tree", ptxas, tmp_path / "cache")


def test_machine_code_takes_the_place_of_ptx(place: Place) -> None:
    place.put(container(OLD, ptx("one")), container(OLD, ptx("two")))
    plan, outcome = place.slim()
    assert place.held() == [["cubin 90"], ["cubin 90"]]
    assert [item.state for item in outcome.files] == ["verified"]
    assert plan.jit == {}
    assert plan.aot is not None
    (summary,) = plan.aot.archs
    assert (summary.arch, summary.modules, summary.compiled) == ("sm_90", 2, 2)
    with Elf(place.library) as elf:
        codes = [expanded(elf.data, one.container.entries[0]) for one in scan.scan_elf(elf).found]
    assert codes == [fake_ptxas.cubin(90, ["one"]), fake_ptxas.cubin(90, ["two"])]


def test_without_the_option_it_says_what_would_be_compiled(place: Place) -> None:
    place.put(container(OLD, ptx("one")), container(OLD, ptx("two")))
    plan = place.plan(also="")
    assert plan.jit == {90: 2}
    assert plan.jit_warnings() == [
        "sm_90: 2 modules would be compiled from PTX at first use (2 of libgpu.so): --aot compiles "
        "them now"
    ]
    assert place.compiled() == []


def test_behind_wrappers_it_is_packed_with_the_rest(place: Place) -> None:
    place.put(
        wrapped=(container(OLD, ptx("one")), container(OLD, ptx("two")), container(OLD, ptx("x")))
    )
    size = place.library.stat().st_size
    place.slim()
    assert place.held() == [["cubin 90"]] * 3
    assert place.library.stat().st_size <= size


def test_several_gpus_each_get_their_own(place: Place) -> None:
    place.put(container(OLD, OLD, ptx("one")), container(OLD, ptx("two")))
    plan, _ = place.slim("100,120")
    assert place.held() == [["cubin 100", "cubin 120"]] * 2
    assert [one.arch for one in plan.aot.archs] == ["sm_100", "sm_120"] if plan.aot else False


def test_a_gpu_with_machine_code_needs_none(place: Place) -> None:
    place.put(container(OLD, entry(CUBIN, 90, fake_ptxas.cubin(90, ["k"])), ptx("k")))
    plan, _ = place.slim("80,90")
    assert place.held()[0][:2] == ["cubin 80", "cubin 90"]
    assert place.compiled() == []
    assert "nothing to compile" in plan.told()[0]


def test_ptx_stays_for_gpus_yet_to_come_where_that_is_wanted(place: Place) -> None:
    place.put(container(OLD, ptx("one")))
    place.slim(keep_ptx=True)
    assert place.held() == [["PTX 90", "cubin 90"]]


def test_equal_programs_are_compiled_once_and_a_second_run_changes_nothing(place: Place) -> None:
    place.put(container(OLD, ptx("same")), container(OLD, ptx("same")))
    plan, _ = place.slim()
    assert len(place.compiled()) == 1
    assert plan.aot is not None
    assert (plan.aot.archs[0].modules, plan.aot.archs[0].programs) == (2, 1)
    assert place.plan().files == ()


def test_the_cache_spares_the_compiler_and_notices_damage(place: Place, tmp_path: Path) -> None:
    place.put(container(OLD, ptx("one")))
    shutil.copytree(place.tree, tmp_path / "again")
    place.slim()
    again = replace(place, tree=tmp_path / "again")
    plan = again.plan()
    assert len(place.compiled()) == 1
    assert plan.aot is not None
    assert (plan.aot.archs[0].compiled, plan.aot.archs[0].from_cache) == (0, 1)
    (kept,) = (path for path in place.cache.rglob("*") if path.is_file())
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    again.slim()
    assert len(place.compiled()) == 2
    assert again.held() == [["cubin 90"]]


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("fail", "ptxas: line 3; error : Unknown instruction"),
        ("crash", "ptxas was ended by signal 11"),
        ("hang", "ptxas was still at it after 3 s"),
        ("other", "ptxas wrote code for sm_80"),
        ("junk", "ptxas wrote something else"),
        ("forget", "ptxas left out a kernel"),
    ],
)
def test_whatever_goes_wrong_the_ptx_stays_and_it_is_said(
    says: str, why: str, place: Place
) -> None:
    place.put(container(OLD, ptx("bad", says)), container(OLD, ptx("good")))
    plan, _ = place.slim()
    assert place.held() == [["PTX 90"], ["cubin 90"]]
    (note,) = plan.notes
    assert note.why.startswith(f"1 modules stay PTX for sm_90: {why}")
    assert plan.jit == {90: 1}


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_does_not_fit_stays_ptx(wrapped: bool, place: Place) -> None:
    # LZ4 does not help: what is added does not repeat.
    large = container(ptx("large", "pad 5000"))
    place.put(*([] if wrapped else [large]), wrapped=(large,) if wrapped else ())
    plan = place.plan()
    assert place.compiled()
    assert any("does not fit its place" in note.why for note in plan.notes)
    assert plan.jit == {90: 1}
    apply_plan(plan, place.tree)
    assert place.held() == [["PTX 90"]]


def test_raw_where_there_is_room_else_compressed(place: Place) -> None:
    room = entry(CUBIN, 80, bytes(700))
    place.put(container(OLD, ptx("a")), container(room, ptx("b")), container(ptx("c")))
    cuts = place.plan().files[0].cuts.containers
    assert [one.packed for cut in cuts for one in cut.new] == ["none", "none"]
    small = entry(CUBIN, 80, bytes(8))
    place.put(container(small, ptx("b")))
    cuts = place.plan().files[0].cuts.containers
    assert [one.packed for cut in cuts for one in cut.new] == ["lz4"]


def test_fewer_gpus_where_not_all_fit(place: Place) -> None:
    place.put(container(entry(CUBIN, 80, bytes(1300)), ptx("one", "pad 600")))
    plan, _ = place.slim("100,120")
    assert place.held() == [["PTX 90", "cubin 100"]]
    assert plan.jit == {120: 1}


def test_code_for_one_architecture_alone(place: Place) -> None:
    place.put(container(OLD, ptx("one", sm=90, flags=0x11 | SPECIFIC)))
    place.slim("90")
    assert place.held() == [["cubin 90a"]]
    assert place.compiled() == ["-arch=sm_90a -o"]


def test_code_for_one_architecture_is_for_no_other(place: Place) -> None:
    place.put(container(OLD, ptx("one", sm=90, flags=0x11 | SPECIFIC)))
    assert place.plan("100").jit == {}
    assert place.compiled() == []


def test_options_of_the_driver_compiler_are_passed_on(place: Place) -> None:
    place.put(container(OLD, ptx("one", options="-maxrregcount=128  ")))
    place.slim()
    assert place.compiled() == ["-arch=sm_90 -maxrregcount=128 -o"]


@pytest.mark.parametrize(
    ("flags", "options", "why"),
    [(0x11, "--compile-only  ", "'--compile-only'"), (0x13, "", "debugger")],
)
def test_ptx_with_a_meaning_of_its_own_is_left_to_the_driver(
    flags: int, options: str, why: str, place: Place
) -> None:
    place.put(container(OLD, ptx("one", flags=flags, options=options)))
    plan = place.plan()
    assert plan.jit == {90: 1}
    assert why in plan.notes[0].why
    assert place.compiled() == []


def test_tables_and_what_is_made_for_a_linker_are_left_alone(place: Place) -> None:
    rows = [container(ptx(f"k{sm}", sm=sm)) for sm in (70, 80, 90)]
    linked = container(OLD, entry(LTO, 80, b"bitcode"), ptx("linked"))
    place.put(*rows, linked)
    plan = place.plan()
    assert place.compiled() == []
    assert plan.jit == {}
    assert [one.picked for one in plan.modules] == [4]


def test_the_proof_sees_other_code(place: Place, tmp_path: Path) -> None:
    place.put(container(OLD, ptx("one")))
    original = tmp_path / "original.so"
    shutil.copy2(place.library, original)
    plan, _ = place.slim()
    cuts = plan.files[0].cuts
    assert verify_file(original, place.library, cuts) == []
    with Elf(place.library) as elf:
        (found,) = scan.scan_elf(elf).found
        at = found.container.entries[0].offset + 64
    changed = bytearray(place.library.read_bytes())
    changed[at + 200] ^= 1
    place.library.write_bytes(changed)
    assert any("other compiled code" in one for one in verify_file(original, place.library, cuts))


def test_a_saved_plan_needs_what_was_compiled_for_it(place: Place) -> None:
    place.put(container(OLD, ptx("one")))
    plan = Plan.model_validate_json(place.plan().model_dump_json())
    before = place.library.read_bytes()
    shutil.rmtree(place.cache)
    with pytest.raises(InputError, match="Make the plan again"):
        apply_plan(plan, place.tree)
    assert place.library.read_bytes() == before
    place.plan()
    assert [item.state for item in apply_plan(plan, place.tree).files] == ["verified"]


def test_the_tree_s_own_compiler_is_found(place: Place) -> None:
    place.put(container(OLD, ptx("one")))
    own = place.tree / "lib" / "nvidia" / "cuda_nvcc" / "bin"
    own.mkdir(parents=True)
    shutil.copy2(place.ptxas, own)
    replace(place, ptxas=None).slim()  # type: ignore[arg-type]
    assert place.held() == [["cubin 90"]]


def test_no_compiler_one_that_is_none_and_one_too_old(place: Place) -> None:
    place.put(container(OLD, ptx("one")))
    with pytest.raises(SlimError, match="pip install --target /tmp/nvcc nvidia-cuda-nvcc-cu12"):
        replace(place, ptxas=None).plan()  # type: ignore[arg-type]
    with pytest.raises(SlimError, match="does not answer as ptxas does"):
        find_ptxas(Path("/bin/false"), None)
    with pytest.raises(SlimError, match=r"needs one of CUDA 12\.9"):
        place.plan("103")
    assert find_ptxas(place.ptxas, None).version == fake_ptxas.VERSION


def test_the_profile_below_has_no_such_rule(place: Place) -> None:
    with pytest.raises(ConfigError, match="no rule called 'aot'"):
        make_policy("safe", also=("aot",))


def test_entries_are_made_as_nvidia_s_tool_makes_them() -> None:
    seen = set()
    with Elf(FIXTURES / "libwrapped.so") as elf:
        for found in scan.scan_elf(elf).found:
            for one in found.container.entries:
                if one.kind is Kind.CUBIN:
                    made = pack_entry(expanded(elf.data, one), one.sm, "", "none")
                    assert made == elf.data[one.offset : one.end]
                    seen.add(one.sm)
    assert seen == {75, 80, 90, 100}


def test_compressed_entries_have_the_header_of_nvidia_s_tool() -> None:
    packing = fatbin.FLAG_LZ4 | fatbin.FLAG_ZSTD
    seen = set()
    with Elf(FIXTURES / "libpacked.so") as elf:
        for found in scan.scan_elf(elf).found:
            for one in found.container.entries:
                if one.kind is not Kind.CUBIN or not one.flags & packing:
                    continue
                suffix = "a" if one.specific else "f" if one.family else ""
                plain = expanded(elf.data, one)
                made = container(pack_entry(plain, one.sm, suffix, "lz4"))
                parsed = fatbin.parse_container(made, 0, len(made)).entries[0]
                heads = [
                    (head._replace(payload=0, packed=0, flags=head.flags & ~packing), rest)
                    for data, at in ((elf.data, one), (made, parsed))
                    for head in (fatbin.EntryHeader.read(data, at.offset),)
                    for rest in (data[at.offset + 64 : at.offset + at.header],)
                ]
                assert heads[0] == heads[1]
                assert expanded(made, parsed) == plain
                seen.add(suffix)
    assert seen == {"", "a", "f"}


def test_code_for_another_architecture_is_no_entry() -> None:
    with pytest.raises(FormatRefusedError):
        pack_entry(fake_ptxas.cubin(80, ["k"]), 90, "", "none")


@pytest.mark.parametrize(
    ("sm", "counts"),
    [(90, Serving(3, 0, 1, 0)), (120, Serving(0, 3, 1, 0)), (75, Serving(3, 0, 1, 0))],
)
def test_what_a_gpu_finds(sm: int, counts: Serving) -> None:
    found = serving_by_gpu(scan.scan_file(FIXTURES / "libwrapped.so"), (sm,))[sm]
    assert sum(found) == 4
    assert found == counts


def test_the_cache_is_in_the_user_s_folder_for_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/tfslim/aot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "tfslim" / "aot"


def test_a_plan_with_it_can_be_saved(place: Place) -> None:
    place.put(container(OLD, ptx("one")))
    saved = json.loads(place.plan().model_dump_json())
    (new,) = saved["files"][0]["cuts"]["containers"][0]["new"]
    assert (new["sm"], new["packed"]) == (90, "none")
    assert saved["aot"]["ptxas"] == fake_ptxas.VERSION


def running() -> Iterator[bytes]:
    """Yield the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def test_an_interrupted_run_ends_its_compilers_and_keeps_what_is_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(container(OLD, ptx("done")), container(OLD, ptx("slow", "hang")))

    def interrupt(_step: Step, detail: str) -> None:
        """The first module that is done says so; then comes ctrl-C."""
        if detail.startswith("1 of 2"):
            raise KeyboardInterrupt

    settings = Settings(place.ptxas, place.cache, jobs=2)
    policy = make_policy("arch", parse_targets("90"), also=("aot",), keep=("guard",), aot=settings)
    monkeypatch.setattr(Step, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_plan(place.tree, policy)
    assert not any(str(place.ptxas).encode() in line for line in running())
    assert len([path for path in place.cache.rglob("*") if path.is_file()]) == 1
