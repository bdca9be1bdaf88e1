"""Starts of unpacked images without an engine: turns, caches of compiled PTX, phases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tfslim.bench.rootfs import open_root
from tfslim.bench.rootstarts import RootStart, root_cold_starts
from tfslim.errors import ServiceError
from tfslim.pack.manifest import ImageConfig
from tfslim.pack.read import unpack_tree
from tfslim.pack.write import pack_tree
from tfslim.ui import Ui

QUIET = Ui(quiet=True)
METADATA = {
    "default_signature": "serving_default",
    "signatures": {
        "serving_default": {"inputs": {"x": {"dtype": "float32", "shape": [-1, 2]}}, "outputs": {}}
    },
}


class Fake:
    """A service that became ready: a log, answers, memory."""

    def __init__(self, log: list[str]) -> None:
        self.asked = time.monotonic()
        self._log = log
        self.http = httpx.Client(transport=httpx.MockTransport(self._answer), base_url="http://x")

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/metadata"):
            return httpx.Response(200, json=METADATA)
        return httpx.Response(200, json={})

    def lines(self) -> list[str]:
        marks = {"process_start": 0.5, "tensorflow_imported": 2.0, "model_loaded": 3.0, "warm": 4.0}
        ready = {"event": "ready", "marks": {k: self.asked + v for k, v in marks.items()}}
        return [*self._log, json.dumps(ready)] if "silent" not in self._log else []

    def memory_bytes(self) -> int:
        return 123


def start(name: str, seen: list[tuple[str, bool]], log: list[str]) -> RootStart:
    @contextmanager
    def serve(jit: Path) -> Iterator[Any]:
        seen.append((name, any(jit.iterdir())))
        (jit / "compiled").touch()
        yield Fake(log)

    return RootStart(name, "model", serve)


def test_launches_take_turns_and_their_phases_add_up() -> None:
    seen: list[tuple[str, bool]] = []
    roots = [start("a", seen, []), start("b", seen, [])]
    found = root_cold_starts(roots, 3, gpu=False, device="CPU", ui=QUIET)
    assert [name for name, _ in seen] == ["a", "b", "b", "a", "a", "b"]
    assert not any(filled for _, filled in seen)
    assert {launch.jit_cache for launch in found.launches} == {"none"}
    one = found.launches[0]
    before = [one.phases_s[n] for n in ("create", "imports", "model_load", "warm_up")]
    assert before == pytest.approx([0.5, 1.5, 1.0, 1.0])
    assert one.ready_s == pytest.approx(4.0)
    assert one.first_answer_s == pytest.approx(4.0 + one.phases_s["first_answer"])
    assert one.memory_bytes == 123
    assert "entering the root" in found.notes[0]


def test_with_a_gpu_each_turn_starts_with_compiled_ptx_and_without() -> None:
    seen: list[tuple[str, bool]] = []
    found = root_cold_starts([start("a", seen, [])], 2, gpu=True, device="GPU", ui=QUIET)
    assert [filled for _, filled in seen] == [False, True, False, True]
    assert [launch.jit_cache for launch in found.launches] == ["cold", "warm"] * 2


def test_a_service_that_tells_nothing_is_an_error() -> None:
    with pytest.raises(ServiceError, match="does not tell when it came how far"):
        root_cold_starts([start("a", [], ["silent"])], 1, gpu=False, device="CPU", ui=QUIET)


def test_an_unpacked_pack_knows_how_the_image_is_run(tmp_path: Path) -> None:
    (tmp_path / "tree" / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "usr" / "bin" / "python3").touch()
    config = ImageConfig(env={"BACKEND": "capi"}, argv=("serve", "now"), workdir="/srv")
    pack_tree(tmp_path / "tree", tmp_path / "pack", name="image", config=config, ui=QUIET)
    unpack_tree(tmp_path / "pack", tmp_path / "back", ui=QUIET)
    with open_root(str(tmp_path / "back"), QUIET) as root:
        assert (root.argv, root.workdir, root.env["BACKEND"]) == (("serve", "now"), "/srv", "capi")
        assert root.python == "python3"
    with open_root(str(tmp_path / "tree"), QUIET) as root:
        assert root.argv == (), "a plain folder does not say"
