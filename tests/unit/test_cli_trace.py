"""`tfslim trace` and what `tfslim slim` does with its files, as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfslim.slim.trace import Trace, load

SITE = "lib/python3.11/site-packages"


def tfslim(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfslim", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a TensorFlow of which one module is reached."""
    site = tmp_path / "tree" / SITE
    for name in ("tensorflow/__init__.py", "tensorflow/far/__init__.py", "tensorflow/far/away.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x = 1\n")
    (site / "tensorflow-2.21.0.dist-info").mkdir()
    (site / "tensorflow-2.21.0.dist-info" / "METADATA").write_text("Name: tensorflow\n")
    return tmp_path / "tree"


def write_trace(place: Path, op: str, **other: str) -> None:
    versions = {"tensorflow": "2.21.0", "python": "3.11", **other}
    packages = {"tensorflow": versions["tensorflow"]}
    opened = frozenset({"site-packages/tensorflow/__init__.py"})
    Trace(**versions, packages=packages, ops=frozenset({op}), opened=opened).save(place)  # type: ignore[arg-type]


def test_traces_merge_into_one_file(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.json", "Conv2D")
    write_trace(tmp_path / "b.json", "FFT")
    done = tfslim("trace", "merge", "a.json", "b.json", "-o", "c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 op types" in done.stdout
    assert load(tmp_path / "c.json").ops == {"Conv2D", "FFT"}


def test_traces_of_two_versions_do_not(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.json", "Conv2D")
    write_trace(tmp_path / "b.json", "FFT", tensorflow="2.20.0")
    done = tfslim("trace", "merge", "a.json", "b.json", "-o", "c.json", cwd=tmp_path)
    assert done.returncode == 10
    assert "2.21.0 and 2.20.0" in done.stderr
    assert not (tmp_path / "c.json").exists()


def test_the_first_argument_may_be_a_tree(tmp_path: Path) -> None:
    done = tfslim("trace", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "no model to trace" in done.stderr
    missing = tfslim("trace", "./nowhere", "--model", "demo:unknown", cwd=tmp_path)
    assert missing.returncode == 9
    assert "there is no ./nowhere" in missing.stderr


def test_the_profile_asks_for_a_trace(tree: Path, tmp_path: Path) -> None:
    done = tfslim("slim", "tree", "--profile", "workload", "--cuda-arch", "90", cwd=tmp_path)
    assert done.returncode == 2  # where to is asked first
    done = tfslim(
        "slim", "tree", "--profile", "workload", "--cuda-arch", "90", "--dry-run", cwd=tmp_path
    )
    assert done.returncode == 10
    assert "none was traced" in done.stderr
    assert "--model" in done.stderr


def test_a_tree_is_slimmed_by_a_trace(tree: Path, tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", "Conv2D")
    options = ["--profile", "workload", "--cuda-arch", "90", "--trace", "trace.json"]
    done = tfslim("slim", "tree", *options, "--in-place", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    site = tree / SITE
    assert (site / "tensorflow/__init__.py").exists()
    assert not (site / "tensorflow/far").exists()
    modules = json.loads((site / "_tfslim.json").read_text())["modules"]
    assert modules["tensorflow.far"] == "unreached-modules"


def test_the_trace_that_is_used_can_be_kept(tree: Path, tmp_path: Path) -> None:
    write_trace(tmp_path / "a.json", "Conv2D")
    write_trace(tmp_path / "b.json", "Relu")
    options = ["--profile", "workload", "--cuda-arch", "90", "--dry-run", "--save-trace", "c.json"]
    done = tfslim("slim", "tree", *options, "--trace", "a.json", "--trace", "b.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "c.json").ops == {"Conv2D", "Relu"}


def test_a_trace_of_another_version_changes_nothing(tree: Path, tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", "Conv2D", tensorflow="2.20.0")
    options = ["--profile", "workload", "--cuda-arch", "90", "--trace", "trace.json"]
    done = tfslim("slim", "tree", *options, "--in-place", cwd=tmp_path)
    assert done.returncode == 10
    assert "tensorflow: traced 2.20.0, here 2.21.0" in done.stderr
    assert (tree / SITE / "tensorflow/far/away.py").exists()


def test_a_wrong_option_is_told_before_models_run(tree: Path, tmp_path: Path) -> None:
    options = ["--profile", "workload", "--dry-run", "--model", "demo:basic-pitch"]
    done = tfslim("slim", "tree", *options, cwd=tmp_path)
    assert done.returncode == 10
    assert "--cuda-arch" in done.stderr


def test_a_dockerfile_takes_the_trace_and_not_the_model(tmp_path: Path) -> None:
    options = ["--profile", "workload", "--cuda-arch", "90", "--emit-dockerfile"]
    done = tfslim("slim", "/opt/venv", *options, "--trace", "trace.json", cwd=tmp_path)
    assert "--mount=type=bind,source=trace.json,target=/tmp/trace-0.json" in done.stdout
    assert "--trace /tmp/trace-0.json --margin package" in done.stdout
    done = tfslim("slim", "/opt/venv", *options, "--model", "my_model", cwd=tmp_path)
    assert done.returncode == 2
    assert "tfslim trace /opt/venv --model my_model" in done.stderr
