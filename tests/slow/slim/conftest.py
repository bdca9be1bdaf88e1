"""Trees of real libraries for the slow tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def stock() -> Path:
    """A virtual environment with tensorflow[and-cuda], never changed by the tests."""
    place = os.environ.get("TFSLIM_STOCK_TREE")
    if not place:
        pytest.skip("TFSLIM_STOCK_TREE names no venv with tensorflow[and-cuda]")
    return Path(place)
