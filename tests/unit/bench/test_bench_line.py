"""A whole run: what is measured of which group, and what a failure leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfslim import models, pipeline
from tfslim.bench.device import Device
from tfslim.bench.results import ColdLaunch, ColdStarts, HttpRun, InProcessRun
from tfslim.bench.run import Measured
from tfslim.build.bake import BuiltImage
from tfslim.config import Config
from tfslim.errors import ServiceError
from tfslim.images.inspection import Inspection
from tfslim.pipeline import Line
from tfslim.plan import make_plan
from tfslim.report.machine import environment
from tfslim.ui import Ui

SIZE = Inspection.model_validate(
    {
        "source": "x",
        "source_kind": "engine",
        "image": None,
        "pull_bytes": 1,
        "pull_bytes_source": "manifest",
        "pull_bytes_note": "",
        "disk_bytes": 2,
        "allocated_bytes": None,
        "files": 1,
        "layers": [],
        "packages": [],
        "kinds": [],
        "waste": {"wasted_bytes": 0, "efficiency": 1.0, "dive_wasted_bytes": 0, "largest": []},
        "duplicates": {"extra_bytes": 0, "groups": 0, "largest": []},
        "largest_files": [],
        "gpu": None,
    }
)


class Engine:
    embedded = False

    def free_bytes(self) -> None:
        return None

    def client(self) -> Engine:
        return self

    def close(self) -> None:
        pass


def call(subject: str, group: int) -> InProcessRun:
    return InProcessRun(
        subject=subject,
        group=group,
        round=0,
        device="CPU",
        batch_size=1,
        first_call_s=1,
        latencies_s=(0.1,),
        stable=True,
    )


def http(subject: str, group: int) -> HttpRun:
    return HttpRun(
        subject=subject,
        group=group,
        round=0,
        device="CPU",
        kind="closed",
        batch_size=1,
        concurrency=1,
        rate=None,
        seconds=1,
        latencies_s=(0.1,),
    )


def cold(subject: str) -> ColdLaunch:
    return ColdLaunch(
        subject=subject,
        round=0,
        page_cache="warm",
        jit_cache="none",
        phases_s={},
        first_answer_s=1,
        ready_s=1,
        memory_bytes=None,
        rss_bytes=None,
        read_bytes=None,
    )


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(pipeline, "find_building_engine", lambda *_a, **_o: Engine())
    monkeypatch.setattr(pipeline, "environment", lambda _engine, text: environment(None, text))
    monkeypatch.setattr(pipeline, "choose_device", lambda *_: Device(False, "CPU"))
    model = models.Model("m", "demo:x", Path("m"), "SavedModel", 1, ())
    monkeypatch.setattr(Line, "_served", pipeline._Served(model, None, None, {}))
    monkeypatch.setattr(Line, "build", lambda _line, builds: [built(b) for b in builds])
    monkeypatch.setattr(Line, "inspect", lambda *_: SIZE)
    monkeypatch.setattr(Line, "_clear", lambda *_a, **_o: None)

    def measure(_engine: Any, builds: Any, *_: Any, group: int, **options: Any) -> Measured:
        calls = [call(build.variant, group) for build in builds]
        return Measured([], [http(build.variant, group) for build in builds], calls, [])

    def cold_starts(_client: Any, subjects: Any, *_a: Any, **options: Any) -> ColdStarts:
        launches = tuple(cold(subject.name) for subject in subjects)
        return ColdStarts(device="CPU", cold_cache="warm only", launches=launches)

    monkeypatch.setattr(pipeline, "measure", measure)
    monkeypatch.setattr(pipeline.cold, "cold_starts", cold_starts)
    config = Config()
    return Line(
        config, make_plan(config, ["stock", "inference"]), Ui(quiet=True), setup_engine=False
    )


def built(build: Any) -> BuiltImage:
    return BuiltImage(build=build, digest="sha256:0", seconds=1, steps=1, cached_steps=1, bases={})


def test_a_whole_run_has_everything(line: Line, tmp_path: Path) -> None:
    record = line.bench(folder=tmp_path)
    assert set(record.sizes) == {"stock", "inference"}
    assert [run.subject for run in record.in_process] == ["stock", "inference"]
    assert [run.subject for run in record.http] == ["stock", "inference"]
    assert record.cold_starts is not None
    assert [launch.subject for launch in record.cold_starts.launches] == ["stock", "inference"]
    assert record.environment.gpu == "CPU"


def test_sizes_alone_launch_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "choose_device", lambda *_: pytest.fail("no device is needed"))
    record = line.bench("sizes")
    assert set(record.sizes) == {"stock", "inference"}
    assert (record.in_process, record.http, record.cold_starts) == ([], [], None)


def test_without_cold_starts(line: Line) -> None:
    record = line.bench("throughput")
    assert record.cold_starts is None
    assert len(record.http) == 2


def test_cold_starts_that_fail_are_a_note_and_the_rest_is_measured(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_a: Any, **_o: Any) -> ColdStarts:
        raise ServiceError("it did not start", why="no idea")

    monkeypatch.setattr(pipeline.cold, "cold_starts", fails)
    record = line.bench()
    assert record.notes == ["cold starts: not measured: it did not start no idea"]
    assert len(record.in_process) == 2


def test_groups_keep_their_numbers_and_cold_starts_are_joined(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "grouped", lambda builds, _room: [builds[:1], builds])
    record = line.bench()
    assert [(run.subject, run.group) for run in record.http] == [
        ("stock", 0),
        ("stock", 1),
        ("inference", 1),
    ]
    assert record.cold_starts is not None
    assert [one.subject for one in record.cold_starts.launches] == ["stock", "stock", "inference"]
