"""Fixtures shared by the tests of the slim engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import fake_ptxas
import pytest
from helpers import FIXTURES

NVML = Path(__file__).parents[2] / "fixtures" / "fake-driver" / "nvml.c"


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a stand-in for the driver's management library, for LD_LIBRARY_PATH."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = str(folder / "libnvidia-ml.so.1")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, str(NVML)], check=True)
    return str(folder)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a copy of every real fixture library in lib/."""
    target = tmp_path / "tree" / "lib"
    target.mkdir(parents=True)
    for library in FIXTURES.glob("*.so"):
        shutil.copy2(library, target)
    return tmp_path / "tree"


@pytest.fixture
def ptxas(tmp_path: Path) -> Path:
    """A stand-in for NVIDIA's compiler, as a program."""
    program = tmp_path / "ptxas"
    program.write_text(f"#!{sys.executable} -S\n" + Path(fake_ptxas.__file__).read_text())
    program.chmod(0o755)
    return program
