"""What the driver says of the GPUs while something else runs: sampled in a thread, by NVML.

Needs the package nvidia-ml-py (`pip install 'tfslim[gpu]'`) and a driver; without either there are
no samples, and `why_none` says so. Only asks; no CUDA context is made, and no setting is changed.
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Telemetry", "watch_gpus"]

_EVERY_SECONDS = 0.1
_MISSING = "the package nvidia-ml-py is not installed: pip install 'tfslim[gpu]'"
# Bits of nvmlClocksEventReasons (nvml.h); idle and settings of applications are no throttling.
_REASONS = {
    0x0000000000000004: "software power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "sync boost",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
    0x0000000000000100: "display clock setting",
}


@dataclass(frozen=True)
class _Sample:
    at: float
    gpu: int
    values: dict[str, float]
    reasons: int


@dataclass
class Telemetry:
    """Samples of all GPUs.

    Attributes:
        why_none: Why there are none; empty where there are.
    """

    why_none: str = ""
    _samples: list[_Sample] = field(default_factory=list)

    def between(self, start: float, end: float) -> dict[str, float | str]:
        """Return medians and throttle reasons of a stretch of CLOCK_MONOTONIC; empty without any.

        Names carry their unit; those of a second GPU begin with `gpu1_`, and so on. A figure that
        this GPU does not tell is left out.
        """
        within = [sample for sample in list(self._samples) if start <= sample.at <= end]
        found: dict[str, float | str] = {}
        for gpu in sorted({sample.gpu for sample in within}):
            own = [sample for sample in within if sample.gpu == gpu]
            prefix = f"gpu{gpu}_" if gpu else ""
            for name in sorted({name for sample in own for name in sample.values}):
                known = [sample.values[name] for sample in own if name in sample.values]
                found[prefix + name] = statistics.median(known)
            bits = 0
            for sample in own:
                bits |= sample.reasons
            names = [text for bit, text in _REASONS.items() if bits & bit]
            found[f"{prefix}throttle_reasons"] = ", ".join(names) or "none"
            found[f"{prefix}samples"] = float(len(own))
        return found


@contextmanager
def watch_gpus(gpu: bool) -> Iterator[Telemetry]:
    """Sample all GPUs ten times a second while the block runs; nothing at all without `gpu`."""
    if not gpu:
        yield Telemetry("no GPU is used")
        return
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        yield Telemetry(_MISSING)
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        yield Telemetry(f"NVML: {error}")
        return
    telemetry, stop = Telemetry(), threading.Event()
    thread = threading.Thread(target=_watch, args=(nvml, telemetry, stop), daemon=True)
    thread.start()
    try:
        yield telemetry
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _watch(nvml: Any, telemetry: Telemetry, stop: threading.Event) -> None:
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        telemetry.why_none = f"NVML: {error}"
        return
    while True:
        for index, handle in enumerate(handles):
            telemetry._samples.append(_sample(nvml, index, handle))
        if stop.wait(_EVERY_SECONDS):
            return


def _sample(nvml: Any, index: int, handle: Any) -> _Sample:
    asked: dict[str, Callable[[], float]] = {
        "utilisation_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_used_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }
    values: dict[str, float] = {}
    for name, ask in asked.items():
        with contextlib.suppress(nvml.NVMLError):  # not every GPU (or MIG slice) tells everything
            values[name] = float(ask())
    reasons = 0
    with contextlib.suppress(nvml.NVMLError):
        reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return _Sample(time.monotonic(), index, values, reasons)
