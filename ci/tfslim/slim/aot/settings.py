"""What a person can say about compiling ahead of time."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Settings", "default_cache"]


def default_cache() -> Path:
    """Return the folder that compiled code is kept in: tfslim/aot in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "tfslim" / "aot"


@dataclass(frozen=True)
class Settings:
    """How PTX is compiled.

    Attributes:
        ptxas: The compiler; None takes the one that the tree has from NVIDIA's wheel.
        cache: Folder that compiled code is kept in.
        timeout: Seconds for one module, after which its PTX stays.
        jobs: Modules compiled at the same time; None for one per CPU.
    """

    ptxas: Path | None = None
    cache: Path = field(default_factory=default_cache)
    timeout: float = 600.0
    jobs: int | None = None
