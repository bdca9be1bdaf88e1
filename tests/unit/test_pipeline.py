from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfslim import pipeline
from tfslim.config import Config
from tfslim.errors import DiskError, ModelError
from tfslim.pipeline import Line
from tfslim.plan import make_plan
from tfslim.proc import Completed
from tfslim.ui import Ui


class FakeEngine:
    embedded = True
    driver = "docker"
    data_root = Path("/data")

    def __init__(self, free: int | None, images: set[str] | None = None) -> None:
        self._free = free
        self.images = images or set()
        self.calls: list[str] = []

    def free_bytes(self) -> int | None:
        return self._free

    def docker(self, args: list[str]) -> Completed:
        self.calls.append(" ".join(args))
        known = args[:2] != ["image", "inspect"] or args[2] in self.images
        return Completed(("docker", *args), 0 if known else 1, "", "")

    def buildx(self, args: list[str]) -> Completed:
        self.calls.append(" ".join(["buildx", *args]))
        return Completed(("buildx", *args), 0, "", "")


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    built: list[Any] = []
    monkeypatch.setattr(Line, "_bake", lambda _line, builds, _model: built.extend(builds))
    monkeypatch.setattr(Line, "_served", pipeline._Served(None, None, None, {}))  # type: ignore[arg-type]
    return built


def line(
    monkeypatch: pytest.MonkeyPatch,
    engine: FakeEngine,
    *variants: str,
    ui: Ui | None = None,
    **changes: Any,
) -> Line:
    monkeypatch.setattr(pipeline, "find_building_engine", lambda *_args, **_options: engine)
    config = Config().model_copy(update=changes)
    return Line(config, make_plan(config, variants), ui or Ui(quiet=True), setup_engine=False)


def test_a_build_that_cannot_fit_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, nothing_is_built: list[Any]
) -> None:
    with pytest.raises(DiskError, match=r"5\.00 GB free") as caught:
        line(monkeypatch, FakeEngine(5 * 10**9), "stock").build()
    assert "prune" in caught.value.way_out
    assert nothing_is_built == []


def test_images_that_are_there_need_no_disk(
    monkeypatch: pytest.MonkeyPatch, nothing_is_built: list[Any]
) -> None:
    engine = FakeEngine(5 * 10**9, {"tfslim/stock:2.21.0-py3.13"})
    line(monkeypatch, engine, "stock").build()
    assert len(nothing_is_built) == 1


def test_an_engine_elsewhere_is_trusted_with_its_disk(
    monkeypatch: pytest.MonkeyPatch, nothing_is_built: list[Any]
) -> None:
    line(monkeypatch, FakeEngine(None), "stock").build()
    assert len(nothing_is_built) == 1


def test_room_is_made_in_the_embedded_engine_by_removing_image_and_build_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine(6 * 10**9)
    work = line(monkeypatch, engine, "stock", "inference")
    work.make_room(make_plan(Config(), ["inference"])[0])
    assert "image rm tfslim/inference:2.21.0-py3.13" in engine.calls
    assert "buildx prune --force --all" in engine.calls


def test_another_engines_build_cache_is_never_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(6 * 10**9)
    engine.embedded = False
    work = line(monkeypatch, engine, "inference")
    work.make_room(make_plan(Config(), ["inference"])[0])
    assert not any("prune" in call for call in engine.calls)


def test_with_room_enough_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(10**12)
    work = line(monkeypatch, engine, "stock")
    work.make_room(make_plan(Config(), ["stock"])[0])
    assert engine.calls == []


def test_a_missing_lock_is_told_for_the_variants_that_would_use_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ui, engine = Ui(interactive=False), FakeEngine(None)
    line(monkeypatch, engine, "stock", "inference", ui=ui, cuda_archs=("37",)).build()
    assert "GPUs: inference get the newest packages" in capsys.readouterr().err
    line(monkeypatch, engine, "stock", ui=ui, cuda_archs=("37",)).build()
    line(monkeypatch, engine, "inference", ui=ui, cuda_archs=("37",), pins="newest").build()
    line(monkeypatch, engine, "inference", ui=ui).build()
    assert "newest packages" not in capsys.readouterr().err


def test_a_model_that_is_made_in_an_image_cannot_be_made_in_one_for_that_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = line(monkeypatch, FakeEngine(None), "workload")
    with pytest.raises(ModelError, match="demo:mobilenet is made inside an image"):
        work._make_mobilenet(tmp_path)
