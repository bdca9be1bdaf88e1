"""`tfslim action` as a job and as a person meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfslim.github.state import JobState

ROOT = Path(__file__).parents[2]


def _tfslim(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfslim", "action", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "ci"), **env},
    )


def test_outside_of_a_job_it_names_the_verbs_to_use(tmp_path: Path) -> None:
    done = _tfslim(tmp_path, "run")
    assert done.returncode == 2
    assert "no GitHub Actions job" in done.stderr
    assert "tfslim bench my/image:1.2" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_job_plans_and_finishes(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"repository": {"full_name": "me/app"}}))
    out = tmp_path / "out"
    job = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_OUTPUT": str(out),
        "GITHUB_REPOSITORY": "me/app",
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "FORCE_COLOR": "1",
    }
    done = _tfslim(tmp_path, "run", **job, TFSLIM_INPUT_MODE="plan", TFSLIM_INPUT_VARIANTS="stock")
    assert done.returncode == 0, done.stderr
    assert '"variant": "stock"' in out.read_text()
    assert "\x1b" not in done.stderr
    finished = _tfslim(tmp_path, "finish", **job)
    assert (finished.returncode, finished.stdout) == (0, "")
    assert "tfslim: done, good" in finished.stderr


@pytest.mark.parametrize("code", [0, 20])
def test_the_last_step_ends_with_the_run_s_code(tmp_path: Path, code: int) -> None:
    JobState(id="x", status="done", exit_code=code, verdict="bad").save(tmp_path / "here")
    done = _tfslim(tmp_path, "finish", GITHUB_ACTIONS="true", TFSLIM_REPORT_DIR="here")
    assert done.returncode == code
