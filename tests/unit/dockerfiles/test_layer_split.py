"""layers.py: every file in one layer, equal content in equal bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "dockerfiles" / "build" / "layers.py"
SITE = "opt/venv/lib/python3.13/site-packages"


def run(root: Path, layers: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(root), str(layers)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for path in (
        f"{SITE}/nvidia/cublas/lib/libcublas.so.12",
        f"{SITE}/nvidia_cublas_cu12-12.5.dist-info/RECORD",
        f"{SITE}/tensorflow/__init__.py",
        f"{SITE}/tensorflow-2.21.0.dist-info/RECORD",
        f"{SITE}/numpy/__init__.py",
        "opt/venv/bin/activate",
        "etc/ld.so.cache",
        "etc/ld.so.conf.d/00-cuda-wheels.conf",
        "etc/ld.so.conf.d/libc.conf",
        "usr/lib/libc.so.6",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "lib").symlink_to("usr/lib")
    return root


def files(layer: Path) -> set[str]:
    return {
        str(path.relative_to(layer)).replace(SITE, "SITE")
        for path in layer.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_files_are_dealt_out_by_how_rarely_they_change(root: Path, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    done = run(root, layers)
    assert done.returncode == 0, done.stderr
    assert files(layers / "cuda") == {
        "SITE/nvidia/cublas/lib/libcublas.so.12",
        "SITE/nvidia_cublas_cu12-12.5.dist-info/RECORD",
        "etc/ld.so.cache",
        "etc/ld.so.conf.d/00-cuda-wheels.conf",
    }
    assert files(layers / "tensorflow") == {
        "SITE/tensorflow/__init__.py",
        "SITE/tensorflow-2.21.0.dist-info/RECORD",
    }
    assert files(layers / "python") == {"SITE/numpy/__init__.py", "opt/venv/bin/activate"}
    assert files(layers / "root") == {"usr/lib/libc.so.6", "etc/ld.so.conf.d/libc.conf", "lib"}


def test_every_time_is_the_same_one(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "layers", SOURCE_DATE_EPOCH="1000000000")
    everything = [tmp_path / "layers" / "root", *(tmp_path / "layers").glob("*/**/*")]
    assert {os.lstat(path).st_mtime for path in everything} == {1_000_000_000}


def test_a_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path / "gone", tmp_path / "layers")
    assert "gone is not a folder" in done.stderr
    assert done.returncode != 0
