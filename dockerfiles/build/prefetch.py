"""Record what a start of the service reads, so that the next start can have it read ahead.

Runs in the image as it will be. It starts the service with the model at /model, or with its frozen
form at /served where the build made one, until that is warm
and ready, in a process that takes down which files Python opens and which pages of libraries and
other mapped files the kernel has mapped for it (/proc/self/pagemap). Nothing is measured by time,
and the page cache is left alone, which a build could neither drop nor trust.

The list names ranges with each file's size and time: a file that is no longer that file is skipped
when the list is replayed (`_tfslim_prefetch` in site-packages). Large ones come first, since the
few calls for them are made before the program is busy; then all others in the order of first use.
Without a model only the imports are recorded. No GPU is there in a build: libraries that are
loaded for one are not in the list.

Usage: python prefetch.py OUT
"""

from __future__ import annotations

import array
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LIST = Path("usr/share/tfslim/prefetch")
HEAD = "tfslim prefetch 1"
MODEL, APP = Path("/model"), Path("/app")
SERVED, FROZEN = Path("/served"), "freeze.json"
PAGE = 4096
# Reading on is cheaper than beginning anew: a gap of up to so many pages (32 KiB) is read, too.
GAP = 8
LARGE_BYTES = 1024 * 1024
# Which pages of a library are found depends a little on where it was mapped, unless its addresses
# are aligned to more than a fault's 64 KiB, as TensorFlow's are: smaller ones are named whole.
WHOLE_BYTES = 12 * 1024 * 1024
MOST_BYTES = 384 * 1024 * 1024
# What is no part of the image, or another model in the next start.
NOT_OURS = ("/proc/", "/sys/", "/dev/", "/tmp/", "/root/", "/run/", "/build/")  # noqa: S108
SECONDS = 300
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))
_PRESENT = 3 << 62  # in memory, or swapped out (Documentation/admin-guide/mm/pagemap.rst)

Range = tuple[int, int]  # first page, number of pages


class Opened:
    """The files that this process opens, in the order of first use."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path = arguments[0]
        elif event == "import":
            path = arguments[1]  # an extension module's file, empty for all else
        elif event == "ctypes.dlopen":
            path = arguments[0]
        else:
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and path.startswith("/"):
            self.paths.setdefault(path)


def mapped_pages() -> dict[str, set[int]]:
    """Return the pages of each mapped file that are in this process's page table.

    A fault maps the cached pages around it as well, 64 KiB in all: hence a little more than needed.
    """
    pages: dict[str, set[int]] = {}
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            fields = line.split(None, 5)
            if len(fields) < 6 or not fields[5].startswith("/"):
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            pagemap.seek(start // PAGE * 8)
            entries = array.array("Q", pagemap.read((end - start) // PAGE * 8))
            first = int(fields[2], 16) // PAGE
            found = {first + number for number, entry in enumerate(entries) if entry & _PRESENT}
            pages.setdefault(fields[5], set()).update(found)
    return pages


def merged(pages: Iterable[int], gap: int = GAP) -> list[Range]:
    """Return ranges that hold all pages, and no gap of up to `gap` pages between them."""
    ranges: list[Range] = []
    for page in sorted(pages):
        if ranges and page - sum(ranges[-1]) <= gap:
            ranges[-1] = (ranges[-1][0], page + 1 - ranges[-1][0])
        else:
            ranges.append((page, 1))
    return ranges


def lines(opened: Iterable[str], mapped: dict[str, set[int]]) -> Iterator[tuple[str, int]]:
    """Yield the list's line for each file, and the bytes it names.

    A file that was opened and is not mapped was read as a whole.
    """
    names = {os.path.realpath(path): None for path in opened}
    # What the dynamic loader found for others: libraries, which are wanted early.
    needed = sorted(path for path in mapped if path not in names)
    for path in [*needed, *names]:
        if path.startswith((*NOT_OURS, f"{MODEL}/", f"{SERVED}/")) or "\n" in path or "\t" in path:
            continue
        with suppress(OSError):
            said = Path(path).stat()
            whole = -(-said.st_size // PAGE)
            pages: Iterable[int] = range(whole)
            if said.st_size > WHOLE_BYTES:
                pages = mapped.get(path, pages)
            ranges = merged(page for page in pages if page < whole)
            if ranges and Path(path).is_file():
                text = " ".join(f"{first}+{count}" for first, count in ranges)
                size = sum(count for _, count in ranges) * PAGE
                yield f"{path}\t{said.st_size}\t{int(said.st_mtime)}\t{text}", size


def document(opened: Iterable[str], mapped: dict[str, set[int]]) -> str:
    """Return the list; what goes beyond MOST_BYTES is left out, and said."""
    total, kept, left = 0, [HEAD], 0
    for line, size in sorted(lines(opened, mapped), key=lambda one: one[1] < LARGE_BYTES):
        if total + size > MOST_BYTES:
            left += size
            continue
        total += size
        kept.append(line)
    text = "\n".join(kept) + "\n"
    print(f"prefetch: {len(kept) - 1} files, {total / 1e6:.1f} MB, list {len(text) / 1e3:.0f} kB")
    if left:
        print(f"prefetch: {left / 1e6:.1f} MB are beyond the cap of {MOST_BYTES / 1e6:.0f} MB")
    return text


def wait_until_ready(port: int) -> None:
    """Ask until the service says that it is warm."""
    for _ in range(SECONDS * 10):
        time.sleep(0.1)
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as asked:
            asked.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if asked.recv(64).split(b" ")[1:2] == [b"200"]:
                return
    sys.exit("prefetch: the service was not ready in time")


def model_folder() -> Path | None:
    """Return the model to start with, as it will be served; None where there is none."""
    if (SERVED / FROZEN).is_file():
        return SERVED
    found = any(any(MODEL.rglob(name)) for name in ("saved_model.pb", FROZEN))
    return MODEL if found else None


def serve_and_write(model: Path, opened: Opened, target: Path) -> None:
    """Run the service in this process, and write the list once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.update(PORT=str(port), HOST="127.0.0.1", TFSLIM_MODEL_PATH=str(model))

    def watch() -> None:
        try:
            wait_until_ready(port)
            write(opened, target)
        finally:
            os._exit(0 if target.exists() else 1)

    threading.Thread(target=watch, daemon=True).start()
    sys.path.insert(0, str(APP))
    runpy.run_module("tfserve_app", run_name="__main__", alter_sys=True)


