"""Pack the relative relocations of a slim tree's libraries: bytes, and seconds to open them.

    tfslim slim STOCK --output SLIM --profile inference --cuda-arch 90 --keep relr
    python benchmarks/slim/bench_relr.py SLIM --out benchmarks/slim/results/relr.json

The tree is never changed: a copy made of hard links gets the packed libraries. Each library is then
opened, by turns from both trees, in processes of their own; what counts is the processor's time
within `dlopen`, constructors of the library and of those it needs included. Files are in the page
cache; what a first start reads from disk is not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import zstandard

from tfslim.slim import relr
from tfslim.slim.apply import write_pieces
from tfslim.slim.cuts import FileCuts
from tfslim.slim.elf import Elf, FormatRefusedError
from tfslim.slim.layout import lay_out
from tfslim.slim.rules import load_profile
from tfslim.slim.scan import is_elf
from tfslim.slim.tree import TreeFile, tree_files
from tfslim.slim.verify import verify_file

PACKED = FileCuts(packed=True)
LEVEL = 10
OPEN = """
import ctypes, json, resource, sys, time
start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
ctypes.CDLL(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.process_time() - start, after.ru_minflt - before.ru_minflt]))
"""
IMPORT = """
import json, os, resource, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF)
import tensorflow
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.process_time() - start, after.ru_minflt - before.ru_minflt]))
"""


def zstd_bytes(path: Path) -> int:
    """Bytes of a file when a layer stores it."""
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    with path.open("rb") as file:
        return sum(
            len(compressor.compress(part)) for part in iter(lambda: file.read(1 << 22), b"")
        ) + len(compressor.flush())


def pack(path: Path, least: int) -> tuple[int, str]:
    """Pack a library where it lies; return how many relocations, or why it stays as it is."""
    aside = path.with_name(f".{path.name}.packed")
    with Elf(path) as elf:
        count, saved = relr.saving(elf)
        if saved < least:
            return 0, ""
        if why := relr.refusal(elf):
            return 0, why
        write_pieces(path, lay_out(elf, PACKED).pieces, aside)
    if problems := verify_file(path, aside, PACKED):
        aside.unlink()
        return 0, "; ".join(problems)
    aside.chmod(path.stat().st_mode)
    aside.replace(path)
    return count, ""


def launch(tree: Path, code: str, *arguments: str) -> tuple[float, int] | None:
    """Run code in a tree's Python; None where it fails."""
    folders = sorted(tree.glob("lib/python3*/site-packages/nvidia/*/lib"))
    done = subprocess.run(
        [str(tree / "bin" / "python"), "-c", code, *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    seconds, faults = json.loads(done.stdout.splitlines()[-1])
    return seconds, faults


def by_turns(trees: Sequence[Path], code: str, path: str, launches: int) -> dict[str, object]:
    """Launch in both trees by turns; the first pair warms up and does not count."""
    found: list[list[tuple[float, int]]] = [[], []]
    for turn in range(launches + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            arguments = [str(trees[side] / path)] if path else []
            result = launch(trees[side], code, *arguments)
            if result is None:
                return {"fails": True}
            if turn:
                found[side].append(result)
    before, after = ([round(seconds, 4) for seconds, _ in side] for side in found)
    faults = [statistics.median(fault for _, fault in side) for side in found]
    return {
        "cpu_seconds_before": before,
        "cpu_seconds_after": after,
        "median_before": statistics.median(before),
        "median_after": statistics.median(after),
        "page_faults_before": faults[0],
        "page_faults_after": faults[1],
    }


def libraries(tree: Path) -> list[TreeFile]:
    """Return the tree's ELF files that the rule may touch, the largest first."""
    rule = load_profile("inference").relr_rule
    assert rule is not None
    return sorted(
        (
            item
            for item in tree_files(tree)
            if item.size > rule.least
            and rule.applies(PurePosixPath(item.names[0]))
            and is_elf(item.at(tree))
        ),
        key=lambda item: -item.size,
    )


def measured(tree: Path, copy: Path, launches: int, *, zstd: bool) -> list[dict[str, object]]:
    """Pack every library of the copy, and open each in both trees."""
    rule = load_profile("inference").relr_rule
    assert rule is not None
    rows: list[dict[str, object]] = []
    for item in libraries(tree):
        path = item.names[0]
        try:
            count, why = pack(copy / path, rule.least)
        except FormatRefusedError as refusal:
            count, why = 0, str(refusal)
        if not count:
            if why:
                print(f"{path}: {why}", flush=True)
            continue
        row: dict[str, object] = {"path": path, "packed": count, "before": item.size}
        row["after"] = (copy / path).stat().st_size
        if zstd:
            row["zstd_before"], row["zstd_after"] = (zstd_bytes(t / path) for t in (tree, copy))
        rows.append(row)
        print(json.dumps(row), flush=True)
    for row in rows:
        row["open"] = by_turns((tree, copy), OPEN, str(row["path"]), launches)
        print(row["path"], row["open"], flush=True)
    return rows


def main() -> None:
    """Measure a tree and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--launches", type=int, default=9)
    parser.add_argument("--no-zstd", action="store_true")
    options = parser.parse_args()
    tree = options.tree.absolute()
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        copy = Path(folder) / tree.name
        subprocess.run(["cp", "-al", str(tree), str(copy)], check=True)
        rows = measured(tree, copy, options.launches, zstd=not options.no_zstd)
        imports = by_turns((tree, copy), IMPORT, "", options.launches)
    sums = {name: sum(int(str(row[name])) for row in rows) for name in ("before", "after")}
    result = {
        "command": "python benchmarks/slim/bench_relr.py SLIM --out FILE",
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "libc": platform.libc_ver(),
        },
        "launches_each": options.launches,
        "libraries": rows,
        "bytes": sums | {"saved": sums["before"] - sums["after"]},
        "import_tensorflow": imports,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["bytes"]), imports)


if __name__ == "__main__":
    main()
