"""What was measured before, so that a second run takes seconds: small JSON files in one folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import ValidationError

from tfslim.files import write_whole
from tfslim.pins.measure import Measured

__all__ = ["Store"]


class Store:
    """Measurements by wheel and by what they depend on.

    Args:
        folder: Where they are kept; it is made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, sha256: str, key: str) -> Measured | None:
        """Return a measurement; None where there is none that can be read."""
        with contextlib.suppress(OSError, ValidationError):
            return Measured.model_validate_json(self._path(sha256, key).read_bytes())
        return None

    def save(self, sha256: str, key: str, measured: Measured) -> None:
        """Keep a measurement."""
        write_whole(self._path(sha256, key), measured.model_dump_json())

    def load_metadata(self, sha256: str) -> bytes | None:
        """Return a wheel's own metadata; None where it was not kept."""
        with contextlib.suppress(OSError):
            return (self._folder / f"{sha256}.metadata").read_bytes()
        return None

    def save_metadata(self, sha256: str, metadata: bytes) -> None:
        """Keep a wheel's own metadata."""
        write_whole(self._folder / f"{sha256}.metadata", metadata)

    def _path(self, sha256: str, key: str) -> Path:
        return self._folder / f"{sha256}-{key}.json"
