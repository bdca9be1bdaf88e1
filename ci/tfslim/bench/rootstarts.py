"""Cold starts of unpacked images by phase, without a container engine; files stay in memory.

As `coldstart` does for containers: launches take turns, and when a service came how far is told by
the service itself. There is no container to create, so the first phase is what entering the root
takes. With a GPU each turn starts once with CUDA's cache of compiled PTX empty and once as it is
left.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfslim.bench.coldmarks import phases, ready_marks
from tfslim.bench.coldstart import states
from tfslim.bench.load import make_request, predict
from tfslim.bench.results import ColdLaunch, ColdStarts
from tfslim.bench.rootfs import RootService
from tfslim.bench.turns import rotated
from tfslim.errors import ServiceError
from tfslim.ui import Ui

__all__ = ["RootStart", "root_cold_starts"]

_NOTE = (
    "root file systems entered without an engine, their files in memory: `create` is entering the "
    "root, and nothing was pulled"
)


@dataclass(frozen=True)
class RootStart:
    """A root whose service is started.

    Attributes:
        name: As results show it.
        model_name: Name in /v1/models/NAME.
        serve: Starts it, with a folder for CUDA's cache of compiled PTX.
    """

    name: str
    model_name: str
    serve: Callable[[Path], AbstractContextManager[RootService]]


def root_cold_starts(
    roots: Sequence[RootStart], launches: int, *, gpu: bool, device: str, ui: Ui
) -> ColdStarts:
    """Start the service of each root again and again, in turn, and measure each start.

    Args:
        roots: What is started.
        launches: Starts of each in each state.
        gpu: They are given the machine's GPUs.
        device: What results call that.
        ui: Shows progress.

    Raises:
        ServiceError: One does not serve, or does not tell when it came how far.
    """
    found: list[ColdLaunch] = []
    turn = states(cold=False, gpu=gpu)
    with (
        tempfile.TemporaryDirectory(prefix="tfslim-jit-") as scratch,
        ui.step("cold starts", total=launches * len(roots) * len(turn)) as step,
    ):
        caches = {root.name: Path(scratch, str(number)) for number, root in enumerate(roots)}
        for number in range(launches):
            for root in rotated(roots, number):
                for state in turn:
                    step.update(f"{root.name}, launch {number + 1} of {launches}")
                    cache = caches[root.name]
                    if state.jit_cache != "warm":
                        shutil.rmtree(cache, ignore_errors=True)
                    cache.mkdir(exist_ok=True)
                    cache.chmod(0o1777)
                    found.append(_launch(root, cache, number, state.jit_cache))
                    step.advance(1)
    return ColdStarts(
        device=device,
        cold_cache="not measured: roots were started with their files in memory",
        launches=tuple(found),
        notes=(_NOTE,),
    )


def _launch(
    root: RootStart, cache: Path, number: int, jit: Literal["cold", "warm", "none"]
) -> ColdLaunch:
    with root.serve(cache) as service:
        request = make_request(service.http, root.model_name, 1)
        first_s = predict(service.http, request)
        second_s = predict(service.http, request)
        marks = next((m for m in map(ready_marks, service.lines()) if m is not None), None)
        if marks is None:
            raise ServiceError(
                f"{root.name} does not tell when it came how far",
                why="Its log has no line `ready` with marks.",
            )
        spent = phases(service.asked, marks)
        ready_s = sum(spent.values())
        return ColdLaunch(
            subject=root.name,
            round=number,
            page_cache="warm",
            jit_cache=jit,
            phases_s={
                name: round(value, 6)
                for name, value in {
                    **spent,
                    "first_answer": first_s,
                    "second_answer": second_s,
                }.items()
            },
            first_answer_s=round(ready_s + first_s, 6),
            ready_s=round(ready_s, 6),
            memory_bytes=service.memory_bytes(),
            rss_bytes=None,
            read_bytes=None,
        )
