"""Which committed lock serves a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tfslim.pins.locks import find_lock, lock_name, locks_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for sms in ([90], [80], [80, 86, 89, 90], [80, 90]):
        (tmp_path / lock_name("2.21.0", "3.13", sms)).touch()
    (tmp_path / "README.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("archs", "found"),
    [
        (["90"], "sm90"),
        ([9.0], "sm90"),
        (["90a"], "sm90"),
        (["90", "80"], "sm80-90"),
        (["86"], "sm80-86-89-90"),
    ],
)
def test_exactly_these_gpus_or_the_fewest_others(
    folder: Path, archs: Sequence[str | int], found: str
) -> None:
    lock = find_lock("2.21.0", "3.13", archs, folder)
    assert lock is not None
    assert lock.name == f"tensorflow-2.21.0-py3.13-{found}.txt"


@pytest.mark.parametrize(
    ("tensorflow", "python", "archs"),
    [
        ("2.21.0", "3.13", ["100"]),
        ("2.21.0", "3.12", ["90"]),
        ("2.21", "3.13", ["90"]),
        ("2.21.0", "3.13", []),
        ("2.21.0", "3.13", ["native"]),
    ],
)
def test_nothing_is_guessed(
    folder: Path, tensorflow: str, python: str, archs: Sequence[str | int]
) -> None:
    assert find_lock(tensorflow, python, archs, folder) is None


def test_no_folder_is_no_lock(tmp_path: Path) -> None:
    assert find_lock("2.21.0", "3.13", ["90"], tmp_path / "nowhere") is None


def test_every_committed_lock_is_found_by_its_name() -> None:
    for path in locks_folder().glob("*.txt"):
        _, tensorflow, python, sms = path.stem.split("-", 3)
        archs = sms.removeprefix("sm").split("-")
        assert find_lock(tensorflow, python.removeprefix("py"), archs) == path
