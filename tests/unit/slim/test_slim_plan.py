from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import digests
from synthetic import CUBIN, Library, container, entry

from tfslim.errors import InputError, SlimError
from tfslim.slim import plan as plans
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

GPU = "libwrapped.so"


def make(tree: Path, arch: str = "90", profile: str = "arch", **options: bool) -> plans.Plan:
    return make_plan(tree, make_policy(profile, parse_targets(arch), **options))


def test_a_plan_changes_nothing_and_is_the_same_each_time(tree: Path) -> None:
    before = digests(tree)
    assert make(tree) == make(tree)
    assert digests(tree) == before


def test_every_removed_byte_is_named_by_rule(tree: Path) -> None:
    plan = make(tree)
    item = next(f for f in plan.files if f.path == f"lib/{GPU}")
    by_rule = {removal.rule for removal in item.removals}
    assert by_rule == {"symbol-tables", "other-architectures"}
    foreign = {removal.arch for removal in item.removals if removal.arch}
    assert foreign == {75, 80, 90, 100}  # of sm_90 only the PTX goes
    assert {r.what for r in item.removals if r.arch == 90} == {"PTX"}
    assert item.size - item.after == item.saved > 0.5 * item.size
    assert plan.totals()["cubin", 75] == sum(
        r.bytes for f in plan.files for r in f.removals if (r.what, r.arch) == ("cubin", 75)
    )


def test_explain_says_what_how_much_by_which_rule_why_and_how_proved(tree: Path) -> None:
    text = "\n".join(make(tree).explain())
    for word in (GPU, "sm_75", "[other-architectures]", "why:", "risk:", "proof:", "sm_90"):
        assert word in text


def test_profile_safe_needs_no_gpu_and_keeps_all_gpu_code(tree: Path) -> None:
    plan = make_plan(tree, make_policy("safe"))
    assert plan.targets == ()
    assert {r.rule for f in plan.files for r in f.removals} == {"symbol-tables"}


def test_profile_arch_without_a_gpu_is_refused(tree: Path) -> None:
    with pytest.raises(SlimError) as caught:
        make_plan(tree, make_policy("arch"))
    assert "--cuda-arch" in caught.value.way_out


def test_keep_ptx_follows_the_targets_unless_told(tree: Path) -> None:
    assert not make(tree).keep_ptx
    assert make(tree, "90+PTX").keep_ptx
    assert make(tree, "all-major").keep_ptx
    assert not make(tree, "all-major", keep_ptx=False).keep_ptx
    assert make(tree, keep_ptx=True).saved < make(tree).saved


def test_a_tree_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        make(tmp_path / "missing")


def test_a_saved_plan_is_the_same_plan(tree: Path, tmp_path: Path) -> None:
    plan = make(tree)
    plan.save(tmp_path / "plan.json")
    assert plans.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "[1]"])
def test_what_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="not a slim plan"):
        plans.load(tmp_path / "plan.json")
    with pytest.raises(InputError, match="cannot be read"):
        plans.load(tmp_path / "missing.json")


def test_an_unknown_field_in_a_plan_is_refused(tree: Path, tmp_path: Path) -> None:
    data = json.loads(make(tree).model_dump_json())
    data["files"][0]["also"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError):
        plans.load(tmp_path / "plan.json")


@pytest.mark.parametrize("field", ["path", "same_as", "links"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "lib/../../outside"])
def test_a_plan_that_leads_out_of_the_tree_is_refused(
    field: str, name: str, tree: Path, tmp_path: Path
) -> None:
    data = json.loads(make(tree).model_dump_json())
    data["files"][0][field] = [name] if field == "links" else name
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="not a slim plan") as caught:
        plans.load(tmp_path / "plan.json")
    assert "leads out of the tree" in caught.value.why


def test_names_of_one_file_are_planned_once(tree: Path) -> None:
    os.link(tree / "lib" / GPU, tree / "lib" / "another.so")
    (tree / "lib" / "link.so").symlink_to(GPU)
    plan = make(tree)
    (item,) = [f for f in plan.files if "another" in f.path or GPU in f.path]
    assert (item.path, item.links) == ("lib/another.so", (f"lib/{GPU}",))
    assert plan.tree_bytes == sum(
        path.stat().st_size
        for path in (tree / "lib").iterdir()
        if path.name not in ("another.so", "link.so")
    )


def test_a_program_keeps_its_gpu_code_and_says_why(tree: Path) -> None:
    """The kernel maps programs by itself, and older ones know one zero-filled segment only."""
    data = bytearray((tree / "lib" / GPU).read_bytes())
    data[64 + 3 * 56 : 64 + 3 * 56 + 4] = (3).to_bytes(4, "little")  # some header → PT_INTERP
    (tree / "lib" / GPU).write_bytes(data)
    plan = make(tree)
    item = next(f for f in plan.files if f.path == f"lib/{GPU}")
    assert {r.rule for r in item.removals} == {"symbol-tables"}
    assert any("kernel maps" in note.why and note.bytes > 50_000 for note in plan.notes)


def test_unknown_code_stays_and_is_counted(tree: Path) -> None:
    strange = bytearray(container(entry(CUBIN, 80, b"?" * 5000)))
    strange[16] = 4  # a kind that nobody knows
    (tree / "lib" / "strange.so").write_bytes(Library([bytes(strange)]).build())
    plan = make(tree)
    assert "lib/strange.so" not in {f.path for f in plan.files}
    (note,) = [n for n in plan.notes if n.path == "lib/strange.so"]
    assert "kind 4" in note.why
    assert note.bytes == len(strange)
    assert plan.unexplained_bytes >= note.bytes


def test_many_processes_plan_the_same_as_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tree)
    monkeypatch.setattr("tfslim.slim.pool._INLINE_BYTES", 0)
    assert make_plan(tree, make_policy("arch", parse_targets("90")), jobs=2) == one
