"""Run by the stock interpreter: many calls, good and bad, and the memory that is left.

    python native_leaks.py MODEL_TYPES MODEL_SHAPES

Prints resident kilobytes after a first round, and after eight more.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from tfserve_app.capi import texts
from tfserve_app.capi.backend import CapiBackend
from tfserve_app.errors import InputRejectedError

LONG = b"x" * 4000


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def round_of_calls(types: CapiBackend, shapes: CapiBackend) -> None:
    text = np.array([[LONG, b"short", LONG]] * 4, dtype=object)
    end = np.array(LONG, dtype=object)
    numbers = np.ones((2000, 2), np.float32)
    halves = np.ones((500, 2), np.float32)
    for _ in range(300):
        types.predict("strings", {"text": text, "end": end})
        types.predict("type_float32", {"x": numbers, "one": np.float32(1).reshape(())})
        types.predict("type_bfloat16", {"x": halves, "one": np.float32(1).reshape(())})
        shapes.predict("constant", {})
        with suppress(InputRejectedError):
            shapes.predict("picky", {"x": np.ones(20_000, np.float32)})
        with suppress(InputRejectedError):
            shapes.predict("picky", {"x": np.ones(20_000, np.float64)})
        with suppress(InputRejectedError):  # the first tensor is made, the second is not
            types.predict("type_float32", {"one": numbers, "x": np.ones((2000, 2))})


def main() -> None:
    types, shapes = (CapiBackend(Path(path), lambda _: None) for path in sys.argv[1:3])
    seen = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(9):
            list(pool.map(lambda _: round_of_calls(types, shapes), range(4)))
            seen.append(resident())
    assert not texts._held, "every string tensor gave its memory back"
    types.close()
    shapes.close()
    sys.stdout.write(json.dumps(seen))


main()
sys.stdout.flush()
os._exit(0)
