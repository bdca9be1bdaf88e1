"""Slim a whole tree in place, several times over, and write down sizes, times and memory.

    python benchmarks/slim/bench_slim.py /path/to/stock/venv --out benchmarks/slim/results

The tree itself is never changed: each run works on a copy made of hard links, and the engine
replaces files by renaming. Every run is a fresh process. Needs as much disk as the slimmed tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy

SAMPLE_SECONDS = 0.1
LISTED_BYTES = 5_000_000


@dataclass
class Run:
    """One run. Bytes are 10^0, times are seconds, memory is summed over the run's processes.

    Memory is sampled ten times a second: `peak_private` counts what only these processes hold,
    `peak_resident` also pages of the files they have mapped, each page once.
    """

    arch: str
    files: int
    before: int
    after: int
    plan_seconds: float
    apply_seconds: float
    cpu_seconds: float
    peak_private: int
    peak_resident: int
    restored: int
    zstd10: int | None = None


def memory(pid: int) -> tuple[int, int]:
    """Private and proportional resident bytes of a process and its descendants."""
    private = resident = 0
    for process in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            private += 1024 * kilobytes["Private_Dirty"]
            resident += 1024 * kilobytes["Pss"]
    return private, resident


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process started, and theirs."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def child(tree: Path, arch: str) -> None:
    """Slim a tree and print what came of it (runs in a process of its own)."""
    peak = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak[:] = map(max, zip(peak, memory(os.getpid()), strict=True))

    threading.Thread(target=watch, daemon=True).start()
    start = time.monotonic()
    plan = make_plan(tree, make_policy("arch", parse_targets(arch)))
    planned = time.monotonic()
    outcome = apply_plan(plan, tree)
    end = time.monotonic()
    done.set()
    used = os.times()
    run = Run(
        arch=arch,
        files=len(plan.files),
        before=outcome.tree_before,
        after=outcome.tree_after,
        plan_seconds=round(planned - start, 2),
        apply_seconds=round(end - planned, 2),
        cpu_seconds=round(used.user + used.system + used.children_user + used.children_system, 2),
        peak_private=peak[0],
        peak_resident=peak[1],
        restored=len(outcome.restored),
    )
    print(json.dumps({"run": asdict(run), "outcome": outcome.model_dump()}))


def measure(source: Path, scratch: Path, arch: str, *, zstd: bool) -> tuple[Run, Outcome]:
    """Slim a copy of a tree made of hard links, in a fresh process."""
    tree = scratch / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-al", str(source), str(tree)], check=True)
    command = [sys.executable, __file__, "--child", str(tree), "--arch", arch]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    data = json.loads(answer)
    run = Run(**data["run"])
    run.zstd10 = compressed(tree) if zstd else None
    shutil.rmtree(tree)
    return run, Outcome.model_validate(data["outcome"])


def compressed(tree: Path) -> int:
    """Bytes of the tree as a tar compressed by zstd, level 10, one thread."""
    tar = subprocess.Popen(
        ["tar", "-C", str(tree), "--sort=name", "-cf", "-", "."], stdout=subprocess.PIPE
    )
    zstd = subprocess.Popen(
        ["zstd", "-10", "--single-thread", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE
    )
    assert zstd.stdout is not None
    return sum(len(chunk) for chunk in iter(lambda: zstd.stdout.read(1 << 20), b""))


def subset(source: Path, target: Path, count: int) -> None:
    """Link the `count` largest files of a tree into another folder."""
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(files, key=lambda p: (-p.stat().st_size, p))[:count]:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)


def growth(source: Path, scratch: Path, arch: str) -> list[dict[str, float]]:
    """Times from one library to all of the twenty-four largest files."""
    points = []
    for count in (1, 2, 4, 8, 16, 24):
        some = scratch / "some"
        shutil.rmtree(some, ignore_errors=True)
        subset(source, some, count)
        run, _ = measure(some, scratch, arch, zstd=False)
        seconds = run.plan_seconds + run.apply_seconds
        points.append(
            {
                "files": count,
                "bytes": run.before,
                "seconds": round(seconds, 2),
                "cpu_seconds": run.cpu_seconds,
                "megabytes_per_second": round(run.before / 1e6 / seconds, 1),
            }
        )
    shutil.rmtree(scratch / "some", ignore_errors=True)
    return points


def table(runs: list[tuple[Run, Outcome]]) -> list[str]:
    """Return the figures by library as a Markdown table."""
    heads = [run.arch for run, _ in runs]
    after: dict[str, dict[str, int]] = {}
    before: dict[str, int] = {}
    for run, outcome in runs:
        for item in outcome.files:
            name = item.path.split("site-packages/")[-1]
            before[name] = item.before
            after.setdefault(name, {})[run.arch] = item.after
    lines = ["| library | stock MB | " + " | ".join(f"sm {head}" for head in heads) + " |"]
    lines.append("|---|---:|" + "---:|" * len(heads))
    for name in sorted(before, key=lambda n: -before[n]):
        if before[name] >= LISTED_BYTES:
            cells = (after[name].get(head, before[name]) / 1e6 for head in heads)
            lines.append(
                f"| `{name}` | {before[name] / 1e6:.1f} | "
                + " | ".join(f"{cell:.1f}" for cell in cells)
                + " |"
            )
    total = runs[0][0].before / 1e6
    cells = (run.after / 1e6 for run, _ in runs)
    lines.append(
        f"| **whole tree** | {total:.1f} | " + " | ".join(f"{c:.1f}" for c in cells) + " |"
    )
    if any(run.zstd10 for run, _ in runs):
        sizes = (f"{run.zstd10 / 1e6:.1f}" if run.zstd10 else "not measured" for run, _ in runs)
        lines.append(
            "| whole tree as tar, zstd level 10 | not measured | " + " | ".join(sizes) + " |"
        )
    return lines


def command(given: argparse.Namespace, archs: list[str]) -> str:
    """Return what was asked for, without this machine's paths."""
    words = ["python benchmarks/slim/bench_slim.py TREE", *(f"--arch {arch}" for arch in archs)]
    words.append(f"--repeat {given.repeat}")
    return " ".join(words + ["--zstd"] * given.zstd)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, nargs="?")
    parser.add_argument("--arch", action="append", help="as `tfslim slim --cuda-arch`; repeatable")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the first architecture")
    parser.add_argument("--zstd", action="store_true", help="also compress (minutes)")
    parser.add_argument("--out", type=Path, default=Path("slim-benchmark"))
    parser.add_argument("--scratch", type=Path, help="folder on the tree's own file system")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.arch[0])
        return
    archs = given.arch or ["90", "80", "80,86,89,90", "all-major"]
    with tempfile.TemporaryDirectory(dir=given.scratch or given.tree.parent) as folder:
        scratch = Path(folder)
        runs = [measure(given.tree, scratch, arch, zstd=given.zstd) for arch in archs]
        more = [
            measure(given.tree, scratch, archs[0], zstd=False)[0] for _ in range(given.repeat - 1)
        ]
        points = growth(given.tree, scratch, archs[0])
    result = {
        "command": command(given, archs),
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": platform.processor() or platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "runs": [asdict(run) for run, _ in runs] + [asdict(run) for run in more],
        "growth": points,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "slim.json").write_text(json.dumps(result, indent=2) + "\n")
    (given.out / "slim.md").write_text("\n".join(table(runs)) + "\n")
    print((given.out / "slim.md").read_text())


if __name__ == "__main__":
    main()
