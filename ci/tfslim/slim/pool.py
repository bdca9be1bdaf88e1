"""Run one function over many files on several processes, the largest first, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Final, Self, TypeVar

from tfslim.errors import SlimError
from tfslim.ui import Step, Ui

__all__ = ["Pool"]

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")

# Starting processes costs half a second; below this many bytes one process is faster.
_INLINE_BYTES: Final = 256 * 10**6


class Pool:
    """Processes that are started when there is enough to do for them, and end with the block.

    Args:
        ui: Where progress is shown.
        jobs: Processes; None for one per CPU that this process may use.
    """

    def __init__(self, ui: Ui, jobs: int | None = None) -> None:
        self.ui = ui
        self._jobs = jobs or len(os.sched_getaffinity(0))
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=kind is not None)

    def run(
        self,
        title: str,
        function: Callable[[_Work], _Result],
        work: Sequence[_Work],
        *,
        sizes: Sequence[int],
        names: Sequence[str],
    ) -> list[_Result]:
        """Return the function's result for each piece of work, in the order of the work.

        Args:
            title: What is being done.
            function: A module's function (processes import it by name).
            work: Its arguments.
            sizes: Bytes behind each piece, for order and progress.
            names: What to call each piece in the progress line.

        Raises:
            SlimError: A process was ended from outside, most often for lack of memory.
        """
        results: dict[int, _Result] = {}
        with self.ui.step(title, sum(sizes)) as step:
            for index, result in self._results(function, work, sizes):
                results[index] = result
                _tell(step, names[index], sizes[index])
        return [results[index] for index in range(len(work))]

    def _results(
        self, function: Callable[[_Work], _Result], work: Sequence[_Work], sizes: Sequence[int]
    ) -> Iterator[tuple[int, _Result]]:
        order = sorted(range(len(work)), key=lambda index: -sizes[index])
        if self._jobs <= 1 or len(work) <= 1 or sum(sizes) < _INLINE_BYTES:
            yield from ((index, function(work[index])) for index in order)
            return
        if self._executor is None:
            # A progress display runs in a thread, and forking with threads is not safe.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._jobs, mp_context=context)
        futures = {self._executor.submit(function, work[index]): index for index in order}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise SlimError(
                "a process of tfslim was ended from outside",
                why="Most often the machine ran out of memory. Files are replaced whole or not at "
                "all, so nothing is half done.",
                way_out="Give the machine more memory and run the same command again.",
            ) from None


def _tell(step: Step, name: str, size: int) -> None:
    step.update(name)
    step.advance(size)