def import_and_write(opened: Opened, target: Path) -> None:
    """Import what the service imports, and write the list."""
    sys.path.insert(0, str(APP))
    import tfserve_app.server  # noqa: F401, PLC0415

    if os.environ.get("BACKEND", "tensorflow") == "tensorflow":
        import tensorflow  # type: ignore[import-untyped] # noqa: F401, PLC0415
    write(opened, target)


def write(opened: Opened, target: Path) -> None:
    """Write the list with the image's own time."""
    paths = list(opened.paths)
    text = document(paths, mapped_pages())
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.utime(aside, (EPOCH, EPOCH))
    aside.replace(target)
    sys.stdout.flush()  # the process ends without Python's own end


def record(target: Path) -> None:
    """Record in this process; it ends here."""
    opened = Opened()
    if (model := model_folder()) is not None:
        serve_and_write(model, opened, target)
    else:
        import_and_write(opened, target)
        os._exit(0)


def main() -> None:
    """Record in a process of its own: without a list, an image starts slower, and that is all.

    Twice: a fault maps only what is in the page cache, so all that was found is read in between.
    """
    target = Path(sys.argv[1]) / LIST
    if len(sys.argv) > 2:
        record(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        if not run(target):
            target.unlink(missing_ok=True)
            print("prefetch: no list was made: starts read as they come", flush=True)
            return
        read_all(target)


def run(target: Path) -> bool:
    """Record in another process; True where there is a list then."""
    env = {**os.environ, "TFSLIM_PREFETCH": "off"}
    command = [sys.executable, __file__, sys.argv[1], "here"]
    try:
        done = subprocess.run(command, env=env, cwd="/", check=False, timeout=2 * SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and target.exists()


def read_all(target: Path) -> None:
    """Read every file of a list as a whole."""
    for line in target.read_text(encoding="utf-8").splitlines()[1:]:
        with Path(line.split("\t")[0]).open("rb", buffering=0) as file:
            while file.read(LARGE_BYTES):
                pass


if __name__ == "__main__":
    main()
