"""A tree whose modules are compiled at each start says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from site_tree import SITE, installed_tree, write

from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return installed_tree(tmp_path / "venv")


def plan(tree: Path) -> Plan:
    return make_plan(tree, make_policy("inference", parse_targets("90")))


def warnings(plan: Plan) -> list[str]:
    return [line for line in plan.told() if line.startswith("bytecode: ")]


def test_with_all_its_bytecode_nothing_is_said(tree: Path) -> None:
    made = plan(tree)
    assert made.sources > 5
    assert made.uncompiled == 0
    assert warnings(made) == []
    apply_plan(made, tree)
    assert plan(tree).uncompiled <= 10  # what was put in place by the rules


def test_without_any_it_is_said_in_the_summary_and_by_explain(tree: Path) -> None:
    for folder in tree.rglob("__pycache__"):
        shutil.rmtree(folder)
    made = plan(tree)
    (line,) = warnings(made)
    assert line.startswith(f"bytecode: {made.sources} of {made.sources} Python modules have none")
    assert "compileall" in line
    assert line in made.explain()


def test_only_what_stays_and_can_be_imported_counts(tree: Path) -> None:
    before = plan(tree).sources
    write(
        tree,
        {
            f"{SITE}/numpy/f2py/more.py": "",  # goes
            "share/doc/example.py": "",
            f"{SITE}/alone.pyc": "",  # sourceless
        },
    )
    assert plan(tree).sources == before
    assert plan(tree).uncompiled == 0
    write(tree, {"lib/python3.11/json.py": "", "lib/python3/dist-packages/apt.py": ""})
    assert plan(tree).sources == before + 2
    assert plan(tree).uncompiled == 2
