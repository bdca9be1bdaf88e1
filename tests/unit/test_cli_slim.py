"""`tfslim slim` as a person uses it, on small real libraries with real GPU code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "slim"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for library in FIXTURES.glob("*.so"):
        shutil.copy2(library, tree)
    (tree / "notes.txt").write_text("stays")
    return tree


def slim(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfslim", "slim", *map(str, arguments)],
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tree.iterdir())}


def test_a_dry_run_says_what_would_go_and_changes_nothing(tree: Path) -> None:
    before = contents(tree)
    done = slim(tree, "--cuda-arch", "90", "--dry-run", "--explain")
    assert done.returncode == 0, done.stderr
    for word in ("cubin sm_", "[other-architectures]", "why:", "proof:"):
        assert word in done.stdout, word
    assert contents(tree) == before


def test_into_a_new_folder_it_gets_smaller_and_the_source_stays(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)
    done = slim(tree, "--cuda-arch", "90", "--output", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"]["tree_after"] < result["outcome"]["tree_before"]
    assert {item["state"] for item in result["outcome"]["files"]} == {"verified"}
    assert contents(tree) == before
    assert (tmp_path / "out" / "notes.txt").read_text() == "stays"


def test_a_second_run_changes_nothing(tree: Path) -> None:
    assert slim(tree, "--cuda-arch", "90", "--in-place").returncode == 0
    once = contents(tree)
    assert slim(tree, "--cuda-arch", "90", "--in-place").returncode == 0
    assert contents(tree) == once


def test_a_saved_plan_is_carried_out_later(tree: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(slim(tree, "--cuda-arch", "90", "--dry-run", "--json").stdout)
    direct, later = tmp_path / "direct", tmp_path / "later"
    assert slim(tree, "--cuda-arch", "90", "-o", direct).returncode == 0
    assert slim(tree, "--plan", plan, "-o", later).returncode == 0
    assert contents(direct) == contents(later)


def test_a_saved_plan_is_refused_when_the_files_have_changed(tree: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(slim(tree, "--cuda-arch", "90", "--dry-run", "--json").stdout)
    library = tree / "libwrapped.so"
    library.write_bytes(library.read_bytes() + b"x")
    before = contents(tree)
    done = slim(tree, "--plan", plan, "--in-place")
    assert done.returncode == 10
    assert "libwrapped.so" in done.stderr
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--cuda-arch", "90"], 2, "--output DIR or --in-place"),
        (["--cuda-arch", "90", "--in-place", "--output", "x"], 2, "one of the two"),
        (["--in-place"], 10, "--cuda-arch"),
        (["--cuda-arch", "banana", "--in-place"], 10, "banana"),
        (["--cuda-arch", "90", "--plan", "/gone.json", "--in-place"], 9, "/gone.json"),
    ],
)
def test_requests_that_cannot_be_met_say_what_is_missing(
    tree: Path, arguments: list[str], status: int, said: str
) -> None:
    before = contents(tree)
    done = slim(tree, *arguments)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tree) == before


def test_the_dockerfile_stage_repeats_the_request(tree: Path) -> None:
    done = slim(tree, "--cuda-arch", "80,90", "--keep-ptx", "--emit-dockerfile")
    assert f"tfslim slim {tree} --cuda-arch 80,90 --profile arch --keep-ptx --in-place" in (
        done.stdout
    )
