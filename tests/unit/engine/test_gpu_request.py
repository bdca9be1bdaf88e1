"""How containers are given GPUs: the runtime or hook where there is one, else CDI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfslim import gpu
from tfslim.engine.gpu_request import gpu_options


class Client:
    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info

    def info(self) -> dict[str, Any]:
        return self._info


def asked(info: dict[str, Any]) -> dict[str, Any]:
    (request,) = gpu_options(Client(info))["device_requests"]  # type: ignore[arg-type]
    return dict(request)


def test_the_runtime_is_asked_for_all_gpus() -> None:
    request = asked({"Runtimes": {"runc": {}, "nvidia": {}}})
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])


def test_an_engine_with_cdi_alone_is_asked_for_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_CDI_FOLDERS", ())
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.6.0")
    request = asked({"CDISpecDirs": [str(tmp_path)]})
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=all"])
