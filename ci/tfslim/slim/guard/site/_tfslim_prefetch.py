"""Start levers: has the files that a start reads read ahead, by a list recorded at build.

A start out of a cold page cache reads some 3,000 files and a few hundred ranges of libraries, one
after the other, and waits for each. Here a thread asks the kernel for all of them at once
(`posix_fadvise`, which copies nothing and does not wait) while the program begins. It looks at a
few pages first: where they are in memory already, it ends at once. Each file must be the one that
was recorded, by size and time. Whatever fails, the program goes on as if there were no list.

This is imported before the program: it imports nothing that the interpreter has not yet loaded.
"""

import _thread
import os
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Path, size, time of the file; first byte and bytes of each range.
    _File = tuple[str, int, int, list[tuple[int, int]]]

_HEAD = "tfslim prefetch 1"
_PAGE = 4096
_SAMPLES = 16
# A page in memory is read in a few microseconds, one from a fast disk in a hundred.
_CACHED_SECONDS = 50e-6


def begin(path: str) -> None:
    """Replay a list in a thread; not one of `threading`, which would have to be imported."""
    _thread.start_new_thread(_quietly_replay, (path,))


def replay(path: str) -> int:
    """Ask for what a list names, unless it is in memory; return how many files were asked for.

    Raises:
        OSError: The list, or one of the files that are looked at first, cannot be read.
        ValueError: It is not a list.
    """
    with open(path, encoding="utf-8") as text:  # noqa: PTH123 (pathlib is not loaded yet)
        if text.readline().rstrip("\n") != _HEAD:
            raise ValueError(f"{path} is not a list of this kind")
        lines = text.read().splitlines()
    if lines and is_warm(lines):
        return 0
    return sum(map(_ask, lines))


def is_warm(lines: "list[str]") -> bool:
    """True where pages here and there in the list are all in memory."""
    step = max(1, len(lines) // _SAMPLES)
    return all(_is_cached(_parsed(line)) for line in lines[::step])


def _quietly_replay(path: str) -> None:
    try:  # noqa: SIM105 (contextlib is not loaded yet)
        replay(path)
    except Exception:  # noqa: BLE001, S110 (no list, no read-ahead: nobody's trouble)
        pass


def _is_cached(file: "_File") -> bool:
    """True where the last page of a file's ranges is read too fast for a disk."""
    number = os.open(file[0], os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = perf_counter()
        os.pread(number, 1, sum(file[3][-1]) - _PAGE)
        return perf_counter() - start < _CACHED_SECONDS
    finally:
        os.close(number)


def _parsed(line: str) -> "_File":
    path, size, time, ranges = line.split("\t")
    pairs = [part.split("+") for part in ranges.split(" ")]
    return path, int(size), int(time), [(int(a) * _PAGE, int(b) * _PAGE) for a, b in pairs]


def _ask(line: str) -> bool:
    """Have the ranges of one file read ahead, if it is the file that was recorded."""
    path, size, time, ranges = _parsed(line)
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        said = os.fstat(number)
        if (said.st_size, int(said.st_mtime)) != (size, time):
            return False
        for first, count in ranges:
            os.posix_fadvise(number, first, count, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(number)
    return True
