"""bytecode.py: complete, unchecked, the same each time; never silently without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "dockerfiles" / "build" / "bytecode.py"


def run(mode: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), mode, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "root" / "lib"
    (tree / "package").mkdir(parents=True)
    (tree / "package" / "__init__.py").write_text("def where():\n    return __file__\n")
    (tree / "package" / "other.py").write_text("from package import where\nVALUE = 1\n")
    (tree / "package" / "template.py").write_text("class {{ name }}:\n")
    return tree


def cached(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def value(tree: Path) -> str:
    """Import the package from a tree that cannot be written to by accident."""
    code = "import package.other as o; print(o.VALUE, o.where.__code__.co_filename)"
    command = [sys.executable, "-B", "-c", code]
    env = {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_all_that_is_python_has_bytecode_that_is_never_checked(tree: Path) -> None:
    done = run("unchecked", tree)
    assert done.returncode == 0, done.stderr
    assert "bytecode: 2 files" in done.stdout
    assert "not valid Python" in done.stdout
    (tree / "package" / "other.py").write_text("VALUE = 2\n")
    assert value(tree).startswith("1 "), "the source was looked at"


def test_stale_bytecode_goes(tree: Path) -> None:
    stale = tree / "package" / "__pycache__" / "gone.cpython-39.pyc"
    lone = tree / "data" / "__pycache__" / "gone.cpython-39.pyc"
    for path in (stale, lone):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    run("unchecked", tree)
    assert not stale.exists()
    assert not lone.parent.exists()


def test_tracebacks_name_files_as_they_will_lie(tree: Path) -> None:
    run("sourceless", "--root", tree.parent, tree)
    assert value(tree) == "1 /lib/package/__init__.py\n"


def test_sourceless_leaves_bytecode_and_what_is_no_python(tree: Path) -> None:
    run("unchecked", tree)
    done = run("sourceless", tree)
    assert done.returncode == 0, done.stderr
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert names == {"package/__init__.pyc", "package/other.pyc", "package/template.py"}
    assert value(tree).startswith("1 ")


def test_the_same_sources_give_the_same_bytes(tree: Path) -> None:
    for number in range(300):  # more than one slice
        (tree / "package" / f"m{number}.py").write_text(f"X = {{'a', 'b'}}\nY = {number}\n")
    seen = []
    for _ in range(2):
        run("unchecked", tree)
        seen.append([path.read_bytes() for path in sorted(tree.rglob("*.pyc"))])
    assert seen[0] == seen[1]


def test_a_tree_that_is_not_there_is_an_error(tree: Path) -> None:
    done = run("unchecked", tree / "nowhere")
    assert done.returncode != 0
    assert "nowhere is not a folder" in done.stderr
