from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_records import inspection, starts, write
from tfslim import proc
from tfslim.cli import cli
from tfslim.report.baseline import open_records
from tfslim.report.history import (
    ALPHA,
    History,
    HistorySeries,
    change_points,
    make_history,
    sparkline,
)

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def gauss(n: int, seed: int, level: float = 1.0, noise: float = 0.03) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(level, noise) for _ in range(n)]


# ---- change points ----


def test_a_series_without_a_change_is_flagged_about_as_often_as_stated() -> None:
    flagged = sum(bool(change_points(gauss(30, seed))) for seed in range(300))
    assert flagged <= 300 * ALPHA + 3 * (300 * ALPHA) ** 0.5


def test_outliers_are_no_change() -> None:
    flagged = 0
    for seed in range(100):
        source = random.Random(seed)
        series = [value * (3 if source.random() < 0.1 else 1) for value in gauss(30, seed)]
        flagged += bool(change_points(series))
    assert flagged <= 5


@pytest.mark.parametrize("at", [8, 15, 22])
def test_a_step_is_found_where_it_is(at: int) -> None:
    found = 0
    for seed in range(50):
        series = [*gauss(at, seed), *gauss(30 - at, seed + 1000, level=1.12)]
        cuts = change_points(series)
        found += any(abs(index - at) <= 1 for index, _ in cuts)
        assert len(cuts) <= 3
    assert found >= 45


def test_several_steps_are_found() -> None:
    series = [*gauss(15, 1), *gauss(15, 2, level=1.3), *gauss(15, 3, level=0.9)]
    assert [index for index, _ in change_points(series)] == [15, 30]


@pytest.mark.parametrize("series", [[], [1.0], [1.0] * 40, [1.0, 2.0] * 3])
def test_too_little_or_nothing_to_see(series: list[float]) -> None:
    assert change_points(series) == []


def test_the_same_series_gives_the_same_answer() -> None:
    series = [*gauss(12, 1), *gauss(12, 2, level=1.2)]
    assert change_points(series) == change_points(series) != []


@pytest.mark.parametrize(
    ("values", "line"),
    [([1, 2, 3], "▁▅█"), ([5, 5], "▁▁"), ([100, 100.5], "▁▁"), ([0, 0], "▁▁")],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert sparkline(values) == line


# ---- from records ----


def day(folder: Path, number: int, **record: Any) -> Path:
    started = (FIRST + timedelta(days=number)).isoformat()
    source = {"commit": f"{number:040x}", "ref": "main"}
    where = {"source": source, **record.pop("environment", {})}
    return write(
        folder / f"{number:03}" / "report.json", started=started, environment=where, **record
    )


def series(history: History, measure: str) -> HistorySeries:
    return next(item for item in history.series if item.measure == measure)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return 24 runs: the image grows at 12, and starts more slowly from 14 on."""
    folder = tmp_path / "results"
    for number in range(24):
        level = 1.0 if number < 14 else 1.25
        day(
            folder,
            number,
            sizes={"inference": inspection(pull=10**9 if number < 12 else 11 * 10**8)},
            cold_starts=starts(inference=gauss(5, number, level=level)),
        )
    return folder


def read(folder: Path) -> History:
    records = open_records(str(folder))
    assert records is not None
    return make_history(records, str(folder))


def test_series_by_measure_with_their_changes(results: Path) -> None:
    history = read(results)
    assert history.records == 24
    pull = series(history, "pull")
    (grown,) = pull.changes
    assert (grown.index, grown.kind, grown.p_value) == (12, "worse", None)
    assert grown.ratio == pytest.approx(1.1)
    assert pull.machine == ""
    start = series(history, "cold-start cold-cache")
    (slower,) = start.changes
    assert (slower.index, slower.kind) == (14, "worse")
    assert slower.p_value is not None
    assert slower.p_value <= ALPHA
    assert start.points[0].commit == "0" * 40
    assert start.points[3].n == 5
    assert series(history, "phase imports cold-cache").detail


def test_machines_are_apart(tmp_path: Path) -> None:
    for number in range(4):
        cpu = {"cpu": "Fast" if number % 2 else "Slow"}
        day(
            tmp_path,
            number,
            environment=cpu,
            sizes={"inference": inspection()},
            cold_starts=starts(inference=[1.0]),
        )
    found = [item for item in read(tmp_path).series if item.measure == "cold-start cold-cache"]
    assert [(len(item.points), item.machine.split()[3]) for item in found] == [
        (2, "Slow,"),
        (2, "Fast,"),
    ]
    assert len(series(read(tmp_path), "pull").points) == 4


def test_creeping_growth_adds_up(tmp_path: Path) -> None:
    for number in range(10):
        size = inspection(disk=10**9 + number * 2_000_000)
        day(tmp_path, number, sizes={"inference": size})
    assert [change.index for change in series(read(tmp_path), "disk").changes] == [3, 6, 9]


def test_what_cannot_be_read_is_skipped_with_a_word(tmp_path: Path) -> None:
    day(tmp_path, 1, sizes={"inference": inspection()})
    day(tmp_path, 2, schema_version=7)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"benchmarks": []}')
    history = read(tmp_path)
    assert history.records == 1
    assert len(history.skipped) == 2
    assert any("version 7" in reason for reason in history.skipped)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["history", *arguments])


def test_the_verb_prints_a_table_and_the_changes(results: Path) -> None:
    done = run(str(results), "--measure", "cold-start*")
    assert done.exit_code == 0, done.output
    assert "worse: inference cold-start cold-cache 1.00 s → 1.2" in done.output
    assert "from 2026-01-15" in done.output
    assert "pull" not in done.output
    assert "█" in done.output


def test_the_verb_gives_data_and_files(results: Path, tmp_path: Path) -> None:
    done = run(str(results), "--json", "-o", str(tmp_path / "out"))
    assert {item["measure"] for item in json.loads(done.stdout)["series"]} == {
        "pull",
        "disk",
        "wasted",
        "cold-start cold-cache",
        "resident cold-cache",
    }
    History.model_validate_json((tmp_path / "out" / "history.json").read_text())
    assert list((tmp_path / "out" / "plots").glob("*.svg"))


def test_a_branch_is_read(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-qb", "results"], ["add", "."], [*who, "commit", "-qm", "x"]):
        assert proc.run(["git", "-C", str(results), *command]).ok
    monkeypatch.chdir(results)
    whole, part = run("git:results", "--json"), run("git:results:003", "--json")
    assert json.loads(whole.stdout)["records"] == 24
    assert json.loads(part.stdout)["records"] == 1


@pytest.mark.parametrize("place", ["nowhere", "git:nowhere"])
def test_a_place_that_is_not_there(place: str) -> None:
    done = run(place)
    assert getattr(done.exception, "exit_code", 0) == 2


def test_a_folder_without_records(tmp_path: Path) -> None:
    assert getattr(run(str(tmp_path)).exception, "exit_code", 0) == 9


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    day(tmp_path, 1, sizes={"\x1b[31mred": inspection()})
    assert "\x1b[31m" not in run(str(tmp_path)).output
