"""Files written whole: whatever ends the process, the old content is there or the new one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file aside and put it in place; return its path.

    Processes that write the same file do not meet: the last one's content stays. Folders that it
    lies in are made where they are missing.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        return aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
