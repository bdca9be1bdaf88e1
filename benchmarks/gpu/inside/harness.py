"""Run cases on a device, compare each with its reference, and write every result as it comes.

Runs inside a tree: it needs the tree's TensorFlow and NumPy and Python 3.9, nothing of tfslim. A
suite is a module beside this one with `cases(tf, np, settings)`:

    python harness.py SUITE --out FILE [--device gpu] [--quick] [--deterministic] [--cache FOLDER]

FILE gets one JSON object a line: what is computed with, then a line when a case begins and one when
it has ended, so that a crash names its case and takes no other result along.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_SAMPLE = 16  # values kept of each output
_STEADY_SECONDS = 0.05
_STEADY_CALLS = 20
_MESSAGE = 2000
_GPU_ONLY = "not measured: no GPU"
# What TensorFlow says where it never had what is asked for.
_LACKS = {
    "Could not find device for node": "TensorFlow has no kernel of this type here",
    "determinis": "it has no deterministic form",
}


@dataclass(frozen=True)
class Case:
    """One thing that is computed.

    Attributes:
        name: Unique in its suite.
        dtype: Of the computation.
        run: Computes it; returns a tensor or a list of them.
        reference: Computes it in float64 with NumPy or on the CPU; None where none is needed.
        tolerance: Largest |result - reference| over largest |reference|; None: the same values.
        ops: TensorFlow op types that it needs; where their library was taken out, a GPU refuses.
        gpu_only: Why it cannot run on a CPU; empty where it can.
        error: Type of the error that it has to raise; empty for a result.
        flops: Floating point operations; 0 where that is no measure.
        tf32: Products of float32 may be computed as TF32, which only GPUs do.
    """

    name: str
    dtype: str
    run: Callable[[], Any]
    reference: Callable[[], Any] | None = None
    tolerance: float | None = None
    ops: tuple = ()
    gpu_only: str = ""
    error: str = ""
    flops: float = 0.0
    tf32: bool = False


@dataclass(frozen=True)
class Settings:
    """What a suite may choose its cases by."""

    gpu: bool
    quick: bool
    deterministic: bool


def rng(np: Any, name: str) -> Any:
    """Return a generator of numbers that are the same for a name on every machine."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def main() -> int:
    """Run one suite; the exit status is 0 whatever its cases said."""
    options = _options()
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
        os.environ["CUDA_CACHE_PATH"] = str(options.cache.resolve())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    memory = {"before": _gpu_memory()}
    with options.out.open("w", encoding="utf-8") as out:

        def write(**data: Any) -> None:
            out.write(json.dumps(data) + "\n")
            out.flush()

        started = time.perf_counter()
        import numpy as np  # noqa: PLC0415
        import tensorflow as tf  # type: ignore # noqa: PLC0415

        settings = Settings(options.device == "gpu", options.quick, options.deterministic)
        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
            tf.random.set_seed(1)
        imported = time.perf_counter()
        gpus = tf.config.list_physical_devices("GPU") if settings.gpu else []
        _first_touch(tf, settings)
        memory["context"] = _gpu_memory()
        write(
            kind="start",
            import_s=imported - started,
            device_s=time.perf_counter() - imported,
            gpus=[_gpu(tf, gpu) for gpu in gpus],
            versions=_versions(tf, np),
            loading=os.environ.get("CUDA_MODULE_LOADING", ""),
        )
        runner = _Runner(tf, np, settings, _removed_ops())
        for case in importlib.import_module(options.suite).cases(tf, np, settings):
            write(kind="begin", name=case.name)
            write(kind="case", **runner.result(case))
        memory["end"] = _gpu_memory()
        known = {name: value for name, value in memory.items() if value is not None}
        write(kind="end", memory_bytes=known)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("suite")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--cache", type=Path, help="folder for CUDA's cache of compiled PTX")
    return parser.parse_args()


