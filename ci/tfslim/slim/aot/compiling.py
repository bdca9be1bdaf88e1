"""Compile what a tree's GPUs would otherwise compile at first use, on all cores, once."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tfslim.slim.aot.ptxas import Ptxas
from tfslim.slim.aot.store import Store, key_of
from tfslim.slim.aot.wanted import FileWants, Module, ptx_text
from tfslim.slim.elf import Elf
from tfslim.slim.fatbin import parse_container
from tfslim.ui import Ui

__all__ = ["ArchSummary", "Cubin", "Made", "compile_all"]


class ArchSummary(BaseModel):
    """What was compiled for one architecture.

    Attributes:
        arch: As in "sm_90".
        modules: Containers whose PTX it would compile.
        programs: Different PTX among them, and what the next three add up to.
        compiled: Compiled now.
        from_cache: Compiled by an earlier run.
        failed: Not compiled; their PTX stays.
        ptx_bytes: Of the different PTX.
        cubin_bytes: Of the code.
        cpu_seconds: Of the compiler, over all cores.
        seconds: That it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    modules: int
    programs: int
    compiled: int
    from_cache: int
    failed: int
    ptx_bytes: int
    cubin_bytes: int
    cpu_seconds: float
    seconds: float


@dataclass(frozen=True)
class Cubin:
    """Code that was compiled for a module.

    Attributes:
        module: What from.
        key: Its name in the store.
        sha256: Its digest.
        size: Its bytes.
    """

    module: Module
    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Made:
    """What was compiled for a tree.

    Attributes:
        by_file: The code, by file.
        refused: Modules that stay PTX: count by (file, GPU, why).
        summary: By architecture, ascending.
    """

    by_file: dict[Path, tuple[Cubin, ...]]
    refused: dict[tuple[Path, int, str], int]
    summary: tuple[ArchSummary, ...]


@dataclass(frozen=True)
class _Program:
    """A PTX that is compiled once for all modules that hold it."""

    key: str
    path: Path
    module: Module


@dataclass(frozen=True)
class _Result:
    """What became of a program; `sha256` is empty where `why` says what went wrong."""

    sha256: str
    size: int
    cached: bool
    why: str = ""


def compile_all(
    wants: Sequence[FileWants],
    ptxas: Ptxas,
    store: Store,
    ui: Ui,
    *,
    timeout: float,
    jobs: int | None = None,
) -> Made:
    """Compile all modules that files want, each different one once.

    Args:
        wants: What files want.
        ptxas: The compiler.
        store: Where code is kept, and looked for first.
        ui: Shows progress.
        timeout: Seconds for one module.
        jobs: Modules at the same time; None for one per CPU that this process may use.

    Raises:
        SlimError: The compiler does not know one of the architectures.
        DiskError: The store cannot be written.
    """
    programs, count = _programs(wants, ptxas)
    ptxas.check(programs)
    done: dict[str, _Result] = {}
    summary = []
    for arch in sorted(programs, key=lambda arch: (len(arch), arch)):
        start, before = time.monotonic(), _children_seconds()
        results = _compile_arch(arch, programs[arch], ptxas, store, ui, timeout=timeout, jobs=jobs)
        done |= results
        summary.append(
            _summary(
                arch,
                programs[arch],
                results,
                modules=count[arch],
                cpu=_children_seconds() - before,
                seconds=time.monotonic() - start,
            )
        )
    return _made(wants, ptxas, done, tuple(summary))


