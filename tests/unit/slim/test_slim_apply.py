from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import FIXTURES, digest, digests
from synthetic import CUBIN, Library, container, entry

from tfslim.errors import DiskError, InputError, SlimError, VerifyError
from tfslim.slim import apply, fatbin, scan
from tfslim.slim import plan as plans
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

GPU = "libwrapped.so"


def make(tree: Path, arch: str = "90") -> plans.Plan:
    return make_plan(tree, make_policy("arch", parse_targets(arch)))


def architectures(path: Path) -> set[int]:
    return {e.sm for f in scan.scan_file(path).found for e in f.container.entries}


def test_in_place_every_file_is_smaller_and_proved(tree: Path) -> None:
    plan = make(tree)
    before = {p.name: p.stat().st_size for p in (tree / "lib").iterdir()}
    outcome = apply_plan(plan, tree)
    assert {f.state for f in outcome.files} == {"verified"}
    loaded = {Path(f.path).name: f.loader for f in outcome.files}
    # Of libplain.so only the symbol table went, which no loader reads.
    assert {name for name, answer in loaded.items() if answer == "same"} == {
        name for name in loaded if name != "libplain.so"
    }
    assert outcome.error() is None
    for item in outcome.files:
        path = tree / item.path
        assert path.stat().st_size == item.after < before[path.name] == item.before
    assert outcome.tree_after == sum(p.stat().st_size for p in (tree / "lib").iterdir())
    assert outcome.tree_before == plan.tree_bytes
    assert not [p for p in tree.rglob("*") if "tfslim" in p.name]


def test_a_second_run_changes_nothing(tree: Path) -> None:
    apply_plan(make(tree), tree)
    after = digests(tree)
    again = make(tree)
    assert again.files == ()
    apply_plan(again, tree)
    assert digests(tree) == after


def test_the_same_input_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    apply_plan(make(tree), tree)
    apply_plan(make(other), other)
    assert digests(tree) == digests(other)


def test_slimming_in_two_steps_leaves_what_one_step_leaves(tmp_path: Path) -> None:
    """First to two GPUs, then to one of them; the last step works on what the first one made."""
    code = [container(*(entry(CUBIN, sm, bytes([sm]) * 60_000) for sm in (75, 80, 90)))] * 3
    steps = tmp_path / "steps"
    steps.mkdir()
    (steps / "lib.so").write_bytes(Library(code).build())
    one = tmp_path / "one"
    shutil.copytree(steps, one)
    for arch in ("80,90", "90"):
        apply_plan(make(steps, arch), steps)
    apply_plan(make(one), one)
    assert architectures(steps / "lib.so") == architectures(one / "lib.so") == {90}
    assert (steps / "lib.so").stat().st_size - (one / "lib.so").stat().st_size <= 2 * 4096


def read_container(address: int) -> bytes:
    head = ctypes.string_at(address, 16)
    return ctypes.string_at(address, 16 + int.from_bytes(head[8:16], "little"))


def test_a_running_program_finds_what_was_to_stay(tree: Path) -> None:
    """Through the real loader: each wrapper leads to the sm_90 cubin that the compiler made."""
    expected = []
    for found in scan.scan_file(tree / "lib" / GPU).found:
        data = (tree / "lib" / GPU).read_bytes()
        keep = [e for e in found.container.entries if e.kind is fatbin.Kind.CUBIN and e.sm == 90]
        expected.append(fatbin.write_container(data, keep))
    apply_plan(make(tree), tree)
    library = ctypes.CDLL(str(tree / "lib" / GPU), mode=os.RTLD_NOW)
    library.fixture_container.restype = ctypes.c_void_p
    seen = [read_container(library.fixture_container(i)) for i in range(library.fixture_count())]
    assert len(seen) == 4
    assert sorted(seen[:3] + seen[3:], key=len)[-3:] == sorted(
        (e for e in expected if len(e) > 16), key=len
    )
    # The container without code for sm_90 leads to a real cubin for another architecture.
    (stand_in,) = [raw for raw in seen if raw not in expected]
    parsed = fatbin.parse_container(stand_in, 0, len(stand_in))
    assert [e.kind for e in parsed.entries] == [fatbin.Kind.CUBIN]
    assert parsed.entries[0].sm in (80, 100)


def test_tables_in_a_running_program(tree: Path) -> None:
    class Row(ctypes.Structure):
        _fields_ = (("sm", ctypes.c_int), ("code", ctypes.c_void_p), ("size", ctypes.c_size_t))

    shutil.copy2(tree / "lib" / "libtables.so", tree / "original.so")
    apply_plan(make(tree / "lib"), tree / "lib")
    rows = []
    for path in (tree / "original.so", tree / "lib" / "libtables.so"):
        library = ctypes.CDLL(str(path))
        library.fixture_row.restype = ctypes.POINTER(Row)
        table = [library.fixture_row(i).contents for i in range(6)]
        rows.append([(row.sm, ctypes.string_at(row.code, row.size)) for row in table])
    for (sm, before), (same, after) in zip(*rows, strict=True):
        assert sm == same
        assert after == (before if sm == 90 else bytes(len(before)))


