"""Room on the disk: refuse before work begins, and say it plainly when it runs out under way."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfslim.errors import DiskError
from tfslim.ui import human_bytes

__all__ = ["full_disk_is_told", "need_free"]

_SPARE_BYTES = 512 << 20
_WAY_OUT = (
    "Free some space (docker system df shows what Docker holds), or give another folder with "
    "TMPDIR or --output."
)


def need_free(folder: Path, wanted_bytes: int, purpose: str) -> None:
    """Refuse work that the disk cannot hold.

    Raises:
        DiskError: There is less free space than `wanted_bytes` and some spare.
    """
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes + _SPARE_BYTES:
        raise DiskError(
            f"{folder} has {human_bytes(free)} free; {purpose} takes {human_bytes(wanted_bytes)}",
            why=f"{human_bytes(_SPARE_BYTES)} are kept spare",
            way_out=_WAY_OUT,
        )


@contextmanager
def full_disk_is_told(folder: Path) -> Iterator[None]:
    """Turn "no space left" into an error with a way out; other errors pass as they are.

    Raises:
        DiskError: The disk that `folder` lies on is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskError(f"the disk of {folder} is full", way_out=_WAY_OUT) from None
