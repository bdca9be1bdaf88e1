"""What HTTP costs at a start: imports in fresh processes, side by side, taking turns.

    python benchmarks/service/imports.py --python PYTHON [--rounds 20]

PYTHON has app/requirements.txt, NumPy and, for the comparison, `fastapi` (which brings Starlette).
NumPy is imported in every case and is the baseline: a model's answers need it anyway.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess

from running import APP, machine, write

_UVICORN = "import uvicorn, uvicorn.protocols.http.httptools_impl, uvicorn.lifespan.off"
CASES = {
    "NumPy alone": "",
    "this service, its own modules included": (
        f"import sys; sys.path.insert(0, {str(APP)!r}); "
        "import tfserve_app.server, uvicorn.lifespan.off, uvicorn.loops.asyncio"
    ),
    "Uvicorn": _UVICORN,
    "Starlette and Uvicorn": f"import starlette.applications, starlette.routing; {_UVICORN}",
    "FastAPI and Uvicorn": f"import fastapi; {_UVICORN}",
}
_PROGRAM = """
import gc, os, sys, time
gc.disable()
start = time.perf_counter()
import numpy
{code}
print(time.perf_counter() - start, len(sys.modules), flush=True)
os._exit(0)
"""


def measure(python: str, code: str) -> tuple[float, int]:
    """Return milliseconds and modules of a fresh process."""
    program = _PROGRAM.format(code=code)
    out = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    seconds, modules = out.stdout.split()
    return float(seconds) * 1000, int(modules)


def main() -> None:
    """Run it and write `results/imports.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, int]]] = {case: [] for case in CASES}
    for turn in range(options.rounds + 1):
        for case in random.sample(list(CASES), len(CASES)):
            measured = measure(options.python, CASES[case])
            if turn:  # the first one fills the page cache
                found[case].append(measured)
    medians = {case: statistics.median(ms for ms, _ in runs) for case, runs in found.items()}
    base = medians["NumPy alone"]
    result: dict[str, object] = {
        case: {
            "milliseconds": round(medians[case], 1),
            "quartiles": [
                round(value, 1) for value in statistics.quantiles([ms for ms, _ in runs], n=4)[::2]
            ],
            "above NumPy": round(medians[case] - base, 1),
            "modules": runs[0][1],
        }
        for case, runs in found.items()
    }
    about = {"rounds": options.rounds, "machine": machine(), "note": options.note}
    write("imports.json", {"cases": result, **about})


if __name__ == "__main__":
    main()
