"""Servers that run beside a measurement."""

from __future__ import annotations

import time
from pathlib import Path

from tfslim import proc


def test_a_server_ends_with_its_block_and_its_children_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "echo begun; sleep 60 & echo $! ; wait"
    with proc.background(["sh", "-c", script], log) as status:
        while len(log.read_text().splitlines()) < 2:
            time.sleep(0.01)
        assert status() is None
    child = int(log.read_text().splitlines()[1])
    deadline = time.monotonic() + 10
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(child)


def test_a_server_that_ends_by_itself_is_seen(tmp_path: Path) -> None:
    with proc.background(["sh", "-c", "exit 3"], tmp_path / "log") as status:
        while status() is None:
            time.sleep(0.01)
        assert status() == 3


def test_no_such_program(tmp_path: Path) -> None:
    with proc.background(["tfslim-no-such-program"], tmp_path / "log") as status:
        assert status() == 127


def _lives(pid: int) -> bool:
    """True while a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