class _Runner:
    """Runs cases one after the other."""

    def __init__(self, tf: Any, np: Any, settings: Settings, removed: dict[str, str]) -> None:
        self._tf, self._np, self._settings = tf, np, settings
        self._removed = removed

    def result(self, case: Case) -> dict[str, Any]:
        """Run a case; whatever comes of it is a result."""
        found: dict[str, Any] = {"name": case.name, "dtype": case.dtype}
        gpu_only = "TF32 is a GPU's way" if case.tf32 else case.gpu_only
        if gpu_only and not self._settings.gpu:
            return {**found, "status": "not measured", "why": f"{_GPU_ONLY} ({gpu_only})"}
        self._tf.config.experimental.enable_tensor_float_32_execution(case.tf32)
        gone = self._gone(case)
        try:
            found.update(self._computed(case))
        except Exception as error:  # noqa: BLE001 (any error is a result)
            found.update(self._refusal(case, error, gone))
            return found
        if case.error:
            found.update(status="failed", why=f"no {case.error} was raised")
        elif gone and "GPU" in found["device"]:
            found.update(why=f"rule {gone} took its library out, and yet it computes")
        return found

    def _gone(self, case: Case) -> str:
        """Return the rule that took out what a case needs on a GPU; empty where none did."""
        if not self._settings.gpu:
            return ""
        rules = (
            self._removed.get(pattern, "") for pattern in self._removed if _fits(case, pattern)
        )
        return next(rules, "")

    def _refusal(self, case: Case, error: Exception, gone: str) -> dict[str, Any]:
        kind, text = type(error).__name__, str(error)[:_MESSAGE]
        said = {"error": {"type": kind, "message": text}}
        if case.error == kind:
            return {**said, "status": "passed", "why": ""}
        if gone:
            return {**said, "status": "refused", "why": f"as rule {gone} says"}
        for sign, reason in _LACKS.items():
            if sign in text and (sign != "determinis" or self._settings.deterministic):
                return {**said, "status": "not measured", "why": f"not measured: {reason}"}
        return {**said, "status": "failed", "why": f"{kind}: {text}"}

    def _computed(self, case: Case) -> dict[str, Any]:
        start = time.perf_counter()
        output = case.run()
        outputs = output if isinstance(output, (list, tuple)) else [output]
        arrays = [self._array(one) for one in outputs]
        found: dict[str, Any] = {
            "first_s": time.perf_counter() - start,
            "device": _device_of(outputs[0]),
            "sha256": _digest(arrays),
            "sample": _sample(self._np, arrays),
            "status": "passed",
            "why": "",
        }
        if self._settings.gpu and "GPU" not in found["device"] and not case.error:
            found.update(status="not measured", why="not measured: TensorFlow ran it on the CPU")
        found.update(self._steady(case))
        if self._settings.deterministic:
            again = case.run()
            again = again if isinstance(again, (list, tuple)) else [again]
            if _digest([self._array(one) for one in again]) != found["sha256"]:
                found.update(
                    status="failed", why="deterministic ops gave other bits the second time"
                )
        if case.reference is not None:
            found.update(self._against(case, arrays))
        return found

    def _array(self, value: Any) -> Any:
        array = value.numpy() if hasattr(value, "numpy") else value
        return self._np.asarray(array)

    def _steady(self, case: Case) -> dict[str, Any]:
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < 3 or (
            len(times) < _STEADY_CALLS and time.perf_counter() - begin < _STEADY_SECONDS
        ):
            start = time.perf_counter()
            case.run()
            self._tf.test.experimental.sync_devices()
            times.append(time.perf_counter() - start)
            if times[0] > 1.0:
                break
        median = statistics.median(times)
        found = {"steady_s": median, "calls": len(times)}
        return {**found, "flops_per_s": case.flops / median} if case.flops else found

    def _against(self, case: Case, arrays: list[Any]) -> dict[str, Any]:
        """Compare outputs with the reference, all of them on one scale each."""
        np = self._np
        wanted = case.reference()  # type: ignore[misc]
        wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        largest = 0.0
        for index, array in enumerate(arrays):
            right = np.asarray(wanted[index])
            if array.shape != right.shape:
                why = f"shape {array.shape} in place of {right.shape}"
                return {"status": "failed", "why": why}
            if case.tolerance is None:
                if not np.array_equal(array, right):
                    return {"status": "failed", "why": "other values than the reference"}
                continue
            largest = max(largest, _distance(np, array, right))
        if case.tolerance is None:
            return {}
        checked = {"tolerance": case.tolerance, "distance": min(largest, 1e300)}
        if largest <= case.tolerance:
            return checked
        why = f"{largest:.3g} off the reference, {case.tolerance:g} allowed"
        return {**checked, "status": "failed", "why": why}


