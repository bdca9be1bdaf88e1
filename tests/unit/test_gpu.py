from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfslim import gpu


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing of NVIDIA but what a test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "_search_path", lambda: str(tmp_path))
    monkeypatch.setattr(gpu, "_CDI_FOLDERS", (tmp_path / "cdi",))
    program(tmp_path, "ldconfig", "exit 0")
    return tmp_path


def test_gpus_are_read_with_units(machine: Path) -> None:
    line = "NVIDIA H200, 9.0, 143771, 570.124.06"
    program(machine, "nvidia-smi", f'echo "{line}"; echo "{line}"')
    found = gpu.find_gpus()
    assert len(found.gpus) == 2
    assert found.gpus[0].sm == "90"
    assert found.gpus[0].memory_bytes == 143771 * 1024 * 1024
    assert found.gpus[0].driver == "570.124.06"


def test_no_driver_is_told_from_a_broken_one(machine: Path) -> None:
    assert not gpu.find_gpus().broken
    program(machine, "ldconfig", "echo '	libcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1'")
    assert gpu.find_gpus().broken
    program(machine, "nvidia-smi", 'echo "couldn\'t communicate with the NVIDIA driver"; exit 9')
    found = gpu.find_gpus()
    assert found.broken
    assert "couldn't communicate" in found.why_none


def test_lines_that_are_no_gpu_are_not_guessed(machine: Path) -> None:
    program(machine, "nvidia-smi", "echo 'No devices were found'")
    assert gpu.find_gpus().gpus == ()


@pytest.mark.parametrize(
    ("info", "says"),
    [({"Runtimes": {"nvidia": {}}}, "nvidia runtime"), ({"Runtimes": {"runc": {}}}, "")],
)
def test_container_access_by_runtime(info: dict[str, Any], says: str) -> None:
    how = gpu.container_access(info)
    assert says in how
    assert bool(how) is bool(says)


def test_container_access_by_cdi_or_hook(machine: Path) -> None:
    program(machine, "nvidia-container-runtime-hook", "exit 0")
    assert "--gpus" in gpu.container_access({})
    (machine / "cdi").mkdir()
    (machine / "cdi/nvidia.yaml").touch()
    assert "CDI" in gpu.container_access({})