def test_output_leaves_the_original_alone_and_shares_nothing(tree: Path, tmp_path: Path) -> None:
    (tree / "bin").mkdir()
    (tree / "bin" / "tool").write_text("#!/bin/sh\n")
    (tree / "bin" / "tool").chmod(0o750)
    os.link(tree / "bin" / "tool", tree / "bin" / "same")
    (tree / "lib" / "link.so").symlink_to(GPU)
    (tree / "empty").mkdir(mode=0o700)
    os.mkfifo(tree / "pipe")
    os.utime(tree / "lib", (10**9, 10**9))
    before = digests(tree / "lib")
    out = tmp_path / "out"
    outcome = apply_plan(make(tree), tree, out)
    assert digests(tree / "lib") == before
    assert outcome.tree == str(out)
    assert (out / "lib" / GPU).stat().st_size < (tree / "lib" / GPU).stat().st_size
    assert (out / "lib" / "link.so").readlink() == Path(GPU)
    assert stat.S_IMODE((out / "bin" / "tool").stat().st_mode) == 0o750
    assert (out / "bin" / "tool").samefile(out / "bin" / "same")
    assert stat.S_IMODE((out / "empty").stat().st_mode) == 0o700
    assert stat.S_ISFIFO((out / "pipe").stat().st_mode)
    assert (out / "lib").stat().st_mtime == 10**9
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not path.samefile(out / path.relative_to(tree))


