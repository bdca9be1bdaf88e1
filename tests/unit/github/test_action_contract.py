"""action.yml, the table in the README and the declaration in code say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tfslim.github.inputs import INPUTS, variable

ROOT = Path(__file__).parents[3]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("<!-- action:begin -->")[2].partition("<!-- action:end -->")[0]


def _table(title: str) -> dict[str, list[str]]:
    """Return a table of the README's section by the first column, which is `code`."""
    rows = re.split(rf"^\| {title} ", SECTION, flags=re.MULTILINE)[1].split("\n\n")[0]
    found = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows.splitlines()]
    return {row[0].strip("`"): row[1:] for row in found[2:]}


def test_the_inputs_are_those_of_the_declaration_in_its_order() -> None:
    assert list(ACTION["inputs"]) == [one.name for one in INPUTS]


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.name)
def test_an_input_is_described_and_has_its_default(one: Any) -> None:
    declared = ACTION["inputs"][one.name]
    assert declared["default"] == one.default
    assert declared["description"] == one.help
    assert declared.keys() == {"description", "default"}


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.name)
def test_the_readme_has_every_input_and_its_default(one: Any) -> None:
    default, what = _table("input")[one.name]
    shown = {"": "", "${{ github.token }}": "the job's own"}.get(one.default, f"`{one.default}`")
    assert default == shown
    assert what


def test_the_readme_names_no_input_or_output_that_is_not_there() -> None:
    assert list(_table("input")) == list(ACTION["inputs"])
    assert list(_table("output")) == list(ACTION["outputs"])


def test_every_choice_is_named_in_the_readme() -> None:
    table = _table("input")
    for one in INPUTS:
        for choice in one.choices:
            assert choice in " ".join(table[one.name]), (one.name, choice)


def test_the_step_that_runs_gets_every_input() -> None:
    env = next(step for step in STEPS if step.get("id") == "run")["env"]
    expected = {variable(one.name): f"${{{{ inputs.{one.name} }}}}" for one in INPUTS}
    del expected["TFSLIM_INPUT_PYTHON"]  # the setup's
    assert expected.items() <= env.items()


def test_inputs_reach_shells_as_variables_alone() -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", "")


def test_only_github_s_own_actions_are_used_pinned_with_the_version_beside() -> None:
    text = (ROOT / "action.yml").read_text()
    used = re.findall(r"^\s*uses: (.+)$", text, flags=re.MULTILINE)
    assert len(used) == sum("uses" in step for step in STEPS)
    for name in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", name), name


def test_what_follows_a_failed_run_runs_all_the_same() -> None:
    for name in ("Upload the report", "Comment", "Verdict"):
        step = next(step for step in STEPS if step["name"] == name)
        assert step["if"].startswith("always()")


def test_the_comment_and_the_upload_fail_no_job() -> None:
    for name in ("Upload the report", "Comment", "Build cache"):
        step = next(step for step in STEPS if step["name"] == name)
        assert step["continue-on-error"] is True


def test_the_lock_is_of_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {*project["dependencies"], *project["optional-dependencies"]["gpu"]}
    lines = (ROOT / "ci/action/requirements.in").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == needed
    locked = (ROOT / "ci/action/requirements.txt").read_text()
    for line in needed:
        name = re.split(r"[<>=]", line)[0]
        assert re.search(rf"^{re.escape(name)}==\S+", locked, re.MULTILINE), name
    pins = re.findall(r"^\S+==", locked, re.MULTILINE)
    assert len(re.findall(r"^\S+==[^\n]*\\\n\s+--hash=sha256:", locked, re.MULTILINE)) == len(pins)


def test_the_readme_s_ten_lines_are_the_workflow_that_is_tested() -> None:
    shown = SECTION.partition("```yaml\n")[2].partition("```")[0]
    assert shown == (ROOT / "docs/workflows/minimal.yml").read_text()
    assert len(shown.splitlines()) <= 10
