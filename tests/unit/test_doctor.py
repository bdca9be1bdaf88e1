from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine_fakes import SLEEPING_BUILDER, fake_engine, shown_builder
from tfslim.doctor import Check, diagnose
from tfslim.engine import engine as engine_module
from tfslim.errors import EngineError
from tfslim.gpu import Gpu, Gpus

NO_GPU = Gpus((), "no NVIDIA driver")
H200 = Gpus((Gpu("NVIDIA H200", "9.0", 143771 * 2**20, "570.124.06"),))


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine says of itself."""
    said: dict[str, Any] = {"Runtimes": {"runc": {}}}
    monkeypatch.setattr(engine_module, "_info", lambda _: said)
    monkeypatch.setattr("tfslim.gpu._CDI_FOLDERS", ())
    monkeypatch.setattr("tfslim.gpu._search_path", lambda: "/nowhere")
    return said


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_good_machine_has_nothing_to_do(tmp_path: Path, info: dict[str, Any]) -> None:
    info["Runtimes"]["nvidia"] = {}
    checks = diagnose(fake_engine(data_root=tmp_path), gpus=H200, disk_bytes=1)
    assert {check.status for check in checks} == {"ok"}
    assert not any(check.way_out for check in checks)
    assert "sm_90" in by_name(checks)["GPU"].detail


def test_no_engine_fails_with_the_errors_own_way_out() -> None:
    error = EngineError("no Docker engine", why="nothing at the socket", way_out="--setup-engine")
    found = by_name(diagnose(error, gpus=NO_GPU, disk_bytes=1))
    assert found["engine"].status == "fail"
    assert "nothing at the socket" in found["engine"].detail
    assert found["engine"].way_out == "--setup-engine"
    assert "buildx" not in found
    assert "free at" in found["disk"].detail


def test_missing_cache_export_says_why_and_how(tmp_path: Path, info: dict[str, Any]) -> None:
    found = by_name(
        diagnose(fake_engine(data_root=tmp_path, cache_export=False), gpus=NO_GPU, disk_bytes=1)
    )
    assert found["cache export"].status == "warn"
    assert "the store can or cannot" in found["cache export"].detail
    assert "containerd-snapshotter" in found["cache export"].way_out


def test_a_builder_that_is_named_takes_the_place_of_the_engines_own(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    engine = fake_engine(data_root=tmp_path, cache_export=False, far=shown_builder())
    found = by_name(diagnose(engine, gpus=NO_GPU, disk_bytes=1, builder="far"))
    assert found["builder"].status == "ok"
    assert "tcp://buildkit:1234, BuildKit v0.17.2" in found["builder"].detail
    assert not {"driver", "cache export"} & set(found)
    own = by_name(diagnose(engine, gpus=NO_GPU, disk_bytes=1, builder="default"))
    assert {"driver", "cache export"} <= set(own)


def test_a_builder_that_sleeps_is_told_with_how_to_wake_it(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    engine = fake_engine(data_root=tmp_path, far=SLEEPING_BUILDER)
    check = by_name(diagnose(engine, gpus=NO_GPU, disk_bytes=1, builder="far"))["builder"]
    assert check.status == "warn"
    assert "far0 does not run" in check.detail
    assert "--bootstrap far" in check.way_out


@pytest.mark.parametrize(
    ("builder", "why"),
    [
        ("fra", "no builder 'fra'"),
        ("far", "linux/amd64"),
        ("https://x", "no address of a BuildKit"),
    ],
)
def test_a_builder_that_cannot_build_fails(
    tmp_path: Path, info: dict[str, Any], builder: str, why: str
) -> None:
    engine = fake_engine(data_root=tmp_path, far=shown_builder(platforms="linux/arm64"))
    check = by_name(diagnose(engine, gpus=NO_GPU, disk_bytes=1, builder=builder))["builder"]
    assert check.status == "fail"
    assert why in check.detail


def test_an_address_that_nothing_was_built_at_yet_is_not_tried(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    engine = fake_engine(data_root=tmp_path)
    at = "tcp://buildkit:1234"
    check = by_name(diagnose(engine, gpus=NO_GPU, disk_bytes=1, builder=at))["builder"]
    assert check.status == "warn"
    assert "not reached yet" in check.detail
    assert not [call for call in engine.calls if call[0] == "create"]


def test_little_disk_warns_with_both_figures(tmp_path: Path, info: dict[str, Any]) -> None:
    check = by_name(diagnose(fake_engine(data_root=tmp_path), gpus=NO_GPU, disk_bytes=10**18))[
        "disk"
    ]
    assert check.status == "warn"
    assert "free at" in check.detail
    assert "1000000.00 TB" in check.detail
    assert check.way_out


def test_remote_engines_disk_is_not_known(info: dict[str, Any]) -> None:
    check = by_name(diagnose(fake_engine(), gpus=NO_GPU, disk_bytes=1))["disk"]
    assert check.status == "warn"
    assert "not on this machine" in check.detail


def test_no_gpu_warns_but_needs_nothing(tmp_path: Path, info: dict[str, Any]) -> None:
    found = by_name(diagnose(fake_engine(data_root=tmp_path), gpus=NO_GPU, disk_bytes=1))
    assert found["GPU"].status == "warn"
    assert "CPU" in found["GPU"].detail
    assert found["GPU"].way_out == ""
    assert "GPU in containers" not in found


def test_gpu_without_toolkit_names_it(tmp_path: Path, info: dict[str, Any]) -> None:
    check = by_name(diagnose(fake_engine(data_root=tmp_path), gpus=H200, disk_bytes=1))[
        "GPU in containers"
    ]
    assert check.status == "warn"
    assert "nvidia-ctk runtime configure" in check.way_out


def test_old_driver_fails_with_the_least_version(tmp_path: Path, info: dict[str, Any]) -> None:
    old = Gpus((Gpu("Tesla V100", "7.0", 2**34, "470.256.02"),))
    check = by_name(diagnose(fake_engine(data_root=tmp_path), gpus=old, disk_bytes=1))[
        "driver of the GPU"
    ]
    assert check.status == "fail"
    assert "525.60.13" in check.way_out


def test_checks_are_plain_data(tmp_path: Path, info: dict[str, Any]) -> None:
    rows = [
        check.as_dict()
        for check in diagnose(fake_engine(data_root=tmp_path), gpus=NO_GPU, disk_bytes=1)
    ]
    assert all(set(row) == {"name", "status", "detail", "way_out"} for row in rows)
