from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from run_records import http_run, inspection, make, starts
from tfslim.report.dashboards import action_benchmark, pytest_benchmark, write_dashboards
from tfslim.report.record import RunRecord

GOLDEN = Path(__file__).parents[2] / "fixtures" / "records"
# The keys of pytest-benchmark's Stats.fields, and what Metadata.as_dict adds (stats.py).
STATS = {
    *("min", "max", "mean", "stddev", "rounds", "median", "iqr", "q1", "q3", "iqr_outliers"),
    *("stddev_outliers", "outliers", "ld15iqr", "hd15iqr", "ops", "total", "data", "iterations"),
}


@pytest.fixture
def run() -> RunRecord:
    return make(
        environment={"source": {"commit": "c" * 40, "ref": "main"}},
        sizes={"inference": inspection(pull=1000, disk=2000)},
        cold_starts=starts(inference=[1.0, 1.2, 1.1, 1.4, 1.3]),
        http=[http_run("inference", 0.01, turn) for turn in range(5)],
    )


def test_smaller_and_bigger_is_better(run: RunRecord) -> None:
    smaller, bigger = action_benchmark(run, "smaller"), action_benchmark(run, "larger")
    assert smaller[0] == {"name": "inference / pull", "unit": "bytes", "value": 1000.0}
    start = next(item for item in smaller if "cold-start" in str(item["name"]))
    assert (start["value"], start["unit"], start["range"]) == (1.2, "s", "± 0.2")
    assert [item["name"] for item in bigger] == ["inference / http-rate batch=1 clients=4"]
    assert not {item["name"] for item in smaller} & {item["name"] for item in bigger}


def test_entries_are_what_github_action_benchmark_reads(run: RunRecord) -> None:
    """Its zod schema: name and unit are text, value a number, range and extra text or missing."""
    for better in ("smaller", "larger"):
        for item in action_benchmark(run, better):  # type: ignore[arg-type]
            assert set(item) <= {"name", "unit", "value", "range", "extra"}
            assert isinstance(item.pop("value"), float)
            assert all(isinstance(value, str) for value in item.values())
            assert {"name", "unit"} <= set(item)


def test_times_are_what_pytest_benchmark_writes(run: RunRecord) -> None:
    data = pytest_benchmark(run)
    assert set(data) == {"machine_info", "commit_info", "benchmarks", "datetime", "version"}
    assert (data["commit_info"]["id"], data["commit_info"]["branch"]) == ("c" * 40, "main")
    start = data["benchmarks"][0]
    assert set(start) == {
        *("group", "name", "fullname", "params", "param", "extra_info", "options", "stats"),
    }
    assert set(start["stats"]) == STATS
    assert start["fullname"] == "inference / cold-start cold-cache"
    stats = start["stats"]
    assert stats["median"] == 1.2
    assert stats["ops"] == pytest.approx(1 / 1.2)
    assert (stats["q1"], stats["q3"]) == (pytest.approx(1.1), pytest.approx(1.3))
    assert stats["data"] == [1.0, 1.2, 1.1, 1.4, 1.3]


def test_pytest_benchmark_itself_compares_the_file(run: RunRecord, tmp_path: Path) -> None:
    write_dashboards(run, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "pytest-benchmark.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "inference" in done.stdout
    assert "cold-start cold-cache" in done.stdout


def test_one_launch_and_none(tmp_path: Path) -> None:
    one = pytest_benchmark(make(cold_starts=starts(x=[2.0])))
    assert one["benchmarks"][0]["stats"]["stddev"] == 0
    assert pytest_benchmark(make())["benchmarks"] == []
    assert [path.name for path in write_dashboards(make(), tmp_path)] == [
        "pytest-benchmark.json",
        "smaller-is-better.json",
        "bigger-is-better.json",
    ]


@pytest.mark.parametrize("name", ["pytest-benchmark", "smaller-is-better", "bigger-is-better"])
def test_the_golden_files(run: RunRecord, tmp_path: Path, name: str) -> None:
    """To renew them after a wanted change: write_dashboards(run, GOLDEN / "dashboards")."""
    write_dashboards(run, tmp_path)
    found, golden = (
        json.loads((folder / f"{name}.json").read_text())
        for folder in (tmp_path, GOLDEN / "dashboards")
    )
    for data in (found, golden):
        if isinstance(data, dict):
            assert data.pop("version").startswith("tfslim ")
    assert found == golden
