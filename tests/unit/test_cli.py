"""What a person sees of the command line: results, errors, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfslim.cli import cli
from tfslim.errors import TfslimError

VERBS = ["doctor", "plan", "build", "inspect", "bench", "report", "engine", "config"]


def tfslim(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, away from any engine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER")}
    nowhere = {"TFSLIM_HOME": str(cwd / "home"), "DOCKER_CONFIG": str(cwd / "docker")}
    return subprocess.run(
        [sys.executable, "-m", "tfslim", *arguments],
        cwd=cwd,
        env={**clean, **nowhere, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_verb_and_where_to_begin(tmp_path: Path) -> None:
    done = tfslim("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert "tfslim doctor" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = CliRunner().invoke(cli, [verb, "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 5


def test_plan_json_is_json_alone(tmp_path: Path) -> None:
    done = tfslim("plan", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["include"][0]["variant"] == "stock"


def test_an_error_is_one_screen_with_the_way_out_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "tfslim.yaml").write_text("variant: [stock]\n")
    done = tfslim("plan", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'variants'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 24


def test_errors_are_json_too_when_asked(tmp_path: Path) -> None:
    done = tfslim("plan", "nonsense", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def test_no_engine_names_both_ways_out(tmp_path: Path) -> None:
    done = tfslim("build", "stock", cwd=tmp_path, env={"DOCKER_HOST": "unix:///nowhere.sock"})
    assert done.returncode == 3
    assert "--setup-engine" in done.stderr or "DOCKER_HOST" in done.stderr


def test_a_model_path_that_is_no_model_is_told_before_any_engine_is_asked(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.h5").write_bytes(b"x")
    (tmp_path / "tfslim.yaml").write_text("model: {source: m}\n")
    done = tfslim("build", "stock", cwd=tmp_path, env={"DOCKER_HOST": "unix:///nowhere.sock"})
    assert done.returncode == 6
    assert "SavedModel" in done.stderr


def test_inspecting_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    done = tfslim("inspect", "./gone", cwd=tmp_path)
    assert done.returncode == 9
    assert "does not exist" in done.stderr


def test_inspect_measures_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text("x = 1\n" * 100)
    done = tfslim("inspect", "tree", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["disk_bytes"] == 600


def test_a_report_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    done = tfslim("report", cwd=tmp_path)
    assert done.returncode == 9
    assert "tfslim bench" in done.stderr


def test_the_schema_can_be_printed(tmp_path: Path) -> None:
    assert json.loads(tfslim("config", "schema", cwd=tmp_path).stdout)["title"] == "Config"


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    fifo = tmp_path / "tfslim.yaml"
    os.mkfifo(fifo)  # reading it blocks, as long as nothing is written
    child = subprocess.Popen(
        [sys.executable, "-m", "tfslim", "plan"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    writer = None
    while writer is None:  # it can be opened as soon as the other end is
        with contextlib.suppress(OSError):
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    os.close(writer)
    assert child.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said


def test_exit_codes_are_all_different_and_documented() -> None:
    kinds = TfslimError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    readme = (Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md").read_text()
    for kind in kinds:
        assert f"| {kind.exit_code} | {kind.label} |" in readme
