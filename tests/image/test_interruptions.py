"""Ctrl-C in the middle of a build: one line, status 130, nothing half-made left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import pytest
from conftest import ROOT
from docker.errors import ImageNotFound

from tfslim.engine.engine import Engine

pytestmark = pytest.mark.image


def wait_for(log: Path, text: str, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and child.poll() is None:
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.2)
    child.kill()
    pytest.fail(f"the build did not reach {text!r}:\n{child.communicate()[1]}")


def test_an_interrupted_build_leaves_nothing_and_can_be_run_again(
    engine: Engine, client: docker.DockerClient, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    shutil.copytree(ROOT / "dockerfiles" / "app", app)
    # A change that no cache knows, so that pip really runs.
    with (app / "requirements.txt").open("a") as file:
        file.write(f"\n# {time.time()}\n")
    (tmp_path / "tfslim.yaml").write_text(
        "app: app\nvariants: [stock]\nimage: {repository: tfslim-test}\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "tfslim", "build", "--setup-engine"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    wait_for(tmp_path / ".tfslim" / "logs" / "stock.log", "Collecting", child)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    with pytest.raises(ImageNotFound):
        client.images.get("tfslim-test/stock:2.21.0-py3.13")
    cache = tmp_path / ".tfslim" / "cache"
    assert not cache.exists() or not list(cache.iterdir())
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False)
    assert left.stdout == b""
