"""Benchmarks that run anywhere in about a minute: `pytest benchmarks/`.

They need pytest-benchmark (`pip install -e '.[dev]'`). `--benchmark-json FILE` writes its JSON;
`--benchmark-compare` holds a run against a saved one. For images, see `tfslim bench` and
docs/benchmarks.md; take percentiles from the raw data (`stats.data`), not from q1 and q3.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tfslim import __version__
from tfslim.gpu import find_gpus

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "slim"


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Say in the JSON what was measured, and on which GPUs."""
    found = find_gpus()
    machine_info["tfslim"] = __version__
    machine_info["gpus"] = [gpu.name for gpu in found.gpus] or found.why_none


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with small real libraries that hold GPU code for several architectures."""
    folder = tmp_path / "tree" / "lib"
    folder.mkdir(parents=True)
    for library in FIXTURES.glob("*.so"):
        shutil.copy2(library, folder)
    return tmp_path / "tree"
