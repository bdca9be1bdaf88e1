"""Run one function over many files on several processes, the largest first, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from tfslim.errors import SlimError
from tfslim.ui import Step

__all__ = ["run"]

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")

# Starting processes costs half a second; below this many bytes one process is faster.
_INLINE_BYTES: Final = 256 * 10**6


def run(
    function: Callable[[_Work], _Result],
    work: Sequence[_Work],
    *,
    weights: Sequence[int],
    titles: Sequence[str],
    step: Step,
    jobs: int | None = None,
) -> list[_Result]:
    """Return the function's result for each piece of work, in the order of the work.

    Args:
        function: A module's function (processes import it by name).
        work: Its arguments.
        weights: Bytes behind each piece, for order and progress.
        titles: What to call each piece in the progress line.
        step: Where progress is shown.
        jobs: Processes; None for one per CPU that this process may use.

    Raises:
        SlimError: A process was ended from outside, most often for lack of memory.
    """
    order = sorted(range(len(work)), key=lambda index: -weights[index])
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(work))
    if jobs <= 1 or sum(weights) < _INLINE_BYTES:
        results: dict[int, _Result] = {}
        for index in order:
            results[index] = function(work[index])
            _tell(step, titles[index], weights[index])
        return [results[index] for index in range(len(work))]
    return _parallel(
        function, work, order=order, weights=weights, titles=titles, step=step, jobs=jobs
    )


def _parallel(
    function: Callable[[_Work], _Result],
    work: Sequence[_Work],
    *,
    order: Sequence[int],
    weights: Sequence[int],
    titles: Sequence[str],
    step: Step,
    jobs: int,
) -> list[_Result]:
    # A progress display runs in a thread, and forking with threads is not safe.
    context = multiprocessing.get_context("spawn")
    results: dict[int, _Result] = {}
    with ProcessPoolExecutor(jobs, mp_context=context) as executor:
        futures: dict[Future[_Result], int] = {
            executor.submit(function, work[index]): index for index in order
        }
        try:
            for future in as_completed(futures):
                index = futures[future]
                results[index] = future.result()
                _tell(step, titles[index], weights[index])
        except BrokenProcessPool:
            raise SlimError(
                "a process of tfslim was ended from outside",
                why="Most often the machine ran out of memory. Files are replaced whole or not at "
                "all: run the same command again to go on.",
                way_out="Give more memory, or use one process: --jobs 1.",
            ) from None
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(work))]


def _tell(step: Step, title: str, weight: int) -> None:
    step.update(title)
    step.advance(weight)
