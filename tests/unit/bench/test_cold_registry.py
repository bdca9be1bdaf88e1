"""What a pull needs, and what is counted of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tfslim.bench import registry
from tfslim.errors import DiskError, EngineError
from tfslim.ui import Ui


def tools(folder: Path) -> registry.Tools:
    return registry.Tools(Path("registry"), Path("containerd"), Path("ctr"), folder)


def test_bytes_and_layers_of_what_was_fetched(tmp_path: Path) -> None:
    blobs = tmp_path / "store/io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True)
    manifest = json.dumps({"layers": [{}, {}, {}]})
    (blobs / "a").write_text(manifest)
    (blobs / "b").write_text('{"rootfs": {}}')
    (blobs / "c").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(96))
    size, layers = registry._fetched(tools(tmp_path))
    assert (size, layers) == (len(manifest) + 14 + 100, 3)


def test_without_root_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineError, match="Measuring a pull"):
        registry.find_tools(Ui(quiet=True))


class _Engine:
    """An engine with one image of a size."""

    def __init__(self, size: int) -> None:
        self.attrs = {"Size": size}
        self.images = self

    def get(self, name: str) -> _Engine:
        return self

    def info(self) -> dict[str, object]:
        return {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}


def test_a_pull_that_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="--pulls 0"):
        registry._check_room(tools(tmp_path), _Engine(10**18), "x/a")  # type: ignore[arg-type]
    registry._check_room(tools(tmp_path), _Engine(-5 * 10**9), "x/a")  # type: ignore[arg-type]


def test_one_pull_at_a_time_and_nothing_left(tmp_path: Path) -> None:
    folder = tmp_path / "pull"
    with registry._emptied(folder):
        (folder / "layer").write_text("x")
        with pytest.raises(EngineError, match="another process"), registry._emptied(folder):
            pass
    assert not folder.exists()
