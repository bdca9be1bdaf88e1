"""What compiling PTX ahead of time takes and gives: modules, failures, CPU seconds, bytes.

Usage: python measure.py TREE [--cuda-arch 90]… [--ptxas PATH] [--cache FOLDER] [-o FOLDER]

TREE is a virtual environment with tensorflow[and-cuda]; it is not changed. Its libraries are copied
(hard links where that is possible) and slimmed with profile arch for each GPU, without and with
--aot: once with an empty cache, and the plan once more out of the cache. (--cache keeps what was
compiled; CPU seconds are then those of what was not there yet.) Every file is proved while it is
written, so a result is also a proof; what a GPU says of the code is not measured here. Writes
aot.json and aot.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tfslim.report.machine import environment
from tfslim.slim.aot.settings import Settings
from tfslim.slim.apply import apply_plan
from tfslim.slim.archs import parse_targets
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import make_policy
from tfslim.ui import Ui

GPUS = ("90", "100", "120")


def main(arguments: Sequence[str]) -> int:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("--cuda-arch", action="append", help=f"default: {', '.join(GPUS)}")
    parser.add_argument("--ptxas", type=Path, help="in place of the tree's own")
    parser.add_argument("--cache", type=Path, help="keep what is compiled")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args(arguments)
    gpus = asked.cuda_arch or list(GPUS)
    options = "".join(f" --cuda-arch {gpu}" for gpu in gpus)
    machine = environment(None, "not measured: no GPU code was run")
    document = {
        "command": f"python benchmarks/aot/measure.py TREE{options}"
        + (" --ptxas PATH" if asked.ptxas else "")
        + (" --cache FOLDER" if asked.cache else ""),
        "tensorflow": _version(asked.tree, "tensorflow"),
        "machine": {
            "cpus": machine.cpus,
            "cpu": machine.cpu,
            "system": platform.system(),
        },
        "on_a_gpu": "not measured: there was none",
        "runs": [measured(asked.tree, gpu, asked.ptxas, asked.cache) for gpu in gpus],
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "aot.json").write_text(json.dumps(document, indent=1) + "\n")
    text = table(document)
    (asked.output / "aot.md").write_text(text)
    sys.stdout.write(text)
    return 0


def measured(tree: Path, gpu: str, ptxas: Path | None, kept: Path | None) -> dict[str, Any]:
    """Slim the libraries of a tree for one GPU (or several), with and without compiling."""
    ui = Ui()
    with libraries(tree) as copy, tempfile.TemporaryDirectory(prefix="aot-cache-") as cache:
        plain = planned(copy, gpu, None, ui)
        settings = Settings(ptxas, kept or Path(cache))
        plan = planned(copy, gpu, settings, ui)
        started = time.monotonic()
        again = planned(copy, gpu, settings, ui)
        seconds = time.monotonic() - started
        outcome = apply_plan(plan, copy, ui=ui)
        assert plan.aot is not None
        assert again.aot is not None
        return {
            "cuda_arch": gpu,
            "ptxas": plan.aot.ptxas,
            "compiled_at_first_use_before": plain.jit,
            "compiled_at_first_use_after": plan.jit,
            "archs": [one.model_dump() for one in plan.aot.archs],
            "from_cache_again": sum(one.from_cache for one in again.aot.archs),
            "plan_from_cache_seconds": round(seconds, 1),
            "stayed_ptx": [
                f"{Path(note.path).name}: {note.why}" for note in plan.notes if "PTX" in note.why
            ],
            "added_raw": _added(plan, "none"),
            "added_lz4": _added(plan, "lz4"),
            "libraries": sizes(plain, plan),
            "states": sorted({item.state for item in outcome.files}),
            "loader": sorted({item.loader for item in outcome.files if item.loader}),
            "restored": [item.path for item in outcome.restored],
        }


def planned(tree: Path, gpu: str, aot: Settings | None, ui: Ui) -> Plan:
    """Return the plan for a GPU, compiling where `aot` says how."""
    also = ("aot",) if aot else ()
    return make_plan(
        tree, make_policy("arch", parse_targets(gpu), keep=("guard",), also=also, aot=aot), ui=ui
    )


def sizes(plain: Plan, plan: Plan) -> dict[str, dict[str, int]]:
    """Return the bytes of each library into which code was put, before and after."""
    without = {item.path: item.after for item in plain.files}
    return {
        item.path: {
            "stock_bytes": item.size,
            "arch_bytes": without.get(item.path, item.size),
            "aot_bytes": item.after,
            "modules": len(item.cuts.compiled),
        }
        for item in plan.files
        if item.cuts.compiled
    }


def _added(plan: Plan, packed: str) -> dict[str, int]:
    new = [one for item in plan.files for one in item.cuts.compiled if one.packed == packed]
    return {"modules": len(new), "bytes": sum(one.size for one in new)}


@contextmanager
def libraries(tree: Path) -> Iterator[Path]:
    """Give a folder with the tree's shared libraries and its ptxas, under the same names."""
    with tempfile.TemporaryDirectory(prefix=".aot-", dir=tree.absolute().parent) as folder:
        copy = Path(folder, "tree")
        for path in sorted(tree.rglob("*")):
            wanted = ".so" in path.name or path.name == "ptxas"
            if not wanted or path.is_symlink() or not path.is_file():
                continue
            target = copy / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:
                shutil.copy2(path, target)
        yield copy


def _version(tree: Path, name: str) -> str:
    found = metadata.distributions(
        name=name, path=[str(site) for site in tree.glob("lib/python3*/site-packages")]
    )
    return next((one.version for one in found), "unknown")


def table(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = [
        "| GPU | modules | programs | compiled | from cache | failed | stay PTX "
        "| PTX, MB | machine code, MB | CPU s | s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in document["runs"]:
        left = sum(run["compiled_at_first_use_after"].values())
        rows += [
            f"| {one['arch']} | {one['modules']} | {one['programs']} | "
            f"{one['compiled']} | {one['from_cache']} | {one['failed']} | "
            f"{left} | {one['ptx_bytes'] / 1e6:.1f} | {one['cubin_bytes'] / 1e6:.1f} | "
            f"{one['cpu_seconds']:.0f} | {one['seconds']:.0f} |"
            for one in run["archs"]
        ]
    rows += ["", "| GPU | library | stock, MB | profile arch, MB | with --aot, MB |"]
    rows.append("|---|---|---:|---:|---:|")
    for run in document["runs"]:
        for path, size in run["libraries"].items():
            figures = (size["stock_bytes"], size["arch_bytes"], size["aot_bytes"])
            shown = " | ".join(f"{figure / 1e6:.1f}" for figure in figures)
            rows.append(f"| {run['cuda_arch']} | {Path(path).name} | {shown} |")
    return "\n".join([*rows, "", f"`{document['command']}`", ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
