"""The recorder in a process of its own, on a small environment that is used in many ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RECORDER = Path(__file__).parents[3] / "ci" / "tfslim" / "parity" / "recorder.py"

START = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("recorder", {str(RECORDER)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
root, packages = sys.argv[1:3]
sys.path.insert(0, packages)
recording = module.start([root, packages])
"""
FINISH = "\nprint(json.dumps(recording.finish()))"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A site-packages folder with a package, its data, and a distribution's metadata."""
    folder = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    shop = folder / "shop"
    shop.mkdir(parents=True)
    (shop / "__init__.py").write_text("")
    (shop / "eager.py").write_text("def later():\n    from shop import lazy\n    return lazy\n")
    (shop / "lazy.py").write_text("")
    (shop / "unused.py").write_text("")
    for name in ("read.txt", "mapped.txt", "child.txt", "untouched.txt"):
        (shop / name).write_text(name)
    (folder / "Shop_Of.Things-1.2.dist-info").mkdir()
    return folder


def record(packages: Path, code: str) -> dict[str, Any]:
    """Run code under a recorder and return what it saw."""
    argv = [sys.executable, "-I", "-c", START + code + FINISH]
    done = subprocess.run(
        [*argv, str(packages.parents[2]), str(packages)],
        capture_output=True,
        text=True,
        check=True,
    )
    recorded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return recorded


def test_what_is_imported_read_mapped_and_used_by_children_is_seen(packages: Path) -> None:
    seen = record(
        packages,
        """
import mmap, os, subprocess
import shop.eager
shop.eager.later()
file = os.open(f"{packages}/shop/read.txt", os.O_RDONLY)
with open(f"{packages}/shop/mapped.txt", "rb") as mapped:
    kept = mmap.mmap(mapped.fileno(), 0, access=mmap.ACCESS_READ)
subprocess.run(["cat", f"{packages}/shop/child.txt"], check=True, stdout=subprocess.DEVNULL)
""",
    )
    found = {name.removeprefix("site-packages/shop/") for name in seen["opened"]}
    assert {"__init__.py", "eager.py", "lazy.py"} <= found
    assert {"read.txt", "mapped.txt", "child.txt"} <= found
    assert not {"unused.py", "untouched.txt"} & found
    assert seen["problems"] == []


def test_what_is_opened_before_and_after_is_not_seen(packages: Path) -> None:
    recorded = record(
        packages,
        """
first = recording.finish()
open(f"{packages}/shop/read.txt").close()
recording = type("Again", (), {"finish": lambda self: first})()
""",
    )
    assert not [name for name in recorded["opened"] if "read.txt" in name]


def test_a_module_loaded_before_counts(packages: Path) -> None:
    """As those of the interpreter's own start do."""
    code = f"import sys; sys.path.insert(0, {str(packages)!r}); import shop.lazy"
    argv = [sys.executable, "-I", "-c", code + START + FINISH]
    done = subprocess.run(
        [*argv, str(packages.parents[2]), str(packages)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "site-packages/shop/lazy.py" in json.loads(done.stdout)["opened"]


def test_versions_and_names_do_not_depend_on_the_place(packages: Path) -> None:
    seen = record(packages, "import json.tool")
    assert "python/json/tool.py" in seen["opened"]
    assert seen["packages"]["shop-of-things"] == "1.2"
    assert seen["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert not [name for name in seen["opened"] if name.startswith("/")]
    assert any(name.startswith("libc.so") for name in seen["libraries"])


def test_a_folder_reached_by_a_link_has_its_own_name(packages: Path) -> None:
    (packages.parents[1] / "link").symlink_to(packages)
    seen = record(packages, "open(f'{packages}/../../link/shop/read.txt').close()")
    assert "site-packages/shop/read.txt" in seen["opened"]


@pytest.fixture
def waiting(packages: Path) -> Iterator[subprocess.Popen[str]]:
    """A recorder that waits for a line before it finishes."""
    code = START + "print('ready', flush=True); sys.stdin.readline()" + FINISH
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code, str(packages.parents[2]), str(packages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_other_processes_are_seen(packages: Path, waiting: subprocess.Popen[str]) -> None:
    (packages / "shop" / "untouched.txt").read_text()
    out, _ = waiting.communicate("\n")
    assert "site-packages/shop/untouched.txt" in json.loads(out)["opened"]


def test_an_overflow_is_told(packages: Path, waiting: subprocess.Popen[str]) -> None:
    """The kernel drops events while the reader cannot run: they are missed, and it is said."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    os.kill(waiting.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, waiting.pid, os.WSTOPPED)  # all of its threads stand still
    names = [packages / "shop" / "read.txt", packages / "shop" / "mapped.txt"]
    for number in range(queue + 10):  # in turn: equal events that follow each other become one
        os.close(os.open(names[number % 2], os.O_RDONLY))
    os.kill(waiting.pid, signal.SIGCONT)
    out, _ = waiting.communicate("\n")
    (problem,) = json.loads(out)["problems"]
    assert "max_queued_events" in problem
