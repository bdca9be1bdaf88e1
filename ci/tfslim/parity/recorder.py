"""Record what a program uses of a Python environment: files, libraries, op types, kernels.

A script's module of its own, like the probe that starts it: it runs inside the target and needs
Python 3.9, nothing of tfslim. It changes nothing and slows nothing down that matters.

Three witnesses see a file: the kernel (inotify: every open, mapping or execution by any process,
below the folders that are watched), the interpreter (an audit hook: what Python code opens), and at
the end the maps of this process. What could not be watched is named in the result, never left out
in silence: a recording with problems must not be used to remove anything.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Recorder", "start"]

# https://man7.org/linux/man-pages/man7/inotify.7.html
_IN_OPEN = 0x20
_IN_Q_OVERFLOW = 0x4000
_IN_ONLYDIR = 0x1000000
_IN_ISDIR = 0x40000000
_EVENT = struct.Struct("iIII")
_READ_BYTES = 1 << 18

_PACKAGES = re.compile(r"/(?:site|dist)-packages/(?P<rest>.+)")
_DISTRIBUTION = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.dist-info")
_MUST_COMPILE = "_XlaMustCompile"
_XLA = "@xla"


def start(roots: Iterable[str]) -> Recorder:
    """Begin to record every file below the roots that this process or any other opens.

    Args:
        roots: Folders; other file systems mounted below them are left out.
    """
    return Recorder(roots)


class Recorder:
    """A recording that is under way."""

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = _outermost(os.path.realpath(root) for root in roots)
        self._python_opened: set[str] = set()
        self._loaded: set[str] = set()
        self._ops: set[str] = set()
        self._kernels: set[str] = set()
        self._context: Any = None
        self._recording = True
        self._watch = _Watch(self._roots)
        sys.addaudithook(self._audit)  # it stays for good: there is no way to take one back

    def attach(self) -> None:
        """Also record ops and kernels, from now on; to be called once TensorFlow is imported."""
        from tensorflow.python.eager import context  # type: ignore  # noqa: PLC0415
        from tensorflow.python.framework import op_callbacks  # type: ignore  # noqa: PLC0415

        self._context = context.context()
        self._context.enable_run_metadata()
        op_callbacks.add_op_callback(self._on_op)

    def graph(self, ops: Iterable[str]) -> None:
        """Add the op types of a model that has been run."""
        self._ops.update(ops)
        self._collect_graphs()

    def finish(self) -> dict[str, Any]:
        """Stop recording and return what was seen, as plain data."""
        self._collect_graphs()
        gpus = [] if self._context is None else _gpus()
        self._recording = False
        opened, problems = self._watch.stop()
        mapped = set(_mapped_files())
        modules = {
            str(module.__file__)
            for module in list(sys.modules.values())
            if getattr(module, "__file__", None)
        }
        seen = opened | mapped | modules | self._python_opened
        return {
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "machine": os.uname().machine,
            "packages": _packages(),
            "gpus": gpus,
            "ops": sorted(self._ops),
            "kernels": sorted(self._kernels),
            "libraries": sorted({Path(path).name for path in mapped if ".so" in path}),
            "dlopened": sorted({Path(name).name for name in self._loaded}),
            "opened": sorted(set(self._named(seen))),
            "problems": problems,
        }

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of what Python code opens; see `sys.addaudithook`."""
        if not self._recording:
            return
        if event == "open" and isinstance(args[0], (str, bytes)):
            self._python_opened.add(str(Path.cwd() / os.fsdecode(args[0])))
        elif event == "ctypes.dlopen" and isinstance(args[0], str):
            self._loaded.add(args[0])

    def _on_op(self, op_type: Any, *_: Any, graph: Any = None, **__: Any) -> None:
        """Take note of an op that ran by itself; a function of the user's is one, too."""
        if graph is not None or not self._recording:
            return
        name = op_type.decode() if isinstance(op_type, bytes) else op_type
        if not self._context.has_function(name):
            self._ops.add(name)
            return
        function = self._context.get_function_def(name)
        if _must_compile(function):  # as a whole: it never shows among the graphs that are run
            self._ops.update((_XLA, *(node.op for node in function.node_def)))

    def _collect_graphs(self) -> None:
        """Take the graphs as they were run: optimised, each node placed on a device.

        An op that ran by itself is a graph of one node.
        """
        if self._context is None:
            return
        for graphs in self._context.export_run_metadata().function_graphs:
            for graph in (graphs.pre_optimization_graph, *graphs.partition_graphs):
                self._take_graph(graph)

    def _take_graph(self, graph: Any) -> None:
        bodies = (function.node_def for function in graph.library.function)
        for node in (node for nodes in (graph.node, *bodies) for node in nodes):
            self._ops.add(node.op)
            if node.device:
                self._kernels.add(_kernel(node))
            if _must_compile(node):
                self._ops.add(_XLA)
        if any(_must_compile(function) for function in graph.library.function):
            self._ops.add(_XLA)

    def _named(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the names of the files that matter, the same for any environment.

        The standard library, where it lies elsewhere, may serve other programs at the same time:
        it is not watched, and what this process opened of it is named all the same.
        """
        standard = os.path.realpath(sysconfig.get_path("stdlib"))
        for real in filter(os.path.isfile, map(os.path.realpath, paths)):
            root = next((root for root in self._roots if _below(real, root)), None)
            packages = _PACKAGES.search(real)
            if packages and root is not None:
                yield f"site-packages/{packages['rest']}"
            elif _below(real, standard):
                yield f"python/{os.path.relpath(real, standard)}"
            elif root is not None:
                yield f"root/{os.path.relpath(real, root)}"


class _Watch:
    """What the kernel sees: a thread that reads inotify events."""

    def __init__(self, roots: Iterable[str]) -> None:
        self._opened: set[tuple[int, bytes]] = set()
        self._folders: dict[int, str] = {}
        self._problems: list[str] = []
        self._overflowed = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._events < 0:
            self._problems.append(f"inotify is not to be had: {_errno_text()}")
            return
        for root in roots:
            self._watch_below(root)
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[set[str], list[str]]:
        """End the thread; return the paths that were opened, and what could not be watched."""
        if self._events >= 0:
            os.close(self._stopper)
            self._thread.join()
            os.close(self._events)
            os.close(self._stop)
        if self._overflowed:
            self._problems.append(
                "files were opened faster than they could be noted and some are missing; raise "
                "/proc/sys/fs/inotify/max_queued_events and record again"
            )
        opened = {f"{self._folders[watch]}/{os.fsdecode(name)}" for watch, name in self._opened}
        return opened, self._problems

    def _watch_below(self, root: str) -> None:
        """Watch a folder and all below it on the same file system."""
        device = Path(root).stat().st_dev
        for folder, below, _ in os.walk(root, onerror=self._unreadable):
            below[:] = [name for name in below if _device(Path(folder, name)) == device]
            watch = self._libc.inotify_add_watch(
                self._events, os.fsencode(folder), _IN_OPEN | _IN_ONLYDIR
            )
            if watch < 0:
                self._problems.append(f"{folder} cannot be watched: {_errno_text()}")
                return
            self._folders[watch] = folder

    def _unreadable(self, error: OSError) -> None:
        if not _PACKAGES.search(f"{error.filename}/."):
            return  # a system's private folder, of which nothing is ever removed by a trace
        self._problems.append(f"{error.filename} cannot be watched: {error.strerror}")

    def _read(self) -> None:
        """Take events until the pipe is closed and every event before that has been taken."""
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._stop, select.POLLHUP)
        while True:
            ready = [file for file, _ in poll.poll()]
            if self._events not in ready:
                return
            self._take(os.read(self._events, _READ_BYTES))

    def _take(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                self._overflowed = True
            elif mask & _IN_OPEN and not mask & _IN_ISDIR:
                self._opened.add((watch, events[at - length : at].rstrip(b"\0")))


def _kernel(node: Any) -> str:
    """Return a node's kernel: device, op, and the types that choose among its kernels."""
    from tensorflow.python.framework import dtypes  # noqa: PLC0415

    types = [
        f"{name}={dtypes.as_dtype(value.type).name}"
        for name, value in sorted(node.attr.items())
        if value.WhichOneof("value") == "type"
    ]
    device = node.device.rsplit("device:", 1)[-1].partition(":")[0]
    return " ".join((device, node.op, *types))


def _must_compile(node: Any) -> bool:
    """True for a function or node that is compiled by XLA as a whole."""
    return _MUST_COMPILE in node.attr and bool(node.attr[_MUST_COMPILE].b)


def _gpus() -> list[str]:
    import tensorflow as tf  # type: ignore  # noqa: PLC0415

    found = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        major, minor = details.get("compute_capability", (0, 0))
        found.append(f"{details.get('device_name', device.name)}, sm_{major}{minor}")
    return found


def _packages() -> dict[str, str]:
    """Return the versions of all installed distributions, by folder name, normalised."""
    found: dict[str, str] = {}
    for folder in (Path(path) for path in sys.path if Path(path).is_dir()):
        for entry in sorted(folder.iterdir()):
            match = _DISTRIBUTION.fullmatch(entry.name)
            if match:  # the first on the path is the one that is imported
                found.setdefault(_normalised(match["name"]), match["version"])
    return dict(sorted(found.items()))


def _normalised(name: str) -> str:
    """Return a distribution's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _mapped_files() -> Iterator[str]:
    """Yield the files that are mapped into this process."""
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        columns = line.split(None, 5)
        if len(columns) == 6 and columns[5].startswith("/"):
            yield columns[5]


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return the folders that lie in no other of them."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not any(_below(folder, other) for other in kept):
            kept.append(folder)
    return kept


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _device(folder: Path) -> int | None:
    try:
        return folder.lstat().st_dev
    except OSError:
        return None


def _errno_text() -> str:
    return os.strerror(ctypes.get_errno())
