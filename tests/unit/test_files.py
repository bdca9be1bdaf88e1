"""Files written whole: the old content, or the new one, and nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfslim.files import write_whole


@pytest.mark.parametrize("content", ["größer\n", "größer\n".encode()])
def test_text_and_bytes_arrive_and_nothing_lies_beside(
    tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "new" / "one.txt"
    assert write_whole(path, content) == path
    assert path.read_bytes() == "größer\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.txt"
    path.write_text("old")

    def half(aside: Path, content: bytes) -> Any:
        aside.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
