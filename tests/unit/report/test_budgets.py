from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_records import http_run, inspection, make, starts, write
from tfslim.cli import cli
from tfslim.report.budgets import BudgetResult, check_budgets
from tfslim.report.record import RunRecord

CUBLAS = "opt/venv/nvidia/cublas/lib/libcublasLt.so.12"


def run(budget: dict[str, Any], subject: str = "inference", **record: Any) -> RunRecord:
    return make(budgets={subject: budget}, **record)


def only(record: RunRecord, baseline: RunRecord | None = None) -> BudgetResult:
    (found,) = check_budgets(record, baseline)
    return found


# ---- each limit ----


@pytest.mark.parametrize("key", ["pull", "disk"])
@pytest.mark.parametrize(("limit", "state"), [(2000, "kept"), (1000, "kept"), (999, "broken")])
def test_sizes(key: str, limit: int, state: str) -> None:
    size = inspection(pull=1000, disk=1000)
    found = only(run({f"max_{key}": limit}, sizes={"inference": size}))
    assert (found.budget, found.state, found.actual, found.unit) == (
        f"max-{key}",
        state,
        1000,
        "bytes",
    )


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        ([1.0, 1.1, 1.0, 1.1, 1.2], "kept"),
        ([2.5, 2.6, 2.7, 2.6, 2.5], "broken"),
        ([1.5, 1.9, 2.1, 2.2, 1.8], "inconclusive"),
        ([1.0], "kept"),
        ([1.9, 2.1], "inconclusive"),
    ],
)
def test_cold_start(seconds: list[float], state: str) -> None:
    found = only(run({"max_cold_start": 2.0}, cold_starts=starts(inference=seconds)))
    assert (found.state, found.measure) == (state, "cold-start cold-cache")
    assert bool(found.why) == (state == "inconclusive")


def test_cold_start_without_a_cold_cache_is_the_warm_one() -> None:
    cold = starts(inference=[1.0] * 5)
    for launch in cold["launches"]:
        launch["page_cache"] = "warm"
    found = only(run({"max_cold_start": 2.0}, cold_starts=cold))
    assert (found.state, found.measure) == ("kept", "cold-start warm-cache")


@pytest.mark.parametrize(("limit", "state"), [(300, "kept"), (500, "broken")])
def test_throughput_is_that_of_the_best_batch_size(limit: int, state: str) -> None:
    loads = [http_run("inference", 0.01, turn) for turn in range(5)]
    loads += [http_run("inference", 0.1, turn, batch=2) for turn in range(5)]
    found = only(run({"min_throughput": limit}, http=loads))
    assert (found.state, found.measure) == (state, "http-rate batch=1 clients=4")
    assert found.actual == pytest.approx(400)


@pytest.mark.parametrize(
    ("growth", "state"), [(50, "broken"), (150, "kept"), ("5 %", "broken"), ("20 %", "kept")]
)
def test_growth(growth: int | str, state: str) -> None:
    then = make(sizes={"inference": inspection(pull=1000, disk=1000)})
    now = run({"max_growth": growth}, sizes={"inference": inspection(pull=1100, disk=900)})
    pull, disk = check_budgets(now, then)
    assert (pull.budget, pull.state, pull.actual) == ("max-growth (pull)", state, 100)
    assert (disk.state, disk.actual) == ("kept", 0)


@pytest.mark.parametrize(("limit", "state"), [(200, "kept"), (199, "broken")])
def test_a_library(limit: int, state: str) -> None:
    size = inspection(libraries={CUBLAS: 200, "other/libcublasLt.so.12": 100})
    budget = {"libraries": {"libcublasLt.so.12": limit}}
    found = only(run(budget, sizes={"inference": size}))
    assert (found.budget, found.state, found.actual) == ("library libcublasLt.so.12", state, 200)


# ---- what was not measured ----


@pytest.mark.parametrize(
    "budget",
    [
        {"max_pull": 5},
        {"max_disk": 5},
        {"max_cold_start": 1.0},
        {"min_throughput": 1.0},
        {"libraries": {"libx.so": 5}},
    ],
)
def test_what_was_not_measured_is_said(budget: dict[str, Any]) -> None:
    found = only(run(budget))
    assert (found.state, found.actual) == ("not measured", None)
    assert found.why


def test_growth_without_a_baseline_is_not_measured() -> None:
    sizes = {"inference": inspection()}
    record = run({"max_growth": "2 %"}, sizes=sizes)
    assert {item.why for item in check_budgets(record)} == {"no baseline was given"}
    assert {item.why for item in check_budgets(record, make())} == {"it is not in the baseline"}


def test_a_library_that_is_not_there() -> None:
    size = inspection(libraries={CUBLAS: 200})
    found = only(run({"libraries": {"libnone.so": 5}}, sizes={"inference": size}))
    assert found.why == "not in the image, or smaller than 256 KiB"


def test_a_library_that_is_gone_keeps_its_limit() -> None:
    size = inspection(libraries={CUBLAS: 200})
    found = only(run({"libraries": {"libnone.so": 1 << 20}}, sizes={"inference": size}))
    assert (found.state, found.actual) == ("kept", 0)


# ---- defaults ----


