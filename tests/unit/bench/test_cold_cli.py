"""`tfslim bench --cold-start` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from cold_fakes import FakeDocker, FakeImage
from tfslim import cli_coldstart
from tfslim.bench.device import Device
from tfslim.bench.results import ColdStarts
from tfslim.cli import cli
from tfslim.errors import EngineError, TfslimError
from tfslim.report.record import RunRecord


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """An engine with one foreign image, on a machine without root."""
    client = FakeDocker({"you/own:2": FakeImage(delay=0.001), "you/other": FakeImage(delay=0.001)})

    def line(*_: object, **__: object) -> SimpleNamespace:
        said = {"version_info": dict, "driver": "docker", "driver_reason": "a test"}
        return SimpleNamespace(engine=SimpleNamespace(client=lambda: client, **said))

    def no_root(_: object) -> None:
        raise EngineError("it needs root")

    monkeypatch.setattr(cli_coldstart, "Line", line)
    monkeypatch.setattr(cli_coldstart, "choose_device", lambda *_: Device(gpu=False, text="none"))
    monkeypatch.setattr(cli_coldstart, "find_tools", no_root)
    return client


def bench(folder: Path, *args: str) -> ColdStarts:
    command = ["-q", "bench", "--cold-start", "--cold-cache", "off", "--json", "-o", str(folder)]
    done = CliRunner().invoke(cli, [*command, *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return ColdStarts.model_validate(json.loads(done.stdout))


def test_images_by_reference_or_by_a_name(engine: FakeDocker, tmp_path: Path) -> None:
    result = bench(tmp_path, "mine=you/own:2", "you/other", "--launches", "2")
    assert [one.subject for one in result.launches] == ["mine", "you/other", "you/other", "mine"]
    assert any("it needs root" in note for note in result.notes)
    assert ColdStarts.model_validate_json((tmp_path / "coldstart.json").read_text()) == result
    assert not (tmp_path / "launches.jsonl").exists()
    record = RunRecord.load(tmp_path / "report.json")
    assert record.cold_starts == result
    assert "| mine |" in (tmp_path / "coldstart.md").read_text()


def test_seven_launches_if_nothing_is_said(engine: FakeDocker, tmp_path: Path) -> None:
    assert len(bench(tmp_path, "you/own:2", "--pulls", "0").launches) == 7


def test_options_of_cold_starts_alone_say_so() -> None:
    done = CliRunner().invoke(cli, ["bench", "--pulls", "2"])
    assert isinstance(done.exception, TfslimError)
    assert "--pulls" in str(done.exception)
