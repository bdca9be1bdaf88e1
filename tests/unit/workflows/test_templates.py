"""Workflows to copy, and this repository's own: what each may do, and what it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lint import workflows

REPOSITORY = Path(__file__).resolve().parents[3]
TEMPLATES = REPOSITORY / "docs" / "workflows"
OWN = REPOSITORY / ".github" / "workflows"


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    return workflows.read(path).jobs


def _action_inputs(path: Path) -> list[dict[str, Any]]:
    return [
        step.get("with", {})
        for job in _jobs(path).values()
        for step in job.get("steps", ())
        if str(step.get("uses", "")).startswith(("org/tfslim-action@", "./"))
    ]


def _checkouts(path: Path) -> list[dict[str, Any]]:
    return [
        step.get("with", {})
        for job in _jobs(path).values()
        for step in job.get("steps", ())
        if str(step.get("uses", "")).startswith("actions/checkout@")
    ]


def test_the_minimal_workflow_has_ten_lines() -> None:
    assert len((TEMPLATES / "minimal.yml").read_text().splitlines()) == 10


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.yml")), ids=lambda path: path.name)
def test_templates_use_the_major_version(path: Path) -> None:
    used = set(re.findall(r"uses: (org/tfslim-action\S*)", path.read_text()))
    assert used
    assert all(one.endswith("@v1") for one in used)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.yml")), ids=lambda path: path.name)
def test_templates_are_in_the_documentation(path: Path) -> None:
    assert f"workflows/{path.name}" in (REPOSITORY / "docs" / "github-action.md").read_text()


@pytest.mark.parametrize("path", [TEMPLATES / "pr-comment.yml", OWN / "pr-comment.yml"])
def test_the_comment_is_posted_without_the_forks_code(path: Path) -> None:
    document = workflows.read(path)
    assert document.triggers == {"workflow_run"}
    assert all("ref" not in inputs and "repository" not in inputs for inputs in _checkouts(path))
    assert "download-artifact" not in document.text  # the action reads it, and unpacks nothing
    (job,) = document.jobs.values()
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    (inputs,) = _action_inputs(path)
    assert inputs["mode"] == "publish"
    assert not workflows.run_bodies(document)


def test_the_comment_judges_by_the_limits_of_the_ten_lines() -> None:
    (given,), (again,) = (
        _action_inputs(TEMPLATES / name) for name in ("minimal.yml", "pr-comment.yml")
    )
    assert again["max-pull"] == given["max-pull"]


def test_the_comment_follows_a_workflow_that_is_there() -> None:
    names = {yaml.safe_load(path.read_text())["name"] for path in TEMPLATES.glob("*.yml")}
    for path, known in (
        (TEMPLATES / "pr-comment.yml", names),
        (OWN / "pr-comment.yml", {yaml.safe_load((OWN / "ci.yml").read_text())["name"]}),
    ):
        followed = workflows.read(path).data[True]["workflow_run"]["workflows"]
        assert set(followed) <= known


def test_a_fork_reaches_the_gpu_by_the_label_alone() -> None:
    document = workflows.read(TEMPLATES / "fork-gpu.yml")
    assert document.triggers == {"pull_request_target"}
    bench, unlabel = document.jobs["bench"], document.jobs["unlabel"]
    assert bench["if"] == (
        "github.event.action == 'labeled' && github.event.label.name == 'gpu-ok'"
    )
    assert bench["permissions"] == {"contents": "read"}
    assert bench["environment"]
    assert "secrets." not in document.text
    (checkout,) = _checkouts(TEMPLATES / "fork-gpu.yml")
    assert checkout["ref"] == "${{ github.event.pull_request.head.sha }}"
    assert checkout["persist-credentials"] is False
    (inputs,) = _action_inputs(TEMPLATES / "fork-gpu.yml")
    assert inputs["cache"] == "off"
    assert inputs["comment"] == "never"
    # The label goes with the next push, in a job that runs nothing of the fork.
    assert "github.event.action != 'labeled'" in unlabel["if"]
    assert unlabel["permissions"] == {"pull-requests": "write"}
    assert [step.get("uses") for step in unlabel["steps"]] == [None]
    assert {"labeled", "synchronize"} <= set(document.data[True]["pull_request_target"]["types"])


@pytest.mark.parametrize("path", sorted([*TEMPLATES.glob("*.yml"), *OWN.glob("*.yml")]))
def test_machines_of_ones_own_are_not_offered_to_forks(path: Path) -> None:
    for name, job in _jobs(path).items():
        own = "self-hosted" in str(job.get("runs-on")) or "matrix.runner" in str(job.get("runs-on"))
        if not own:
            continue
        said = " ".join(str(_jobs(path)[one].get("if", "")) for one in [name, *_needs(job)] if one)
        assert "head.repo.full_name == github.repository" in said or "'gpu-ok'" in said


@pytest.mark.parametrize("path", sorted([*TEMPLATES.glob("*.yml"), *OWN.glob("*.yml")]))
def test_nothing_is_pushed_by_a_forks_pull_request(path: Path) -> None:
    for inputs in _action_inputs(path):
        push = inputs.get("push")
        if push is None or workflows.read(path).triggers.isdisjoint(
            {"pull_request", "workflow_call"}
        ):
            continue
        guards = path.read_text()
        assert (
            "github.event_name == 'push'" in str(push)
            or "head.repo.full_name == github.repository" in guards
        )


def test_only_the_release_writes_to_the_repository() -> None:
    writers = {
        (path.name, name)
        for path in OWN.glob("*.yml")
        for name, job in _jobs(path).items()
        if (job.get("permissions") or {}).get("contents") == "write"
    }
    assert writers == {("release.yml", "publish")}
    publish = _jobs(OWN / "release.yml")["publish"]
    assert not any("checkout" in str(step.get("uses")) for step in publish["steps"])
    assert publish["environment"] == "release"


def test_parts_of_a_fan_out_are_joined_and_one_comment_is_left() -> None:
    jobs = _jobs(OWN / "images.yml")
    parts = {
        name: next(step["with"] for step in jobs[name]["steps"] if "org/" in step.get("uses", ""))
        for name in ("build", "bench", "report")
    }
    for name in ("build", "bench"):
        assert parts[name]["comment"] == "never"
        assert parts[name]["id"].startswith("${{ inputs.id }}--")
    limits = {"max-pull", "max-disk", "max-growth", "fail-on", "baseline"}
    for name in ("build", "report"):  # what is over a limit is not pushed, either
        assert {parts[name][one] for one in limits} == {
            f"${{{{ inputs.{one} }}}}" for one in limits
        }
    assert parts["report"]["mode"] == "join"
    pattern = next(
        step["with"]["pattern"]
        for step in jobs["report"]["steps"]
        if "download-artifact" in step.get("uses", "")
    )
    assert pattern == "tfslim-report-${{ inputs.id }}--*"


def test_every_input_of_the_fan_out_is_used() -> None:
    text = (OWN / "images.yml").read_text()
    inputs = workflows.read(OWN / "images.yml").data[True]["workflow_call"]["inputs"]
    assert [name for name in inputs if f"inputs.{name}" not in text] == []


def _needs(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)