def test_the_default_fills_what_a_variant_does_not_say() -> None:
    sizes = {name: inspection(pull=1000, disk=1000) for name in ("stock", "inference", "training")}
    budgets = {
        "default": {"max_pull": 10, "max_disk": 10, "libraries": {"a": 1}},
        "inference": {"max_pull": 5000, "libraries": {"b": 1}},
    }
    found = check_budgets(make(budgets=budgets, sizes=sizes))
    assert [(item.subject, item.budget, item.state) for item in found] == [
        ("inference", "max-pull", "kept"),
        ("inference", "max-disk", "broken"),
        ("inference", "library a", "not measured"),
        ("inference", "library b", "not measured"),
        ("training", "max-pull", "broken"),
        ("training", "max-disk", "broken"),
        ("training", "library a", "not measured"),
    ]


def test_stock_has_the_budgets_that_name_it() -> None:
    record = run({"max_pull": 5}, "stock", sizes={"stock": inspection()})
    assert only(record).state == "broken"


# ---- exit codes ----


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


SAME = {"inference": inspection()}
LARGER = {"inference": inspection(pull=2_000_000_000)}
BROKEN = {"inference": {"max_pull": 5}}
MISSING = {"inference": {"max_cold_start": 5}}
UNSURE = {"cold_starts": starts(inference=[1.0, 9.0, 1.0, 9.0, 9.0, 1.0])}


@pytest.mark.parametrize(
    ("record", "options", "code"),
    [
        ({"sizes": SAME}, [], 0),
        ({"sizes": SAME, "budgets": BROKEN}, [], 20),
        ({"sizes": LARGER, "budgets": BROKEN}, ["--baseline", "base.json"], 20),
        ({"sizes": LARGER}, ["--baseline", "base.json"], 22),
        ({"sizes": LARGER}, ["--baseline", "none"], 0),
        ({"sizes": LARGER}, ["--baseline", "nowhere.json"], 0),
        ({"sizes": LARGER, **UNSURE}, ["--baseline", "base.json"], 22),
        ({"sizes": SAME, **UNSURE}, ["--baseline", "base.json"], 21),
        ({"sizes": SAME, **UNSURE}, ["--baseline", "base.json", "--allow-inconclusive"], 0),
        ({"sizes": SAME, "budgets": MISSING}, [], 0),
        ({"sizes": SAME, "budgets": MISSING}, ["--strict"], 20),
        ({"sizes": SAME, "budgets": MISSING, **UNSURE}, [], 21),
        ({"schema_version": 9}, [], 9),
    ],
)
def test_exit_codes(place: Path, record: dict[str, Any], options: list[str], code: int) -> None:
    write(place / "tfslim-report" / "report.json", **record)
    write(place / "base.json", sizes=SAME, cold_starts=starts(inference=[1.0] * 5))
    done = report(*options)
    found = getattr(done.exception, "exit_code", done.exit_code)
    assert found == code, done.output


def test_what_is_missing_is_said_although_it_does_not_fail(place: Path) -> None:
    path = write(place / "run.json", sizes=SAME, budgets=MISSING)
    done = report(str(path), "--json")
    data = json.loads(done.stdout)
    assert data["budgets"][0]["state"] == "not measured"
    assert "not measured" in report(str(path), "--all").output


def test_budgets_of_the_configuration_come_before_those_of_a_record(place: Path) -> None:
    path = write(place / "run.json", sizes=SAME, budgets={"inference": {"max_pull": 5 * 10**9}})
    assert report(str(path)).exit_code == 0
    (place / "tfslim.yaml").write_text("budgets: {inference: {max-pull: 5 MB}}")
    assert report(str(path)).exit_code == 20


def test_the_baseline_of_the_configuration(place: Path) -> None:
    path = write(place / "run.json", sizes=LARGER)
    base = write(place / "base.json", sizes=SAME)
    (place / "tfslim.yaml").write_text(
        f"baseline: {base}\nbudgets: {{default: {{max-growth: 1 %}}}}"
    )
    assert report(str(path)).exit_code == 20
    (place / "tfslim.yaml").write_text(f"baseline: {base}")
    assert report(str(path)).exit_code == 22
    (place / "tfslim.yaml").write_text(
        f"baseline: {base}\nthresholds: [{{measure: pull, change: 150 %}}]"
    )
    assert report(str(path)).exit_code == 0


def test_parts_of_a_run_are_reported_together(place: Path) -> None:
    one = write(place / "one.json", sizes=SAME)
    two = write(place / "two.json", sizes={"stock": inspection()}, environment={"cpu": "Other"})
    done = report(str(one), str(two), "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["record"]["others"]) == 1


def test_the_files_of_a_report(place: Path) -> None:
    path = write(place / "run.json", sizes=SAME, **UNSURE)
    assert report(str(path), "-o", "out").exit_code == 0
    found = {file.name for file in (place / "out").iterdir()}
    assert {"report.md", "report.html", "report.json", "verdict.json", "dashboards"} <= found
    assert RunRecord.load(place / "out" / "report.json") == RunRecord.load(path)


def test_the_schema_is_printed(place: Path) -> None:
    schema = json.loads(report("--schema").stdout)
    assert schema["title"] == "A run record of tfslim, version 2"
