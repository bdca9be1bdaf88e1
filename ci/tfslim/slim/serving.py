"""How the GPU code of a file serves a GPU: machine code, PTX that is compiled at first use, or not.

Counted are modules: containers and bare cubins, which is what a program hands to the driver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from tfslim.slim.archs import jit_source, serves
from tfslim.slim.fatbin import Kind
from tfslim.slim.scan import FileScan, Found

__all__ = ["DEFAULT_GPUS", "Serving", "picked", "picked_regions", "serving_by_gpu"]

# GPUs of data centres, workstations and desktops that CUDA 12 serves.
DEFAULT_GPUS: Final = (70, 75, 80, 86, 89, 90, 100, 103, 120, 121)


class Serving(NamedTuple):
    """Modules of a file, by what a GPU finds in them.

    Attributes:
        code: Machine code.
        jit: PTX alone, which the driver compiles at first use.
        none: Nothing that the GPU can run. Libraries hold such modules for other GPUs: by itself
            that breaks nothing.
        picked: The library chooses among them by itself (tables by architecture), or hands them to
            a linker: the driver does not choose, so this cannot tell.
    """

    code: int
    jit: int
    none: int
    picked: int


def serving_by_gpu(found: FileScan, sms: Iterable[int]) -> dict[int, Serving]:
    """Return how a file serves GPUs, by compute capability."""
    regions = picked_regions(found.found)
    modules = [item for item in found.found if item.container.entries]
    driver = [item for item in modules if not picked(item, regions)]
    others = len(modules) - len(driver) + len(found.frames)
    return {sm: _counted(driver, sm, others) for sm in sms}


def _counted(modules: Iterable[Found], sm: int, picked_count: int) -> Serving:
    code = jit = none = 0
    for item in modules:
        entries = item.container.entries
        if any(entry.kind is Kind.CUBIN and serves(entry, sm) for entry in entries):
            code += 1
        elif jit_source(entries, sm) is not None:
            jit += 1
        else:
            none += 1
    return Serving(code, jit, none, picked_count)


def picked(item: Found, regions: frozenset[str]) -> bool:
    """True where not the driver alone chooses: a row of a table, or code made for a linker."""
    if item.wrapped:
        return False
    one = len(item.container.entries) == 1
    return (one and item.region in regions) or any(
        entry.kind is Kind.LTO for entry in item.container.entries
    )


def picked_regions(found: Iterable[Found]) -> frozenset[str]:
    """Return the regions that are tables: containers of one entry each, for several architectures.

    Whoever reads such a table picks a row by architecture before the driver sees anything.
    """
    seen: defaultdict[str, set[int]] = defaultdict(set)
    for item in found:
        if not item.wrapped and len(item.container.entries) == 1:
            seen[item.region].add(item.container.entries[0].sm)
    return frozenset(region for region, sms in seen.items() if len(sms) > 1)
