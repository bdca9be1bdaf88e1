"""Host code put aside: the same answers from models that were not looked at, and what it costs.

From a stock environment two slim trees are made: one whole, one whose host code is put aside with
only demo:mobilenet looked at. Then all other models (the zoo, demo:basic-pitch and those of
more_models.py) are compared with the stock environment, bit for bit, and launches of both trees
take turns.

Usage: python prove.py STOCK WORK [--launches 7] [-o RESULT.json]   (with tfslim installed)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tfslim.bench.stats import ratio_of_medians
from tfslim.models import mobilenet_command, resolve_model
from tfslim.parity.touching import touched_pages
from tfslim.slim.cold.apply import put_aside
from tfslim.ui import Ui

LOOKED_AT, NOT_LOOKED_AT = "demo:mobilenet", "demo:basic-pitch"
START = """
import os, sys, time
start = time.monotonic()
import numpy as np, tensorflow as tf
imported = time.monotonic()
sys.path.insert(0, sys.argv[2])
from tfserve_app.tensorflow_backend import TensorFlowBackend
from tfserve_app.service import zeros
from pathlib import Path
backend = TensorFlowBackend(Path(sys.argv[1]), lambda line: None)
loaded = time.monotonic()
name, signature = next(iter(backend.signatures.items()))
backend.predict(name, zeros(signature))
first = time.monotonic()
backend.predict(name, zeros(signature))
second = time.monotonic()
rss = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))
print(imported - start, loaded - imported, first - loaded, second - first, first - start)
print(rss * 1024)
sys.stdout.flush()
os._exit(0)
"""
FIELDS = (
    "import_s",
    "load_s",
    "first_answer_s",
    "second_answer_s",
    "to_first_answer_s",
    "rss_bytes",
)
SERVICE = Path(__file__).resolve().parents[2] / "dockerfiles" / "app"


def tfslim(*arguments: object) -> int:
    """Run tfslim and return its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "tfslim", *map(str, arguments)], check=False
    ).returncode


def make_mobilenet(stock: Path, state: Path) -> None:
    """Make the model that is looked at with the stock environment, where it is not there yet."""
    made = Path(mobilenet_command(str(state / "models"))[-1])
    if not made.is_dir():
        made.parent.mkdir(parents=True, exist_ok=True)
        script = SERVICE / "make_mobilenet.py"
        subprocess.run([stock / "bin" / "python", script, made], check=True)


def make_trees(stock: Path, work: Path, ui: Ui) -> tuple[Path, Path, dict[str, Any]]:
    """Return a slim tree, the same with its host code aside, and what became of the library."""
    whole, cold = work / "whole", work / "cold"
    if not cold.is_dir():
        for old in (whole, work / "cold.new"):
            shutil.rmtree(old, ignore_errors=True)
        options = ("--cuda-arch", "90", "--profile", "inference", "--output", whole)
        if tfslim("slim", stock, *options):
            sys.exit("slimming failed")
        subprocess.run(["cp", "-al", whole, work / "cold.new"], check=True)
        new = work / "cold.new"

        def run() -> set[int]:
            return touched_pages(new, [LOOKED_AT], work / "state", ui, zoo=False)

        (became,) = put_aside(new, run, ui)
        (work / "became.json").write_text(became.model_dump_json(), encoding="utf-8")
        new.rename(cold)
    return whole, cold, json.loads((work / "became.json").read_text(encoding="utf-8"))


def compare(stock: Path, cold: Path, work: Path) -> dict[str, str]:
    """Return the outcome for each model that was not looked at."""
    made = work / "more"
    if not made.is_dir():
        script = Path(__file__).with_name("more_models.py")
        subprocess.run(
            [stock / "bin" / "python", script, made], check=True, stdout=subprocess.DEVNULL
        )
    more = [part for path in sorted(made.iterdir()) for part in ("--model", path)]
    outcomes = {}
    for name, models in (("zoo", []), ("more", [*more, "--model", NOT_LOOKED_AT])):
        verdict = work / f"{name}.json"
        tfslim("verify", stock, cold, "--gpu", "off", "--output", verdict, *models)
        for model in json.loads(verdict.read_text(encoding="utf-8"))["models"]:
            outcomes[model["name"]] = model["outcome"]
    return outcomes


def start(tree: Path, model: Path, log: Path | None = None) -> dict[str, float]:
    """Start a process in a tree, load a model, ask twice; return seconds and bytes."""
    env = {"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if log is not None:
        env["TFSLIM_COLD_LOG"] = str(log)
    done = subprocess.run(
        [tree / "bin" / "python", "-I", "-c", START, model, SERVICE],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(zip(FIELDS, map(float, done.stdout.split()), strict=True))


def launches(whole: Path, cold: Path, model: Path, count: int) -> dict[str, Any]:
    """Return what `count` launches of each tree, taking turns, say about a model."""
    start(whole, model), start(cold, model)  # both are in the page cache from here on
    runs: dict[str, list[dict[str, float]]] = {"whole": [], "cold": []}
    for turn in range(count):
        sides = [("whole", whole), ("cold", cold)]
        for name, tree in sides if turn % 2 else reversed(sides):
            runs[name].append(start(tree, model))
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        start(cold, model, log)
        brought_back = len(log.read_text().split()) if log.is_file() else 0
    result: dict[str, Any] = {"launches": count, "chunks_brought_back": brought_back}
    for field in FIELDS:
        values = {name: [run[field] for run in found] for name, found in runs.items()}
        ratio = ratio_of_medians(values["cold"], values["whole"])
        result[field] = {
            "whole": statistics.median(values["whole"]),
            "cold": statistics.median(values["cold"]),
            "ratio": [ratio.value, ratio.low, ratio.high] if ratio else None,
        }
    return result


def main() -> None:
    """Make, compare, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stock", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--launches", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    stock, work, ui = options.stock.absolute(), options.work.absolute(), Ui()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)  # the zoo and demonstration models are kept below it
    make_mobilenet(stock, work / "state")
    whole, cold, became = make_trees(stock, work, ui)
    outcomes = compare(stock, cold, work)
    starts = {
        source: launches(
            whole, cold, resolve_model(source, work / "state" / "models", ui).path, options.launches
        )
        for source in (LOOKED_AT, NOT_LOOKED_AT)
    }
    result = {
        "machine": {"python": platform.python_version(), "cpus": len(os.sched_getaffinity(0))},
        "looked_at": LOOKED_AT,
        "library": became,
        "not_looked_at": outcomes,
        "passed": sum(outcome == "passed" for outcome in outcomes.values()),
        "starts": starts,
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
