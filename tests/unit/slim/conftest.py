"""Fixtures shared by the tests of the slim engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import FIXTURES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a copy of every real fixture library in lib/."""
    target = tmp_path / "tree" / "lib"
    target.mkdir(parents=True)
    for library in FIXTURES.glob("*.so"):
        shutil.copy2(library, target)
    return tmp_path / "tree"