def _distance(np: Any, array: Any, right: Any) -> float:
    """Return the largest difference over the reference's largest value; infinite for stray NaN."""
    wide = np.complex128 if np.iscomplexobj(right) or np.iscomplexobj(array) else np.float64
    first, second = array.astype(wide), right.astype(wide)
    both = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(np.isnan(first), np.isnan(second)) or not np.array_equal(
        first[~both & ~np.isnan(first)], second[~both & ~np.isnan(second)]
    ):
        return float("inf")
    if not both.any():
        return 0.0
    scale = float(np.abs(second[both]).max()) or 1.0
    return float(np.abs(first[both] - second[both]).max()) / scale


def _digest(arrays: list[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _sample(np: Any, arrays: list[Any]) -> list[float]:
    """Return some values of the first output, evenly spread; None stands for what is no number."""
    array = arrays[0]
    if array.dtype.kind in "OSU":
        return []
    flat = np.abs(array).ravel() if array.dtype.kind == "c" else array.ravel()
    flat = flat[:: max(1, flat.size // _SAMPLE)][:_SAMPLE].astype("float64")
    return [float(value) if np.isfinite(value) else None for value in flat]  # type: ignore[misc]


def _device_of(value: Any) -> str:
    name = str(getattr(value, "device", "") or "")
    return "GPU" if "GPU" in name else "CPU" if name else "host"


def _fits(case: Case, pattern: str) -> bool:
    return any(fnmatchcase(op, pattern) for op in case.ops)


def _removed_ops() -> dict[str, str]:
    """Return patterns of op types whose libraries were taken out, each with its rule."""
    for folder in sys.path:
        place = Path(folder or ".") / "_tfslim.json"
        if place.is_file():
            known = json.loads(place.read_text(encoding="utf-8")).get("ops", {})
            return {pattern: rule for rule, patterns in known.items() for pattern in patterns}
    return {}


def _first_touch(tf: Any, settings: Settings) -> None:
    """Have TensorFlow make its device, as any first op does."""
    with tf.device("/GPU:0" if settings.gpu else "/CPU:0"):
        tf.constant([1.0, 2.0]).numpy()


def _gpu(tf: Any, gpu: Any) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    major, minor = details.get("compute_capability", (0, 0))
    return f"{details.get('device_name', gpu.name)}, compute capability {major}.{minor}"


def _versions(tf: Any, np: Any) -> dict[str, str]:
    build = tf.sysconfig.get_build_info()
    return {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "cuda": str(build.get("cuda_version", "")),
        "cudnn": str(build.get("cudnn_version", "")),
    }


def _gpu_memory() -> int | None:
    """Return the bytes in use on the first GPU, by its management library; None without one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    handle, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()
    try:
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(handle)) != 0:
            return None
        if nvml.nvmlDeviceGetMemoryInfo(handle, memory) != 0:
            return None
        return int(memory[2])
    finally:
        nvml.nvmlShutdown()


def quick(settings: Settings, few: Iterator[Case], count: int) -> Iterator[Case]:
    """Yield all cases, or every so many of them where a few are enough."""
    found = list(few)
    yield from found[:: max(1, len(found) // count)] if settings.quick else found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    # Suites import this module by its name: it must not be there twice.
    sys.modules["harness"] = sys.modules["__main__"]
    status = main()
    sys.stdout.flush()
    os._exit(status)  # TensorFlow's teardown takes most of a second and answers nothing