def test_rights_owner_and_time_stay(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree / "lib" / GPU
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 1_234_567_890_123_456_789))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    apply_plan(make(tree), tree)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_source_date_epoch_is_honoured(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    apply_plan(make(tree), tree)
    assert (tree / "lib" / GPU).stat().st_mtime == 10**9


def test_hard_links_stay_links(tree: Path) -> None:
    os.link(tree / "lib" / GPU, tree / "lib" / "other.so")
    apply_plan(make(tree), tree)
    assert (tree / "lib" / GPU).samefile(tree / "lib" / "other.so")


def test_a_planned_file_may_be_deleted(tree: Path) -> None:
    launcher = tree / "setuptools" / "cli.exe"
    launcher.parent.mkdir()
    launcher.write_bytes(b"MZ")
    outcome = apply_plan(make(tree), tree)
    assert not launcher.exists()
    assert [f.state for f in outcome.files if f.path == "setuptools/cli.exe"] == ["deleted"]


def test_a_stale_plan_is_refused_before_anything_changes(tree: Path) -> None:
    plan = make(tree)
    victim = tree / "lib" / "libplain.so"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    before = digests(tree)
    with pytest.raises(SlimError, match="nothing was done") as caught:
        apply_plan(plan, tree)
    assert "libplain.so" in caught.value.why
    assert digests(tree) == before
    victim.unlink()
    with pytest.raises(SlimError):
        apply_plan(plan, tree)


def test_outputs_that_cannot_be(tree: Path, tmp_path: Path) -> None:
    plan = make(tree)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for output in (tree, tree / "inside", tmp_path / "full", tmp_path / "no" / "where"):
        with pytest.raises((InputError, DiskError)):
            apply_plan(plan, tree, output)


def test_no_room_is_said_before_anything_is_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(tree)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(apply.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError):
        apply_plan(plan, tree)
    with pytest.raises(DiskError):
        apply_plan(plan, tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_fails_its_proof_is_restored_and_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(tree)
    plan = make(tree)
    monkeypatch.setattr(
        apply.verify, "verify_file", lambda old, *_: ["for a test"] if GPU in old.name else []
    )
    outcome = apply_plan(plan, tree)
    assert [f.path for f in outcome.restored] == [f"lib/{GPU}"]
    assert digest(tree / "lib" / GPU) == before[f"lib/{GPU}"]
    assert digest(tree / "lib" / "libplain.so") != before["lib/libplain.so"]
    error = outcome.error()
    assert isinstance(error, VerifyError)
    assert "for a test" in error.why
    assert error.exit_code == 11


def test_in_an_output_a_restored_file_is_the_original(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply.verify, "verify_file", lambda *_: ["for a test"])
    outcome = apply_plan(make(tree), tree, tmp_path / "out")
    assert outcome.restored
    assert digests(tmp_path / "out") == digests(tree)


def test_a_loader_that_objects_restores_the_file(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {True: "exit 0\nall well", False: "exit 127\ncannot map LIBRARY"}
    monkeypatch.setattr(
        apply.loader, "loader_answer", lambda path, _: answers[not path.name.startswith(".")]
    )
    outcome = apply_plan(make(tree), tree)
    assert {f.state for f in outcome.files if "plain" not in f.path} == {"restored"}
    assert "cannot map LIBRARY" in outcome.files[0].why


def die_after(countdown: int, plan: plans.Plan, tree: Path) -> int:
    """Apply a plan in a child that is killed at its n-th change to the disk; return its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(countdown))

    def mortal(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("copy_file_range", "fsync", "link", "utime", "chown", "unlink"):
        setattr(os, name, mortal(getattr(os, name)))
    Path.replace = mortal(Path.replace)  # type: ignore[assignment,method-assign]
    try:
        apply_plan(plan, tree)
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_between_any_two_writes_each_file_is_the_old_or_the_new(
    tree: Path, tmp_path: Path
) -> None:
    """SIGKILL at every system call that changes something, one after the other."""
    shutil.rmtree(tree)
    (tree / "lib").mkdir(parents=True)
    for name in (GPU, "libplain.so"):
        shutil.copy2(FIXTURES / name, tree / "lib")
    os.link(tree / "lib" / GPU, tree / "lib" / "other.so")
    plan = make(tree)
    pristine = tmp_path / "pristine"
    shutil.copytree(tree, pristine)
    old = digests(tree)
    finished = tmp_path / "finished"
    shutil.copytree(tree, finished)
    (finished / "lib" / "other.so").unlink()
    os.link(finished / "lib" / GPU, finished / "lib" / "other.so")
    apply_plan(make(finished), finished)
    new = digests(finished)
    killed = 0
    for countdown in range(60):
        for name in old:
            (tree / name).unlink()
            shutil.copy2(pristine / name, tree / name)
        (tree / "lib" / "other.so").unlink()
        os.link(tree / "lib" / GPU, tree / "lib" / "other.so")
        status = die_after(countdown, plan, tree)
        now = {name: value for name, value in digests(tree).items() if "tfslim" not in name}
        assert now.keys() == old.keys()
        assert all(now[name] in (old[name], new[name]) for name in now)
        if status == 0:
            assert now == new
            break
        assert status == -signal.SIGKILL
        killed += 1
    assert killed > 8
    # And a run after an interruption clears away what it left.
    (tree / "lib" / ".stray.so.tfslim-aside").touch()
    apply_plan(make(tree), tree)
    assert not list(tree.rglob("*tfslim*"))


def test_several_processes(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = make(tree)
    monkeypatch.setattr("tfslim.slim.pool._INLINE_BYTES", 0)
    outcome = apply_plan(plan, tree, tmp_path / "out", jobs=2)
    assert {f.state for f in outcome.files} == {"verified"}
    assert not multiprocessing.active_children()


def test_an_outcome_can_be_written_down(tree: Path) -> None:
    outcome = apply_plan(make(tree), tree)
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome


def test_a_plan_that_asks_for_too_much_changes_nothing(tree: Path) -> None:
    """A forged plan cannot make a file into something that the proof would not accept."""
    path = tree / "lib" / "forged.so"
    code = container(entry(CUBIN, 80, b"x" * 50_000), entry(CUBIN, 90, b"y" * 5000))
    path.write_bytes(Library([code], data=b"precious" * 9000).build())
    plan = make(tree)
    item = next(f for f in plan.files if f.path == "lib/forged.so")
    cut = item.cuts.containers[0].model_copy(update={"offset": item.cuts.containers[0].offset + 16})
    forged = item.model_copy(update={"cuts": item.cuts.model_copy(update={"containers": (cut,)})})
    others = tuple(f for f in plan.files if f is not item)
    before = digest(path)
    outcome = apply_plan(plan.model_copy(update={"files": (*others, forged)}), tree)
    assert [f.path for f in outcome.restored] == ["lib/forged.so"]
    assert digest(path) == before


def headers(tree: Path) -> tuple[Path, Path, Path]:
    """Two headers of the same content in different folders, and another of the same size."""
    paths = (tree / "include" / "a.h", tree / "include" / "copy" / "a.h", tree / "include" / "b.h")
    (tree / "include" / "copy").mkdir(parents=True)
    for path, text in zip(paths, ("#define A 1\n", "#define A 1\n", "#define A 2\n"), strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize("aside", [False, True])
def test_second_copies_of_headers_become_names_of_one_file(
    aside: bool, tree: Path, tmp_path: Path
) -> None:
    first, copy, other = headers(tree)
    (tree / "twin.py").write_text("#define A 1\n")  # not a header: stays a file of its own
    before = digests(tree / "include")
    plan = make(tree)
    (link,) = [item for item in plan.files if item.action == "link"]
    assert (link.path, link.same_as) == ("include/copy/a.h", "include/a.h")
    out = tmp_path / "out" if aside else None
    outcome = apply_plan(plan, tree, out)
    root = out or tree
    assert digests(root / "include") == before
    assert (root / "include/a.h").samefile(root / "include/copy/a.h")
    assert not (root / "include/a.h").samefile(root / "twin.py")
    assert other.stat().st_nlink == 1
    assert outcome.tree_before - outcome.tree_after == plan.saved
    if aside:
        assert not first.samefile(copy)
    assert not [f for f in make(root).files if f.action == "link"]


def test_copies_with_other_rights_stay_apart(tree: Path) -> None:
    _, copy, _ = headers(tree)
    copy.chmod(0o600)
    assert not [item for item in make(tree).files if item.action == "link"]


def test_a_kept_header_that_changed_meanwhile_keeps_the_copy(tree: Path, tmp_path: Path) -> None:
    first, copy, _ = headers(tree)
    plan = make(tree)
    first.write_text("#define A 3\n")
    outcome = apply_plan(plan, tree, tmp_path / "out")
    assert [f.path for f in outcome.restored] == ["include/copy/a.h"]
    assert (tmp_path / "out/include/copy/a.h").read_text() == copy.read_text() == "#define A 1\n"


def with_stand_ins(tree: Path) -> plans.Plan:
    """A plan that deletes a package but for one file, replaces that, and makes a new one."""
    package = tree / "site" / "gone"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "native.so", "inner/__init__.py", "inner/deep.py"):
        (package / name).write_text(f"# {name}\n")
    (package / "native.so").chmod(0o750)
    os.utime(package, (10**9, 10**9))
    os.utime(tree / "site", (10**9, 10**9))

    def planned(name: str, action: str, **more: object) -> dict[str, object]:
        path = package / name
        rule = {"rule": "windows-launchers", "what": "stand-in", "count": 1, "bytes": 0}
        now = {"size": path.stat().st_size, "sha256": digest(path)} if path.exists() else {}
        empty = {"path": f"site/gone/{name}", "action": action, "size": 0, "sha256": "", "after": 0}
        return {**empty, "removals": [rule], **now, **more}

    files = [
        planned("inner/__init__.py", "delete"),
        planned("inner/deep.py", "delete"),
        planned("native.so", "replace", content=plans.Content.of(b"\x7fELF\xff\0"), after=6),
        planned(
            "native.py", "add", content=plans.Content.of(b"raise ImportError('why')\n"), after=25
        ),
    ]
    empty = make(tree).model_copy(update={"files": ()})
    return plans.Plan.model_validate({**empty.model_dump(), "files": files})


@pytest.mark.parametrize("aside", [False, True])
def test_stand_ins_take_the_place_of_what_goes(aside: bool, tree: Path, tmp_path: Path) -> None:
    plan = with_stand_ins(tree)
    saved = tmp_path / "plan.json"
    plan.save(saved)
    outcome = apply_plan(plans.load(saved), tree, tmp_path / "out" if aside else None)
    package = (tmp_path / "out" if aside else tree) / "site" / "gone"
    assert {Path(f.path).name: f.state for f in outcome.files} == {
        "__init__.py": "deleted",
        "deep.py": "deleted",
        "native.so": "replaced",
        "native.py": "added",
    }
    assert (package / "native.so").read_bytes() == b"\x7fELF\xff\0"
    assert stat.S_IMODE((package / "native.so").stat().st_mode) == 0o750
    assert (package / "native.py").read_text() == "raise ImportError('why')\n"
    assert stat.S_IMODE((package / "native.py").stat().st_mode) == 0o644
    # The same times whenever it is done.
    assert (package / "native.py").stat().st_mtime == 315_532_800
    assert package.stat().st_mtime == package.parent.stat().st_mtime == 10**9
    # An empty folder would be a package that imports.
    assert not (package / "inner").exists()
    assert outcome.tree_after == outcome.tree_before - plan.saved
    assert not list(tree.rglob("*tfslim*"))
    text = "\n".join(plan.explain())
    assert "native.py: 0 B, new: a stand-in of 25 B  [windows-launchers]" in text


def test_a_new_file_takes_no_name_that_is_taken_and_no_way_out(tree: Path, tmp_path: Path) -> None:
    plan = with_stand_ins(tree)
    (tree / "site" / "gone" / "native.py").symlink_to("/nowhere")
    with pytest.raises(SlimError, match="nothing was done"):
        apply_plan(plan, tree)
    (tree / "site" / "gone" / "native.py").unlink()
    (tmp_path / "outside").mkdir()
    (tree / "site" / "way").symlink_to(tmp_path / "outside")
    new = plan.files[-1].model_copy(update={"path": "site/way/out.py"})
    with pytest.raises(SlimError, match="nothing was done"):
        apply_plan(plan.model_copy(update={"files": (new,)}), tree)
    assert not list((tmp_path / "outside").iterdir())
