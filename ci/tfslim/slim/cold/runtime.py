"""The small library that brings cold code back: compiled here, once, from runtime.c.

It needs a C compiler and zstd's static library (Debian: gcc, libc6-dev, libzstd-dev), which go into
the builder alone: what is compiled needs only the C library. Images of ours compile it in the stage
`engine` (`python -m tfslim.slim.cold.runtime`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tfslim import proc
from tfslim.errors import SlimError

__all__ = ["compiled"]

_SOURCE: Final = Path(__file__).with_name("runtime.c")
# Not runtime.so: Python would import that in place of this module.
_READY: Final = Path(__file__).with_name("runtime.bin")
_SECONDS: Final = 120
_OPTIONS: Final = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-s", "-Wl,-z,nodelete,-z,now")
_STATIC_ZSTD: Final = ("-Wl,--exclude-libs,ALL", "-l:libzstd.a")


def compiled() -> bytes:
    """Return the library's bytes; the one that was compiled before, where there is one.

    Raises:
        SlimError: There is no compiler or no static zstd.
    """
    if _READY.is_file():
        return _READY.read_bytes()
    with tempfile.TemporaryDirectory(prefix="tfslim-cold-") as scratch:
        out = Path(scratch) / "runtime.so"
        command = ["cc", *_OPTIONS, "-o", str(out), str(_SOURCE)]
        done = proc.run([*command, *_STATIC_ZSTD], timeout=_SECONDS)
        if not done.ok:
            raise SlimError(
                "--host-code cold needs a C compiler and zstd's static library",
                why=done.tail,
                way_out="apt-get install gcc libc6-dev libzstd-dev; they are needed where the "
                "image is built,\nnot in it.",
            )
        return out.read_bytes()


if __name__ == "__main__":
    _READY.write_bytes(compiled())
