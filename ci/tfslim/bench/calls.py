"""Call a model in one process until its speed is stable: the part that runs inside a target.

    python -B calls.py --out DIR --batches 1,32 --window 1 --limit 30 [--model DIR] [--app DIR]

A script of its own: it needs the target's numpy and whatever its backend needs, and Python 3.9. The
model is called through the service's backend (`tfserve_app`), TensorFlow's Python package or its C
API, as the target is set up: the service's in the target if there is one, else the one at --app.
Writes DIR/calls.json. What it is doing goes to standard output, one line each.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
RESULT = "calls.json"
SERVICE = "/app"
WINDOWS = 3
SPREAD = 1.10
_SEED = 20211
_WARM_UP_SHARE = 0.5  # of a window
_LEAST_CALLS = 3  # in a window


def main() -> int:
    """Measure; the exit status is 0 if calls.json says how fast the model is."""
    options = _options()
    app = SERVICE if Path(SERVICE, "tfserve_app").is_dir() else str(options.app)
    sys.path.insert(0, app)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    started = time.monotonic()
    backend, name = _backend(options.model)
    loaded = time.monotonic()
    result = {
        "schema_version": SCHEMA_VERSION,
        "backend": name,
        "gpus": list(backend.info.gpus),
        "load_s": loaded - started,
        "batches": [_measure(backend, size, options) for size in options.batches],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / RESULT).write_text(json.dumps(result), encoding="utf-8")
    os._exit(0)  # TensorFlow's teardown takes most of a second, and nothing is left to save


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=_numbers, required=True, help="1,32")
    parser.add_argument("--window", type=float, default=1.0, help="seconds")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each batch size")
    parser.add_argument("--model", type=Path, help="SavedModel; the target's own if not given")
    parser.add_argument("--app", type=Path, default=Path(), help="folder that has tfserve_app")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _backend(model: Path | None) -> tuple[Any, str]:
    """Return the loaded backend that the target's settings ask for, and its name."""
    from tfserve_app.savedmodel import locate  # noqa: PLC0415
    from tfserve_app.settings import Settings  # noqa: PLC0415

    settings = Settings.from_env()
    path = locate(settings.model_path if model is None else model).path
    wanted = getattr(settings, "backend", "tensorflow")
    _say(f"load {path} with backend {wanted}")
    if wanted == "capi":
        # As the service does: NumPy would start a thread for every core, and multiplies nothing.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from tfserve_app.capi.backend import CapiBackend  # noqa: PLC0415
        from tfserve_app.capi.options import SessionOptions  # noqa: PLC0415

        return CapiBackend(path, _say, SessionOptions.from_env()), wanted
    from tfserve_app.tensorflow_backend import TensorFlowBackend  # noqa: PLC0415

    return TensorFlowBackend(path, _say), wanted


def _measure(backend: Any, batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Call with one batch size: the first call, a warm-up, then windows until they agree."""
    from tfserve_app.backend import default_signature  # noqa: PLC0415

    signature = default_signature(backend.signatures)
    inputs = make_inputs(backend.signatures[signature].inputs, batch_size)

    def call() -> float:
        start = time.perf_counter()
        backend.predict(signature, inputs)
        return time.perf_counter() - start

    _say(f"batch {batch_size}: first call")
    first = call()
    gc.collect()  # what loading left is not to be collected in a window
    _say(f"batch {batch_size}: {first:.3f} s; warm-up and windows of {options.window} s")
    return {
        "batch_size": batch_size,
        "first_call_s": first,
        **until_stable(call, options.window, options.limit),
    }


def until_stable(call: Any, window: float, limit: float) -> dict[str, Any]:
    """Call until the last three windows agree within 10 %, or for `limit` seconds.

    Args:
        call: Makes one call and returns its seconds.
        window: Seconds of a window; it has three calls at least.
        limit: Seconds after which no further window begins, once there are three.

    Returns:
        Seconds of each call in the last three windows, whether these agree, how many calls came
        before them, and when the first of them began and the last ended (CLOCK_MONOTONIC).
    """
    begin = time.perf_counter()
    warm_up = _window(call, window * _WARM_UP_SHARE, least=1)["latencies_s"]
    windows: list[dict[str, Any]] = []
    while len(windows) < WINDOWS or (
        not agree(windows[-WINDOWS:]) and time.perf_counter() - begin < limit
    ):
        windows.append(_window(call, window, _LEAST_CALLS))
    last = windows[-WINDOWS:]
    before = windows[:-WINDOWS]
    return {
        "stable": agree(last),
        "latencies_s": [round(s, 7) for part in last for s in part["latencies_s"]],
        "seconds": sum(part["seconds"] for part in last),
        "calls_before": 1 + len(warm_up) + sum(len(part["latencies_s"]) for part in before),
        "windows": len(windows),
        "from_monotonic": last[0]["from_monotonic"],
        "to_monotonic": time.monotonic(),
    }


def _window(call: Any, seconds: float, least: int) -> dict[str, Any]:
    latencies: list[float] = []
    at, start = time.monotonic(), time.perf_counter()
    while len(latencies) < least or time.perf_counter() - start < seconds:
        latencies.append(call())
    return {
        "latencies_s": latencies,
        "seconds": time.perf_counter() - start,
        "from_monotonic": at,
    }


def agree(windows: list[dict[str, Any]]) -> bool:
    """Return whether rates and median latencies of windows differ by at most 10 %."""
    rates = [len(part["latencies_s"]) / part["seconds"] for part in windows]
    medians = [statistics.median(part["latencies_s"]) for part in windows]
    return all(max(values) <= SPREAD * min(values) for values in (rates, medians))


def make_inputs(specs: Any, batch_size: int) -> dict[str, Any]:
    """Make inputs from a fixed seed: an unknown first dimension is the batch, others are 1."""
    import numpy as np  # noqa: PLC0415

    random = np.random.default_rng(_SEED)
    made = {}
    for name, spec in sorted(specs.items()):
        if spec.shape is None:
            raise SystemExit(f"the model's input {name!r} has no known rank: none can be made")
        sizes = [
            batch_size if axis == 0 and size == -1 else max(size, 1)
            for axis, size in enumerate(spec.shape)
        ]
        made[name] = _array(np, random, spec.dtype, sizes)
    return made


def _array(np: Any, random: Any, dtype: str, sizes: list[int]) -> Any:
    if dtype == "string":
        return np.full(sizes, b"tfslim", dtype=object)
    if dtype in ("bfloat16", "half", "float16"):
        return random.standard_normal(sizes).astype("float32" if dtype == "bfloat16" else "float16")
    kind = np.dtype(dtype)
    if kind.kind in "fc":
        return random.standard_normal(sizes).astype(kind)
    return random.integers(0, 2, sizes).astype(kind)


def _say(line: str) -> None:
    sys.stdout.write(f"calls: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
