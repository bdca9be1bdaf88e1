"""GPU telemetry against NVIDIA's own Python package and a stand-in for the driver's library."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfslim.bench.telemetry import watch_gpus

DRIVER = Path(__file__).parents[2] / "fixtures" / "fake-driver" / "nvml.c"
WATCH = """
import json, time
from tfslim.bench.telemetry import watch_gpus
with watch_gpus(True) as telemetry:
    start = time.monotonic()
    time.sleep(0.35)
    found = telemetry.between(start - 0.1, time.monotonic())
    print(json.dumps([found, telemetry.why_none, telemetry.between(0, 0.1)]))
"""

needs_nvml = pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None or shutil.which("cc") is None,
    reason="needs nvidia-ml-py and a C compiler",
)


@pytest.fixture(scope="module")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, DRIVER], check=True
    )
    return folder


def watched(folder: Path, **env: str) -> tuple[dict[str, object], str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", WATCH],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": "ci", **env},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    found, why, outside = json.loads(done.stdout)
    return found, why, outside


@needs_nvml
def test_medians_with_units_and_the_reasons_of_throttling(fake_nvml: Path) -> None:
    found, why, outside = watched(fake_nvml)
    assert why == ""
    assert found.pop("samples") >= 1  # type: ignore[operator]
    assert found == {
        "utilisation_percent": 73.0,
        "memory_used_bytes": float(2**30),
        "power_w": 250.0,
        "sm_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "throttle_reasons": "software power cap",
    }  # and no temperature: this GPU does not tell it
    assert outside == {}


@needs_nvml
def test_a_second_gpu_has_names_of_its_own(fake_nvml: Path) -> None:
    found, _, _ = watched(fake_nvml, FAKE_GPUS="9.0,8.0", FAKE_THROTTLE="0")
    assert found["utilisation_percent"] == 73
    assert found["gpu1_utilisation_percent"] == 74
    assert found["gpu1_throttle_reasons"] == "none"


@needs_nvml
def test_without_a_driver_it_is_told(tmp_path: Path) -> None:
    found, why, _ = watched(tmp_path)
    assert found == {}
    assert why.startswith("NVML: ")


def test_on_a_cpu_nothing_is_sampled() -> None:
    with watch_gpus(False) as telemetry:
        assert telemetry.between(0, 1e12) == {}


def test_without_the_package_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with watch_gpus(True) as telemetry:
        assert "pip install 'tfslim[gpu]'" in telemetry.why_none
