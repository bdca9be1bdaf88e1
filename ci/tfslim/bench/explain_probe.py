"""Takes a start of Python apart. Runs inside an image, by its own Python (3.8 or newer), alone.

    probe.py explain JSON   {"code": …, "rounds": …}: run the code in processes of its own, in turn
                            with and without each lever, and print what was found, as JSON
    probe.py count FD CODE  run the code and write what it opened, looked up and collected
    probe.py once CODE      run the code in this process and print how long that was, and what was
                            read from storage: for a start out of an empty page cache

All times are seconds. Nothing is written but the answers; no other program is needed.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
import time
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SECONDS = 300
IMPORTS = 25
TENSORFLOW = "import tensorflow"
LIBRARY = "libtensorflow_cc.so.2"
HIDING = "exported-names"  # the rule that hides symbols
NATIVE = "native"  # the rule that takes Python's TensorFlow out and leaves a stand-in
BYTECODE = "/tmp/tfslim-bytecode"  # noqa: S108 (of a container made for this)
PREFETCH = "/usr/share/tfslim/prefetch"
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")
_FINAL = re.compile(r"final number of relocations(?P<cache> from cache)?: (?P<count>\d+)")
# A process ends at `done`; what follows up to its exit is the interpreter's teardown.
_RUN = """\
import os as _os, time as _time
_begun = _time.monotonic(), _time.process_time()
{before}
{code}
_done = _time.monotonic(), _time.process_time()
_os.write({fd}, repr((*_begun, *_done)).encode())
{after}
"""


def main() -> None:
    """Do one of the three."""
    if sys.argv[1] == "count":
        count(int(sys.argv[2]), sys.argv[3])
    if sys.argv[1] == "once":
        once(sys.argv[2])
    asked = json.loads(sys.argv[2])
    print(json.dumps(explain(asked["code"], asked["rounds"])), flush=True)


def explain(code: str, rounds: int) -> dict[str, Any]:
    """Return everything about a start."""
    native = bool(followed(NATIVE))
    there = bool(importlib.util.find_spec("tensorflow")) and not native
    code = code or (TENSORFLOW if there else opening() if native else "") or "pass"
    told = run([sys.executable, "-c", code])
    if told.returncode:
        return {"code": code, "failed": told.stderr[-2000:]}
    counts = counted(code)
    complete = not {"missing", "stale"} & set(counts["bytecode"])
    return {
        "code": code,
        "failed": "",
        "tensorflow": there,
        "interpreter": interpreter(),
        "imports": imports(code),
        "counts": counts,
        "relocations": relocations(code),
        "times": in_turn(variations(code, complete=complete), rounds),
    }


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a process to its end."""
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=SECONDS,
    )


# ---- what is there ----


def interpreter() -> dict[str, Any]:
    """Return how the interpreter was built, and what of ours is beside TensorFlow."""
    known = sysconfig.get_config_vars()
    flags = " ".join(str(known.get(key, "")) for key in ("CONFIG_ARGS", "PGO_PROF_USE_FLAG"))
    all_flags = " ".join(str(value) for value in known.values())
    return {
        "version": sys.version.split()[0],
        "executable": sys.executable,
        "base": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        "distribution": system(),
        "pgo": "--enable-optimizations" in flags or "-fprofile-" in str(known.get("PY_CFLAGS")),
        "lto": "--with-lto" in flags or "-flto" in all_flags,
        "path": sys.path[1:],
        "pth": [name for path in sys.path for name in listed(path) if name.endswith(".pth")],
        "collector_rests": any("_tfslim_start.py" in listed(path) for path in sys.path),
        "prefetch": os.path.exists(PREFETCH),
        "hidden": followed(HIDING),
        "native": bool(followed(NATIVE)),
    }


def system() -> str:
    """Return the distribution's id, empty where nothing says it."""
    try:
        with open("/etc/os-release", encoding="utf-8") as lines:
            return next((line[3:].strip().strip('"') for line in lines if line[:3] == "ID="), "")
    except OSError:
        return ""


def listed(path: str) -> list[str]:
    """Return the names in a folder of sys.path."""
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def followed(rule: str) -> bool | None:
    """True where `tfslim slim` has followed a rule; None where it has not been at all."""
    for path in sys.path:
        try:
            with open(os.path.join(path, "_tfslim.json"), encoding="utf-8") as text:
                return rule in json.load(text)["rules"]
        except (OSError, ValueError, KeyError):
            continue
    return None


# ---- imports ----


