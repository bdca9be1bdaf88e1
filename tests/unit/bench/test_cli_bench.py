"""What `tfslim bench` understands, and what it refuses before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from tfslim import cli_bench
from tfslim.bench.results import InProcessRun, LoadgenRun
from tfslim.cli import cli
from tfslim.cli_bench import Wish, verdicts, wants_sources
from tfslim.config import Config
from tfslim.errors import ConfigError, TfslimError
from tfslim.report.machine import environment
from tfslim.report.record import RunRecord, now


def test_options_come_before_the_configuration() -> None:
    config = Wish(rate=50.0, concurrency=(2, 8), launches=9, runtime="rootfs").over(Config())
    assert (config.bench.rate, config.bench.concurrency) == (50.0, (2, 8))
    assert (config.bench.launches, config.bench.runtime) == (9, "rootfs")
    assert config.bench.seconds == Config().bench.seconds


def test_variants_and_sources_are_told_apart() -> None:
    assert not wants_sources([], Wish())
    assert not wants_sources(["stock", "inference"], Wish())
    assert wants_sources(["my/image:1", "a=./root"], Wish())
    with pytest.raises(ConfigError, match="stock is a variant, and my/image:1 an image"):
        wants_sources(["stock", "my/image:1"], Wish())


@pytest.mark.parametrize(
    ("names", "wish", "message"),
    [
        (["stock"], Wish(runtime="rootfs"), "variants are built"),
        (["stock"], Wish(only="calls"), "--only calls is for images and folders"),
        (["stock"], Wish(model="./m"), "--model is for images and folders"),
        (["a:1"], Wish(only="sizes"), "--only sizes builds variants"),
    ],
)
def test_options_that_fit_only_the_other_kind_are_refused(
    names: list[str], wish: Wish, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        wants_sources(names, wish)
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rate", "fast", "is not a rate such as 50"),
        ("--rate", "-1", "is not a rate"),
        ("--concurrency", "1,x", "is not a list such as 1,4,16"),
        ("--batch", "0", "is not a list"),
    ],
)
def test_values_that_mean_nothing_are_refused(option: str, value: str, message: str) -> None:
    done = CliRunner().invoke(cli, ["bench", option, value])
    assert done.exit_code == 2
    assert message in done.output


def test_the_line_gets_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Line:
        def bench(self, only: str, **options: Any) -> None:
            asked.append((only, options))

    monkeypatch.setattr(cli_bench, "check_loadgen", lambda: None)
    for wish in (Wish(), Wish(only="sizes"), Wish(only="throughput", loadgen=True)):
        cli_bench.measure_variants(Line(), wish, tmp_path)  # type: ignore[arg-type]
    assert [only for only, _ in asked] == ["full", "sizes", "throughput"]
    assert asked[2][1]["scenarios"] == ("SingleStream", "MultiStream", "Server", "Offline")


def test_a_required_gpu_is_an_error_before_anything_is_launched(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    done = CliRunner().invoke(cli, ["bench", str(root), "--gpu", "required", "--model", "demo:x"])
    assert isinstance(done.exception, TfslimError)


def run(name: str, turn: int, seconds: float) -> InProcessRun:
    return InProcessRun(
        subject=name,
        group=0,
        round=turn,
        device="CPU",
        batch_size=1,
        first_call_s=1.0,
        latencies_s=(seconds,) * 3,
        stable=True,
    )


def shown(record: RunRecord) -> str:
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(verdicts(record, 0.03))
    return console.export_text()


def test_verdicts_are_a_table_with_its_legend() -> None:
    calls = [run(n, turn, s) for n, s in (("[red]a", 1.0), ("b", 0.8)) for turn in range(5)]
    scenario = LoadgenRun(
        subject="b",
        device="CPU",
        scenario="Server",
        valid=True,
        early_stopping_met=True,
        samples_per_query=1,
        target_rate=20.0,
        figures={"Completed samples per second": 19.5},
        settings=("5 s where MLPerf's rules ask for 600 s",),
    )
    record = RunRecord(
        started=now(), environment=environment(None, "none"), in_process=calls, loadgen=[scenario]
    )
    text = shown(record)
    assert "0.800 [0.800, 0.800]" in text
    assert "faster" in text
    assert "same: the whole interval lies within ±3%" in text
    assert "MLPerf Server, b: valid; Completed samples per second 19.5 (5 s where" in text


def test_verdicts_are_kept_as_data(tmp_path: Path) -> None:
    calls = [run(n, turn, s) for n, s in (("a", 1.0), ("b", 2.0)) for turn in range(5)]
    record = RunRecord(started=now(), environment=environment(None, "none"), in_process=calls)
    (found,) = json.loads(cli_bench.keep_verdicts(record, 0.03, tmp_path / "new").read_text())
    assert (found["subject"], found["baseline"]) == ("b", "a")
    assert found["comparison"]["verdict"] == "slower"
    assert found["comparison"]["ratio"]["value"] == 2.0


def test_one_subject_has_no_verdict() -> None:
    record = RunRecord(
        started=now(), environment=environment(None, "none"), in_process=[run("a", 0, 1.0)]
    )
    assert shown(record).strip() == ""
