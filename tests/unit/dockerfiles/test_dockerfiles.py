"""What the Dockerfiles promise each other and their readers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILES = Path(__file__).resolve().parents[3] / "dockerfiles"
OURS = ["approach-a", "approach-b", "training", "inference"]


def text(variant: str) -> str:
    return (DOCKERFILES / variant / "Dockerfile").read_text()


def section(variant: str, name: str) -> str:
    match = re.search(rf"# ---- {name}.*?# ---- end of {name} ----", text(variant), re.DOTALL)
    assert match, f"{variant} has no section {name}"
    return match[0]


def test_variants_with_wheels_share_one_environment_stage() -> None:
    venv = section("approach-b", "venv")
    assert section("training", "venv") == venv
    assert section("inference", "venv") == venv


def test_approach_b_and_training_share_their_runtime_layers() -> None:
    assert section("approach-b", "runtime") == section("training", "runtime")


@pytest.mark.parametrize("variant", OURS)
def test_images_run_as_a_user_of_their_own_and_say_whether_they_are_well(variant: str) -> None:
    assert re.search(r"^USER 10001:10001$", text(variant), re.MULTILINE)
    assert "HEALTHCHECK" in text(variant)
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text(variant)


@pytest.mark.parametrize("variant", [*OURS, "stock"])
def test_each_begins_with_a_header_that_teaches(variant: str) -> None:
    header = text(variant).split("ARG ", 1)[0]
    assert header.startswith(f"# {variant}: ")
    assert len(header.splitlines()) >= 6


@pytest.mark.parametrize("variant", OURS)
def test_bytecode_is_never_removed_or_forbidden(variant: str) -> None:
    instructions = "\n".join(
        line for line in text(variant).splitlines() if not line.lstrip().startswith("#")
    )
    assert "PYTHONDONTWRITEBYTECODE" not in instructions
    assert "__pycache__" not in instructions


def remove(venv: Path, rules: str) -> subprocess.CompletedProcess[str]:
    file = venv / "rules.txt"
    file.write_text(rules)
    script = DOCKERFILES / "build" / "remove.py"
    return subprocess.run(
        [sys.executable, str(script), str(venv), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    site = tmp_path / "lib" / "python3.13" / "site-packages"
    for name in ("a/include/x.h", "a/keep.py", "a/__pycache__/keep.pyc", "b/tests/test_b.py"):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    return tmp_path


def files(venv: Path) -> set[str]:
    site = venv / "lib" / "python3.13" / "site-packages"
    return {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}


def test_rules_remove_what_they_name_and_say_what_it_saved(venv: Path) -> None:
    done = remove(venv, "# why\na/include  headers\n**/tests  test suites\nnone  not there\n")
    assert done.returncode == 0, done.stderr
    assert files(venv) == {"a/keep.py", "a/__pycache__/keep.pyc"}
    assert "no match  none" in done.stdout


def test_bytecode_survives_any_rule(venv: Path) -> None:
    assert remove(venv, "**/*.pyc  a mistake\n").returncode == 0
    assert "a/__pycache__/keep.pyc" in files(venv)


@pytest.mark.parametrize("rule", ["../../x  out", "/etc  out", "a"])
def test_a_rule_that_reaches_out_or_has_no_reason_removes_nothing(venv: Path, rule: str) -> None:
    before = files(venv)
    done = remove(venv, f"a/include  headers\n{rule}\n")
    assert done.returncode != 0
    assert files(venv) == before