def _children_seconds() -> float:
    """Return the CPU time of all processes that ended as this one's children (seconds)."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _key(module: Module, ptxas: Ptxas) -> str:
    return key_of(module.sha256, ptxas.version, module.arch, module.options)


def _programs(
    wants: Iterable[FileWants], ptxas: Ptxas
) -> tuple[dict[str, list[_Program]], Counter[str]]:
    """Return the different programs by architecture, the largest first, and modules of each."""
    count: Counter[str] = Counter()
    found: dict[str, dict[str, _Program]] = defaultdict(dict)
    for item in wants:
        for module in item.modules:
            count[module.arch] += 1
            key = _key(module, ptxas)
            found[module.arch].setdefault(key, _Program(key, item.path, module))
    return {
        arch: sorted(programs.values(), key=lambda program: -program.module.size)
        for arch, programs in found.items()
    }, count


def _compile_arch(
    arch: str,
    programs: Sequence[_Program],
    ptxas: Ptxas,
    store: Store,
    ui: Ui,
    *,
    timeout: float,
    jobs: int | None,
) -> dict[str, _Result]:
    title = f"Compiling {len(programs)} modules for {arch} (ptxas {ptxas.version})"
    results: dict[str, _Result] = {}
    workers = jobs or len(os.sched_getaffinity(0))
    stop = threading.Event()
    with (
        ui.step(title, float(sum(program.module.size for program in programs))) as step,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures: dict[Future[_Result], _Program] = {}
        try:
            for program in programs:
                cubin = store.get(program.key)
                if cubin is not None:
                    results[program.key] = _result(cubin, cached=True)
                    step.advance(program.module.size)
                    continue
                work = pool.submit(_compile_one, program, ptxas, store, timeout, stop)
                futures[work] = program
            for future in as_completed(futures):
                program = futures[future]
                results[program.key] = future.result()
                step.update(f"{len(results)} of {len(programs)}: {program.path.name}")
                step.advance(program.module.size)
        except BaseException:  # ctrl-C: what is done is kept, what runs is ended
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _compile_one(
    program: _Program, ptxas: Ptxas, store: Store, timeout: float, stop: threading.Event
) -> _Result:
    module = program.module
    made = ptxas.compile(_text(program), module.arch, module.options, timeout=timeout, stop=stop)
    if made.cubin is None:
        return _Result("", 0, cached=False, why=made.why)
    store.put(program.key, made.cubin)
    return _result(made.cubin, cached=False)


def _result(cubin: bytes, *, cached: bool) -> _Result:
    return _Result(hashlib.sha256(cubin).hexdigest(), len(cubin), cached)


def _text(program: _Program) -> bytes:
    """Read a PTX again where it was found."""
    with Elf(program.path) as elf:
        container = parse_container(elf.data, program.module.container, elf.size)
        return ptx_text(elf.data, container.entries[program.module.entry])


def _summary(
    arch: str,
    programs: Sequence[_Program],
    results: Mapping[str, _Result],
    *,
    modules: int,
    cpu: float,
    seconds: float,
) -> ArchSummary:
    return ArchSummary(
        arch=arch,
        modules=modules,
        programs=len(programs),
        compiled=sum(not one.cached and not one.why for one in results.values()),
        from_cache=sum(one.cached for one in results.values()),
        failed=sum(bool(one.why) for one in results.values()),
        ptx_bytes=sum(program.module.size for program in programs),
        cubin_bytes=sum(one.size for one in results.values()),
        cpu_seconds=round(cpu, 2),
        seconds=round(seconds, 2),
    )


def _made(
    wants: Sequence[FileWants],
    ptxas: Ptxas,
    done: Mapping[str, _Result],
    summary: tuple[ArchSummary, ...],
) -> Made:
    refused: Counter[tuple[Path, int, str]] = Counter()
    by_file: dict[Path, tuple[Cubin, ...]] = {}
    for item in wants:
        cubins: list[Cubin] = []
        for (sm, why), count in item.refused.items():
            refused[item.path, sm, why] += count
        for module in item.modules:
            key = _key(module, ptxas)
            result = done[key]
            if result.why:
                refused[item.path, module.sm, result.why] += 1
            else:
                cubins.append(Cubin(module, key, result.sha256, result.size))
        if cubins:
            by_file[item.path] = tuple(cubins)
    return Made(by_file, dict(refused), summary)
