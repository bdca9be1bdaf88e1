"""What the runner is told."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from tfslim.github.commands import Commands


def _commands(env: dict[str, str] | None = None) -> tuple[Commands, io.StringIO]:
    log = io.StringIO()
    return Commands(env or {}, log), log


def test_an_annotation_stays_one_line_and_keeps_its_place() -> None:
    commands, log = _commands()
    commands.annotate("error", "50 %\nmore", title="a: b, c", file="x,y\nz", line=3)
    assert log.getvalue() == "::error file=x%2Cy%0Az,line=3,title=a%3A b%2C c::50 %25%0Amore\n"


def test_text_cannot_end_a_command_or_begin_another() -> None:
    commands, log = _commands()
    commands.annotate("notice", "x\r\n::error::y")
    assert log.getvalue().count("\n") == 1
    assert log.getvalue() == "::notice::x%0D%0A::error::y\n"


def test_every_line_of_a_secret_is_masked_and_short_ones_are_not() -> None:
    commands, log = _commands()
    commands.mask("first-line\nsecond-line\n", "ab", "")
    assert log.getvalue() == "::add-mask::first-line\n::add-mask::second-line\n"


def test_no_command_is_read_inside_a_group_also_after_an_error() -> None:
    commands, log = _commands()

    def fail() -> None:
        with commands.group("Build"):
            commands.say("::error::from a build's log")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    lines = log.getvalue().splitlines()
    token = lines[1].removeprefix("::stop-commands::")
    assert re.fullmatch(r"[0-9a-f]{32}", token)
    assert lines == [
        "::group::Build",
        f"::stop-commands::{token}",
        "::error::from a build's log",
        f"::{token}::",
        "::endgroup::",
    ]


def test_an_output_of_many_lines_cannot_set_another(tmp_path: Path) -> None:
    file = tmp_path / "out"
    commands, _ = _commands({"GITHUB_OUTPUT": str(file)})
    commands.output("report", "one\nverdict=good\nEOF\n")
    name, _, delimiter = file.read_text().splitlines()[0].partition("<<")
    assert name == "report"
    assert file.read_text() == f"report<<{delimiter}\none\nverdict=good\nEOF\n\n{delimiter}\n"


def test_without_a_runner_outputs_and_summary_go_nowhere() -> None:
    commands, log = _commands()
    commands.output("a", "b")
    commands.summary("c")
    assert log.getvalue() == ""


def test_summaries_are_added_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    commands, _ = _commands({"GITHUB_STEP_SUMMARY": str(file)})
    commands.summary("one\n")
    commands.summary("two")
    assert file.read_text() == "one\ntwo\n"
