"""What of the probe and the zoo holds without TensorFlow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tfslim.parity
from tfslim.parity import probe

SCRIPTS = [Path(tfslim.parity.__file__).with_name(name) for name in ("probe.py", "zoo.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_oldest_python_that_tensorflow_takes_reads_it(script: Path) -> None:
    tree = ast.parse(script.read_text(), feature_version=(3, 9))
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    own = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert own <= {"numpy", "tensorflow", "_tfslim"}  # the last is what a slim target brings


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_explains_itself(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(script), "--help"], capture_output=True, text=True, check=True
    )
    assert "--" in done.stdout


def test_a_target_without_tensorflow_is_an_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-I", str(SCRIPTS[0]), "--out", "out", "--model", "m/thing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No module named 'tensorflow'" in (tmp_path / "out/environment.json").read_text()
    assert "ModuleNotFoundError" in (tmp_path / "out/thing/calls.json").read_text()


def test_a_keras_that_is_not_imported_yet_has_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are compared word by word only where it is the same on both sides."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    assert probe._keras_version() == ""
    (tmp_path / "keras-3.9.dist-info").mkdir()
    (tmp_path / "keras-3.9.dist-info" / "METADATA").write_text("Name: keras\nVersion: 3.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert probe._keras_version() == "3.9"
    assert "keras" not in sys.modules
