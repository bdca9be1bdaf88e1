"""Every `run:` is found with its line and shell, and what shellcheck says names the file's line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lint import workflows
from lint.workflows import RunBody

WORKFLOW = """\
on: push
defaults:
  run:
    shell: sh
jobs:
  a:
    steps:
      - run: echo one
      - name: block
        shell: bash --noprofile -euo pipefail {0}
        run: |
          # first
          cd $HERE
          echo two
  b:
    defaults: {run: {shell: bash}}
    steps:
      - run: echo three
"""

ACTION = """\
name: x
description: y
runs:
  using: composite
  steps:
    - shell: bash
      run: '"$PYTHON" -m tfslim'
    - shell: bash
      run: |

        rm -rf $HOME/x
"""


def _read(folder: Path, text: str) -> workflows.Document:
    path = folder / "one.yml"
    path.write_text(text)
    return workflows.read(path, "one.yml")


def test_bodies_of_a_workflow(tmp_path: Path) -> None:
    assert workflows.run_bodies(_read(tmp_path, WORKFLOW)) == [
        RunBody(8, "sh", "echo one"),
        RunBody(12, "bash", "# first\ncd $HERE\necho two\n"),
        RunBody(18, "bash", "echo three"),
    ]


def test_bodies_of_an_action(tmp_path: Path) -> None:
    document = _read(tmp_path, ACTION)
    assert document.is_action
    assert workflows.run_bodies(document) == [
        RunBody(7, "bash", '"$PYTHON" -m tfslim'),
        RunBody(10, "bash", "\nrm -rf $HOME/x\n"),
    ]


def test_shellcheck_names_the_line_of_the_file(tmp_path: Path) -> None:
    said = [str(one) for one in workflows.shellcheck(_read(tmp_path, WORKFLOW))]
    assert any(line.startswith("one.yml:13: SC2086:") for line in said), said
    said = [str(one) for one in workflows.shellcheck(_read(tmp_path, ACTION))]
    assert [line.split(":")[1] for line in said] == ["11"]


def test_a_shell_that_nobody_checks_is_refused(tmp_path: Path) -> None:
    text = WORKFLOW.replace("shell: bash --noprofile -euo pipefail {0}", "shell: python")
    said = [str(one) for one in workflows.shellcheck(_read(tmp_path, text))]
    assert said == ["one.yml:12: shellcheck reads no python; use bash"]


def test_the_command_ends_with_1_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "action.yml"
    path.write_text(ACTION)
    assert workflows.main([str(path)]) == 1
    assert "SC2086" in capsys.readouterr().out
    path.write_text(ACTION.replace("$HOME/x", '"$HOME/x"'))
    assert workflows.main([str(path)]) == 0
    assert capsys.readouterr().out == ""