def imports(code: str) -> dict[str, Any]:
    """Return the modules that took longest, by themselves and with what they import."""
    told = run([sys.executable, "-c", code], PYTHONPROFILEIMPORTTIME="1")
    found = [match.groups() for match in _IMPORT.finditer(told.stderr)]
    rows = [(name, int(own) / 1e6, int(total) / 1e6, len(deep)) for own, total, deep, name in found]
    alone = sorted(rows, key=lambda row: -row[1])[:IMPORTS]
    whole = sorted((row for row in rows if row[3] <= 2 * 4), key=lambda row: -row[2])[:IMPORTS]
    return {
        "modules": len(rows),
        "self": [{"name": row[0], "seconds": row[1]} for row in alone],
        "cumulative": [{"name": row[0], "seconds": row[2]} for row in whole],
    }


# ---- counting ----


def counted(code: str) -> dict[str, Any]:
    """Return what a process counted that ran the code."""
    reader, writer = os.pipe()
    command = [sys.executable, __file__, "count", str(writer), code]
    process = subprocess.Popen(
        command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    process.wait(SECONDS)
    return json.loads(text) if text else {}


def count(fd: int, code: str) -> None:
    """Run code; write what was opened, how often paths were looked up, what the collector did."""
    opened: set[str] = set()
    stats, loading, collector = [0], [0.0], [0, 0.0, 0.0]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened.add(arguments[0])

    def stat(path: str) -> Any:
        stats[0] += 1
        return real_stat(path)

    def load(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return real_load(*arguments)
        finally:
            loading[0] += time.perf_counter() - start

    def collected(phase: str, _: Any) -> None:
        if phase == "start":
            collector[2] = time.perf_counter()
        else:
            collector[0] += 1
            collector[1] += time.perf_counter() - collector[2]

    bootstrap: Any = import_module("importlib._bootstrap_external")
    real_stat, real_load = bootstrap._path_stat, bootstrap._imp.create_dynamic
    bootstrap._path_stat, bootstrap._imp.create_dynamic = stat, load
    sys.addaudithook(hear)
    gc.callbacks.append(collected)
    before, read_before = resource.getrusage(resource.RUSAGE_SELF), bytes_read()
    exec(compile(code, "<start>", "exec"), {"__name__": "__main__"})  # noqa: S102
    after = resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "opened": by_suffix(opened),
        "stat_calls": stats[0],
        "loading_libraries_s": loading[0],
        "libraries": len(mapped_libraries()),
        "collections": collector[0],
        "collector_s": collector[1],
        "read_bytes": bytes_read() - read_before,
        "resident_bytes": after.ru_maxrss * 1024,
        "major_faults": after.ru_majflt - before.ru_majflt,
        "minor_faults": after.ru_minflt - before.ru_minflt,
        "bytecode": bytecode(),
    }
    os.write(fd, json.dumps(answer).encode())
    os._exit(0)


def by_suffix(paths: Iterable[str]) -> dict[str, int]:
    """Return how many paths have which suffix."""
    counts: dict[str, int] = {}
    for path in paths:
        suffix = os.path.splitext(path)[1] or "other"
        counts[suffix] = counts.get(suffix, 0) + 1
    return counts


def bytes_read() -> int:
    """Return the bytes that this process read by calls, out of memory or not (rchar)."""
    try:
        with open("/proc/self/io", encoding="ascii") as lines:
            return int(next(lines).split()[1])
    except OSError:
        return 0


def mapped_libraries() -> set[str]:
    """Return the shared libraries that are loaded."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return {line.split()[-1] for line in lines if ".so" in line}


def bytecode() -> dict[str, int]:
    """Return how many of the modules that were imported have bytecode of which kind."""
    kinds: dict[str, int] = {}
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        origin, cached = getattr(spec, "origin", None), getattr(spec, "cached", None)
        if isinstance(origin, str) and origin.endswith(".py") and isinstance(cached, str):
            kind = kind_of(origin, cached)
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def kind_of(source: str, cached: str) -> str:
    """Return missing, stale, unchecked, or how Python checks it at every start (PEP 552)."""
    try:
        with open(cached, "rb") as file:
            head = file.read(16)
        flags = int.from_bytes(head[4:8], "little")
        if head[:4] != importlib.util.MAGIC_NUMBER:
            return "stale"
        if flags & 1:
            return "checked by content" if flags & 2 else "unchecked"
        said = os.stat(source)
        fields = (int(said.st_mtime) & 0xFFFFFFFF, said.st_size & 0xFFFFFFFF)
        now = tuple(int.from_bytes(head[at : at + 4], "little") for at in (8, 12))
    except OSError:
        return "missing"
    return "checked by time" if fields == now else "stale"


def once(code: str) -> None:
    """Run code in this process; print the seconds since the process began, and what was read."""
    exec(compile(code, "<start>", "exec"), {"__name__": "__main__"})  # noqa: S102
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/stat", encoding="utf-8") as stat:
        began = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    answer = {
        "start_s": time.clock_gettime(time.CLOCK_BOOTTIME) - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "read_bytes": used.ru_inblock * 512,
        "major_faults": used.ru_majflt,
    }
    print(json.dumps(answer), flush=True)
    os._exit(0)


# ---- the dynamic loader ----


def relocations(code: str) -> dict[str, int]:
    """Return what glibc's loader counts in the process (LD_DEBUG=statistics); zeros elsewhere."""
    told = run([sys.executable, "-c", code], LD_DEBUG="statistics")
    found = {"looked_up": 0, "from_cache": 0}
    for match in _FINAL.finditer(told.stderr):  # the last lines are those of the end
        found["from_cache" if match["cache"] else "looked_up"] = int(match["count"])
    return found


# ---- times, with and without ----


def variations(code: str, *, complete: bool) -> dict[str, dict[str, Any]]:
    """Return the ways to run the code, by name; the fields are those of `timed`.

    Args:
        code: What is run.
        complete: Whether all bytecode is there: what it saves is then seen without it, and else
            with a copy that the first run makes.
    """
    here = {"PYTHONPYCACHEPREFIX": BYTECODE, "PYTHONDONTWRITEBYTECODE": ""}
    nowhere = {"PYTHONPYCACHEPREFIX": "/nonexistent"}
    if not complete:
        run([sys.executable, "-c", code], **here)
    return {
        "as it is": {"code": code},
        "collector rests": {"code": code, "before": "import gc; gc.set_threshold(0)"},
        "collector works": {"code": code, "env": {"TFSLIM_GC": "off"}},
        "no bytecode" if complete else "all bytecode": {
            "code": code,
            "env": nowhere if complete else here,
            "most": 3,
        },
        "imports at once": {"code": code, "env": {"TFSLIM_LAZY": "off"}},
        "no teardown": {"code": code, "after": "_os._exit(0)"},
        **library_alone(code),
    }


def library_alone(code: str) -> dict[str, dict[str, Any]]:
    """Return the way to open TensorFlow's library and import nothing, as the C API is used.

    Empty where the code does more than to import TensorFlow, or the package has no such library.
    """
    line = opening() if code.strip() == TENSORFLOW else ""
    return {"library alone": {"code": line}} if line else {}


def opening() -> str:
    """Return the code that opens TensorFlow's library; empty where it is not."""
    found = importlib.util.find_spec("tensorflow")
    folders = list(found.submodule_search_locations or ()) if found else []
    paths = [os.path.join(folder, LIBRARY) for folder in folders]
    path = next(filter(os.path.exists, paths), "")
    return f"import ctypes; ctypes.CDLL({path!r})" if path else ""


def in_turn(ways: dict[str, dict[str, Any]], rounds: int) -> dict[str, list[Any]]:
    """Run each way in each round, beginning with another one each time."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if turn < ways[name].get("most", rounds):
                found[name].append(timed(**ways[name]))
    return found


def timed(
    code: str,
    before: str = "",
    after: str = "",
    env: dict[str, str] | None = None,
    most: int = 0,  # noqa: ARG001 (read by in_turn)
) -> dict[str, float]:
    """Run the code once; return the seconds of interpreter, code and teardown, and of processor."""
    reader, writer = os.pipe()
    text = _RUN.format(before=before, code=code, after=after, fd=writer)
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, **(env or {})},
        pass_fds=[writer],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    _, _, used = os.wait4(process.pid, 0)
    end = time.monotonic()
    process.returncode = 0  # reaped above, with what it used
    with os.fdopen(reader, "rb") as answer:
        begun, begun_cpu, done, done_cpu = numbers(answer.read())
    return {
        "interpreter_s": begun - start,
        "code_s": done - begun,
        "code_cpu_s": done_cpu - begun_cpu,
        "teardown_s": end - done,
        "cpu_s": used.ru_utime + used.ru_stime,
        "major_faults": used.ru_majflt,
        "read_bytes": used.ru_inblock * 512,
    }


def numbers(text: bytes) -> Iterable[float]:
    """Return the numbers of a tuple's repr."""
    return [float(part) for part in text.decode().strip("()").split(",")]


if __name__ == "__main__":
    main()
