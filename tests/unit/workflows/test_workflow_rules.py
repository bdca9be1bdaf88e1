"""The rules for workflows: each one finds what it is for, and this repository keeps them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lint import workflows
from lint.workflows import Document, Problem

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = [
    *sorted(REPOSITORY.glob(".github/workflows/*.yml")),
    *sorted(REPOSITORY.glob("docs/workflows/*.yml")),
    REPOSITORY / "action.yml",
]
SHA = "3d3c42e5aac5ba805825da76410c181273ba90b1"

GOOD = f"""\
on: pull_request
permissions: {{}}
concurrency: one
jobs:
  job:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions:
      contents: read
    steps:
      - uses: actions/checkout@{SHA} # v7.0.1
      - env:
          TITLE: ${{{{ github.event.pull_request.title }}}}
        run: echo "$TITLE"
"""

LABELLED = f"""\
on:
  pull_request_target:
    types: [labeled]
permissions: {{}}
concurrency: one
jobs:
  job:
    if: github.event.action == 'labeled' && github.event.label.name == 'gpu-ok'
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions:
      contents: read
    steps:
      - uses: actions/checkout@{SHA} # v7.0.1
        with:
          ref: ${{{{ github.event.pull_request.head.sha }}}}
          persist-credentials: false
"""


def _document(folder: Path, text: str, name: str = "workflow.yml") -> Document:
    path = folder / "one.yml"
    path.write_text(text)
    return workflows.read(path, name)


def _said(folder: Path, text: str) -> str:
    return "\n".join(map(str, workflows.check(_document(folder, text))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_this_repository_keeps_the_rules(path: Path) -> None:
    document = workflows.read(path, path.relative_to(REPOSITORY).as_posix())
    assert workflows.check(document) == []
    assert workflows.shellcheck(document) == []


def test_there_are_files_to_check() -> None:
    names = {path.name for path in FILES}
    assert names >= {"ci.yml", "images.yml", "pr-comment.yml", "release.yml", "minimal.yml"}
    assert sum(len(workflows.run_bodies(workflows.read(path))) for path in FILES) >= 10


@pytest.mark.parametrize("text", [GOOD, LABELLED], ids=["good", "labelled"])
def test_what_keeps_the_rules_is_let_through(tmp_path: Path, text: str) -> None:
    assert workflows.check(_document(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (f"@{SHA} # v7.0.1", "@v7", "actions/checkout@v7 is not pinned"),
        (f"@{SHA} # v7.0.1", f"@{SHA[:12]} # v7.0.1", "is not pinned"),
        (f"@{SHA} # v7.0.1", f"@{SHA}", "says no version"),
        (f"@{SHA} # v7.0.1", f"@{SHA} # v7", "says no version"),
        (f"uses: actions/checkout@{SHA} # v7.0.1", "uses: org/other@v1", "org/other@v1 is not"),
        ("- uses: actions/checkout", "- {name: a, uses: actions/checkout", "a line of its own"),
        ("    timeout-minutes: 5\n", "", "job job says no `timeout-minutes:`"),
        ("concurrency: one\n", "", "neither job job nor the workflow says `concurrency:`"),
        ("permissions: {}", "permissions: write-all", "go beyond reading"),
        ("permissions: {}", "permissions: {contents: write}", "go beyond reading"),
        ('echo "$TITLE"', "echo '${{ github.event.pull_request.title }}'", "hand it in by `env:`"),
        ('echo "$TITLE"', "echo '${{ inputs.x }}'", "one.yml:14:"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, good: str, bad: str, said: str) -> None:
    assert good in GOOD
    text = GOOD.replace(good, bad)
    if bad.startswith("- {"):
        text = text.replace(f"@{SHA} # v7.0.1", f"@{SHA}}}")
    path = tmp_path / "one.yml"
    path.write_text(text)
    assert said in "\n".join(map(str, workflows.check(workflows.read(path, "one.yml"))))


def test_a_job_without_permissions_is_found_where_the_workflow_has_none(tmp_path: Path) -> None:
    text = GOOD.replace("permissions: {}\n", "").replace(
        "    permissions:\n      contents: read\n", ""
    )
    assert "job job says no `permissions:`" in _said(tmp_path, text)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("persist-credentials: false", "persist-credentials: true", "checkout keeps its token"),
        ("action == 'labeled'", "action != 'closed'", "takes a fork's code"),
        ("contents: read", "contents: write", "takes a fork's code"),
        ("pull_request.head.sha", "pull_request.head.ref", "takes a fork's code"),
        (
            "pull_request_target:\n    types: [labeled]",
            "workflow_run:\n    workflows: [CI]",
            "takes a fork's code",
        ),
    ],
)
def test_code_of_a_fork_with_rights_is_found(
    tmp_path: Path, good: str, bad: str, said: str
) -> None:
    assert good in LABELLED
    assert said in _said(tmp_path, LABELLED.replace(good, bad))


def test_inputs_and_outputs_that_tfslim_does_not_have_are_found(tmp_path: Path) -> None:
    text = GOOD.replace(
        f"      - uses: actions/checkout@{SHA} # v7.0.1\n",
        "      - id: made\n"
        "        uses: org/tfslim-action@v1\n"
        "        with: {dockerfile: Dockerfile, max-pul: 2 GB}\n"
        '      - run: echo "$X"\n'
        "        env: {X: '${{ steps.made.outputs.pull }} ${{ steps.made.outputs.verdict }}'}\n",
    )
    said = _said(tmp_path, text)
    assert "has no input max-pul" in said
    assert "has no output pull\n" in said + "\n"
    assert "dockerfile" not in said
    assert "verdict" not in said


def test_inputs_of_the_reusable_workflow_are_known(tmp_path: Path) -> None:
    uses = "org/tfslim-action/.github/workflows/images.yml@v1"
    text = f"""\
on: push
concurrency: one
jobs:
  images:
    permissions: {{contents: read}}
    uses: {uses}
    with: {{variants: stock, gpu-runner: x}}
"""
    assert _said(tmp_path, text).endswith(f"job images: {uses} has no input gpu-runner")


def test_a_called_workflow_leaves_concurrency_to_its_caller(tmp_path: Path) -> None:
    text = GOOD.replace("on: pull_request", "on: workflow_call").replace("concurrency: one\n", "")
    assert workflows.check(_document(tmp_path, text)) == []


def test_a_problem_names_its_place() -> None:
    assert str(Problem("a.yml", 3, "what")) == "a.yml:3: what"
