"""The page cache: which files an image has on this machine, how they are put out of memory.

Two ways, the first that is permitted:

- `drop`: `/proc/sys/vm/drop_caches`, as after a boot: contents, directory entries and inodes, of
  the whole machine. The engine's own programs go with it and have to be warmed again.
- `evict`: `posix_fadvise(POSIX_FADV_DONTNEED)` on each file of the image: contents alone; directory
  entries and inodes stay, and so does everything that is not the image's.

Neither takes pages that a running process has mapped, so what is really out is measured.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfslim import proc
from tfslim.errors import EngineError

__all__ = ["PageCache", "choose", "image_folders", "largest_files", "resident_share"]

_DROP = Path("/proc/sys/vm/drop_caches")
_LARGEST = 24
_PROBED_BYTES = 1 << 20  # smaller files say little about what is in memory

Way = Literal["drop", "evict", "off"]


@dataclass(frozen=True)
class PageCache:
    """How files are put out of the page cache.

    Attributes:
        way: drop, evict, or off where only warm starts can be measured.
        text: The same for a reader; where it is off, why.
    """

    way: Way
    text: str

    def empty(self, folders: Sequence[Path]) -> None:
        """Put an image's files out of memory.

        Args:
            folders: Its layers as folders, and its model's where that is mounted.

        Raises:
            EngineError: The system refused.
        """
        os.sync()  # pages that are not written yet stay
        try:
            if self.way == "drop":
                _DROP.write_text("3")
            elif self.way == "evict":
                _evict(folders)
        except OSError as error:
            raise EngineError(
                f"the page cache cannot be emptied: {error}",
                way_out="--cold-cache off measures warm starts alone.",
            ) from error


def choose(wish: Literal["auto", "drop", "evict", "off"], folders: Sequence[Path]) -> PageCache:
    """Return the way that this machine permits.

    Args:
        wish: auto: drop, else evict, else none; or one of them.
        folders: Layers of an image as folders; empty where they do not lie on this machine.
    """
    if wish == "off":
        return PageCache("off", "not measured: switched off (--cold-cache off)")
    if not folders:
        return PageCache(
            "off", "not measured: the engine's files do not lie on this machine, or are not visible"
        )
    if wish in ("auto", "drop") and os.access(_DROP, os.W_OK):
        return PageCache("drop", "sync, then 3 to /proc/sys/vm/drop_caches; engine warmed again")
    if wish in ("auto", "evict") and all(os.access(folder, os.R_OK) for folder in folders):
        return PageCache(
            "evict",
            "posix_fadvise(DONTNEED) on every file of the image; directory entries stay",
        )
    return PageCache("off", "not measured: this user may not empty the page cache (needs root)")


def image_folders(pid: int) -> tuple[Path, ...]:
    """Return the layers of a running container as folders, without the one it writes to.

    They are the lower folders of the overlay that is its root, as `/proc/PID/mountinfo` names
    them. Empty where that cannot be seen (another machine's engine, another file system).

    Args:
        pid: The container's first process, as this machine numbers it.
    """
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return ()
    return lower_folders(mounts)


def lower_folders(mountinfo: str) -> tuple[Path, ...]:
    """Return the folders below the overlay at /, as a text in mountinfo's form names them."""
    for line in mountinfo.splitlines():
        mount, _, options = line.partition(" - overlay ")
        # One list, or, by the newer mount calls, `lowerdir+=` again and again.
        lists = re.findall(r"\blowerdir\+?=([^,\s]+)", options)
        if lists and mount.split()[4] == "/":
            folders = [Path(part) for part in ":".join(lists).split(":") if part]
            # containerd shortens long lists to relative paths, which nobody else can resolve.
            return tuple(folders) if all(f.is_absolute() and f.is_dir() for f in folders) else ()
    return ()


def largest_files(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return the largest regular files below folders; they hold most of what a start reads."""
    sized = [(entry.stat(follow_symlinks=False).st_size, Path(entry)) for entry in _files(folders)]
    sized = [item for item in sized if item[0] >= _PROBED_BYTES]
    return tuple(path for _, path in sorted(sized, reverse=True)[:_LARGEST])


def resident_share(files: Sequence[Path]) -> float | None:
    """Return the share of files that lies in memory, by bytes; None where it cannot be told."""
    if not files:
        return None
    argv = ["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES,SIZE"]
    told = proc.run([*argv, *map(str, files)])
    pairs = [line.split() for line in told.stdout.splitlines()]
    size = sum(int(total) for _, total in pairs)
    return sum(int(resident) for resident, _ in pairs) / size if size else None


def _evict(folders: Sequence[Path]) -> None:
    for entry in _files(folders):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _files(folders: Sequence[Path]) -> Iterator[os.DirEntry[str]]:
    """Yield every regular file below folders."""
    waiting: list[str] = [str(folder) for folder in folders]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry
