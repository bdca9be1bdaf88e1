"""Start levers: what makes the import of TensorFlow faster, without a change of any program.

**Collector.** Importing TensorFlow makes some 380,000 objects and next to no garbage, and Python's
cyclic garbage collector goes through them again and again meanwhile. Here it rests until the import
has ended, and what exists then is set aside (`gc.freeze`), so that no later collection visits it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A program that has made more objects before may need the collector to find some of them later.
_MOST_OBJECTS = 200_000


def wants_rest() -> bool:
    """True where the collector runs as Python sets it up; TFSLIM_GC=off leaves it alone."""
    if os.environ.get("TFSLIM_GC", "on").strip().lower() == "off":
        return False
    return gc.isenabled() and gc.get_threshold()[0] > 0


@contextmanager
def rest() -> Iterator[None]:
    """Let the collector rest, then have it work as before, whatever is raised inside.

    It rests by a threshold of 0 (`gc.set_threshold`): `gc.isenabled` and `gc.enable` keep their
    meaning for whoever uses them meanwhile, and a threshold set meanwhile stays.
    """
    thresholds = gc.get_threshold()
    resting = (0, *thresholds[1:])
    few = len(gc.get_objects()) < _MOST_OBJECTS
    gc.set_threshold(*resting)
    try:
        yield
        if few:
            gc.freeze()
    finally:
        if gc.get_threshold() == resting:
            gc.set_threshold(*thresholds)


def resting(spec: Any) -> Any:
    """Return a module's spec, changed so that the collector rests while the module is executed."""
    loader = spec.loader
    execute = loader.exec_module

    def exec_module(module: Any) -> None:
        # The loader is as it was from here on: whoever looks at it later finds nothing unusual.
        del loader.exec_module
        with rest():
            execute(module)

    loader.exec_module = exec_module
    return spec
