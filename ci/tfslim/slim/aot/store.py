"""Compiled code by content: a folder that any number of runs may share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from tfslim.errors import DiskError, InputError
from tfslim.slim.cuts import NewCode

__all__ = ["Store", "key_of"]

_DIGEST: Final = hashlib.sha256().digest_size


def key_of(ptx_sha256: str, compiler: str, arch: str, options: tuple[str, ...]) -> str:
    """Return the name of what a compiler makes of a PTX: equal names, equal code."""
    words = "\n".join(("1", ptx_sha256, compiler, arch, *options))
    return hashlib.sha256(words.encode()).hexdigest()


class Store:
    """A folder of cubins. Each file begins with the digest of the rest: damage is seen.

    Args:
        folder: Where; it is made when something is first put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """Return a cubin; None where it is not there, or damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        cubin = content[_DIGEST:]
        return cubin if hashlib.sha256(cubin).digest() == content[:_DIGEST] else None

    def put(self, key: str, cubin: bytes) -> None:
        """Keep a cubin; whatever ends the process, it is there whole or not at all.

        Raises:
            DiskError: It cannot be written.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(cubin).digest() + cubin)
                Path(name).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            raise DiskError(
                f"compiled code cannot be kept in {self._folder}",
                why=str(error),
                way_out="Name another folder with --aot-cache.",
            ) from None

    def read(self, new: NewCode) -> bytes:
        """Return the cubin that a plan names.

        Raises:
            InputError: It is no longer there, or is not the one of the plan.
        """
        cubin = self.get(new.key)
        if cubin is None or hashlib.sha256(cubin).hexdigest() != new.sha256:
            raise InputError(
                f"code that the plan names is no longer in {self._folder}",
                why=f"{new.key}, compiled for {new.arch}",
                way_out="Make the plan again.",
            )
        return cubin

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key[2:]
