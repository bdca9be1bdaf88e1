from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from run_records import http_run, inspection, make, start, starts, write
from tfslim import proc
from tfslim.config import Threshold
from tfslim.errors import ConfigError, InputError
from tfslim.report.baseline import find_baseline
from tfslim.report.compare import BaselineInfo, Comparison, MeasureChange, compare
from tfslim.report.record import RunRecord, merge

RECORDS = Path(__file__).parents[2] / "fixtures" / "records"
FOUND = BaselineInfo(source="before", found=True)


def against(now: RunRecord, then: RunRecord, *thresholds: Threshold) -> Comparison:
    return compare(now, then, FOUND, thresholds)


def change(comparison: Comparison, subject: str, measure: str) -> MeasureChange:
    return next(
        item
        for found in comparison.subjects
        if found.subject == subject
        for item in found.measures
        if item.measure == measure
    )


def sized(**size: Any) -> RunRecord:
    return make(sizes={"inference": inspection(**size)})


def timed(seconds: Sequence[float], stock: Sequence[float] = (), **more: Any) -> RunRecord:
    given = {"inference": seconds, **({"stock": stock} if stock else {})}
    return make(cold_starts=starts(**given), **more)


def spread(middle: float, seed: int, n: int = 9) -> list[float]:
    noise = random.Random(seed)
    return [middle * noise.gauss(1, 0.01) for _ in range(n)]


# ---- sizes ----


@pytest.mark.parametrize(
    ("pull", "verdict"),
    [
        (1_000_000_000, "same"),
        (1_004_000_000, "same"),  # under half a percent
        (1_006_000_000, "worse"),
        (990_000_000, "better"),
    ],
)
def test_sizes_are_exact(pull: int, verdict: str) -> None:
    found = against(sized(pull=pull), sized())
    assert change(found, "inference", "pull").verdict == verdict
    assert change(found, "inference", "pull").basis == "size"
    assert found.verdict == verdict
    assert change(found, "inference", "pull").delta == pull - 1_000_000_000


def test_a_change_of_less_than_a_megabyte_counts_for_nothing() -> None:
    found = against(sized(disk=10_900_000), sized(disk=10_000_000))
    assert change(found, "inference", "disk").verdict == "same"


def test_sizes_of_another_machine_are_compared() -> None:
    then = make(environment={"cpu": "Another"}, sizes={"inference": inspection()})
    found = against(sized(pull=2_000_000_000), then)
    assert change(found, "inference", "pull").verdict == "worse"
    assert not found.same_machine


def test_a_size_that_was_not_known() -> None:
    found = against(sized(), sized(pull=None))
    assert change(found, "inference", "pull").verdict == "not compared"
    assert change(found, "inference", "pull").why == "not in the baseline"


# ---- times ----


def test_times_of_another_machine_are_shown_and_not_judged() -> None:
    then = timed(spread(1.0, 1), environment={"cpu": "Another"})
    found = against(timed(spread(2.0, 2)), then)
    item = change(found, "inference", "cold-start cold-cache")
    assert (item.verdict, item.basis) == ("not compared", "none")
    assert item.why == "the baseline is of another machine"
    assert item.baseline == pytest.approx(1.0, rel=0.02)
    assert found.verdict == "not compared"
    assert any("Another machine" in note for note in found.notes)


@pytest.mark.parametrize(
    ("middle", "verdict"), [(1.0, "same"), (1.3, "worse"), (0.7, "better"), (1.1, "inconclusive")]
)
def test_a_time_is_judged_by_its_whole_interval(middle: float, verdict: str) -> None:
    found = against(timed(spread(middle, 1)), timed(spread(1.0, 2)))
    item = change(found, "inference", "cold-start cold-cache")
    assert (item.verdict, item.basis) == (verdict, "plain")
    assert bool(item.why) == (verdict == "inconclusive")


def test_a_busier_machine_raises_no_alarm_where_stock_took_turns() -> None:
    then = timed(spread(1.0, 1), spread(2.0, 2))
    now = timed(spread(1.5, 3), spread(3.0, 4))
    found = against(now, then)
    item = change(found, "inference", "cold-start cold-cache")
    assert item.ratio is not None
    assert item.ratio.value == pytest.approx(1.5, rel=0.03)
    assert (item.verdict, item.basis) == ("same", "stock")
    assert change(found, "stock", "cold-start cold-cache").verdict == "not compared"
    assert found.verdict == "same"


def test_a_slower_image_on_a_busier_machine_is_seen() -> None:
    found = against(timed(spread(2.2, 3), spread(3.0, 4)), timed(spread(1.0, 1), spread(2.0, 2)))
    assert change(found, "inference", "cold-start cold-cache").verdict == "worse"


def test_few_launches_say_nothing() -> None:
    found = against(timed([1.5, 1.5, 1.5]), timed([1.0, 1.0, 1.0]))
    item = change(found, "inference", "cold-start cold-cache")
    assert (item.verdict, item.why) == ("inconclusive", "3 launches; 5 are needed")
    assert found.verdict == "inconclusive"  # it looks worse


def test_what_is_wide_and_does_not_look_worse_is_no_alarm() -> None:
    wide = [0.7, 0.8, 1.0, 1.2, 1.3]
    found = against(timed(wide), timed(wide))
    assert change(found, "inference", "cold-start cold-cache").verdict == "inconclusive"
    assert found.verdict == "same"


def test_more_is_better_for_rates() -> None:
    now = make(http=[http_run("inference", 0.02, turn) for turn in range(5)])
    then = make(http=[http_run("inference", 0.01, turn) for turn in range(5)])
    assert change(against(now, then), "inference", "http-rate batch=1 clients=4").verdict == "worse"
    assert (
        change(against(then, now), "inference", "http-rate batch=1 clients=4").verdict == "better"
    )


def test_an_a_a_run_raises_alarms_in_few_of_a_hundred() -> None:
    """Two runs of the same thing, with a noise of 4 % between launches."""
    alarms = 0
    for seed in range(200):
        noise = random.Random(seed)
        runs = [[noise.gauss(1, 0.04) for _ in range(7)] for _ in range(4)]
        found = against(timed(runs[0], runs[1]), timed(runs[2], runs[3]))
        alarms += found.verdict == "worse"
    assert alarms <= 2


def test_thresholds_by_variant_machine_and_measure() -> None:
    now, then = timed(spread(1.06, 1)), timed(spread(1.0, 2))
    for rule, verdict in (
        (Threshold(measure="cold-start*", change=0.02), "worse"),
        (Threshold(measure="cold-start*", machine="*A CPU*", change=0.02), "worse"),
        (Threshold(measure="cold-start*", machine="*H200*", change=0.02), "same"),
        (Threshold(variant="stock", change=0.02), "same"),
    ):
        found = against(now, then, rule)
        assert change(found, "inference", "cold-start cold-cache").verdict == verdict, rule


def test_phases_are_not_judged() -> None:
    found = against(timed(spread(1, 1)), timed(spread(1, 2)))
    assert not [i for s in found.subjects for i in s.measures if i.measure.startswith("phase")]


def test_another_device_is_not_compared() -> None:
    cold = starts(inference=spread(1, 1))
    now = make(cold_starts={**cold, "device": "NVIDIA H200"})
    found = against(now, timed(spread(1, 2)))
    item = change(found, "inference", "cold-start cold-cache")
    assert item.why == "the baseline is of another device"


def test_caches_are_different_measures() -> None:
    cold = {
        "device": "CPU",
        "cold_cache": "dropped",
        "launches": [start("a", 1.0, 0, "cold"), start("a", 0.5, 0, "warm")],
    }
    names = [i.measure for i in against(make(cold_starts=cold), make()).subjects[0].measures]
    assert names == [
        "cold-start cold-cache",
        "resident cold-cache",
        "cold-start warm-cache",
        "resident warm-cache",
    ]


def test_parts_of_two_machines_find_their_own_baseline() -> None:
    fast = {"environment": {"cpu": "Fast"}}
    slow = {"environment": {"cpu": "Slow"}}
    then = merge([timed(spread(1.0, 1), **fast), timed(spread(3.0, 2), **slow)])
    now = merge([timed(spread(3.0, 3), **slow), timed(spread(2.0, 4), **fast)])
    found = against(now, then)
    verdicts = {
        item.machine.partition("× ")[2][:4]: item.verdict
        for item in found.subjects[0].measures
        if item.measure.startswith("cold-start")
    }
    assert verdicts == {"Slow": "same", "Fast": "worse"}


def test_a_machine_that_is_busier_is_told() -> None:
    now = make(environment={"load_average": 9.0}, sizes={"inference": inspection()})
    then = make(environment={"load_average": 0.5}, sizes={"inference": inspection()})
    assert "not as busy" in against(now, then).notes[0]
    assert against(then, then).notes == []


# ---- contents ----


def test_layers_packages_libraries_and_rules() -> None:
    then = sized(
        layers=[("sha256:a", "base", 100), ("sha256:b", "RUN pip", 500), ("sha256:c", "old", 5)],
        packages={"tensorflow": ("2.20", 400), "rich": ("1", 10), "same": ("1", 1)},
        libraries={"x/libcublas.so.12": 50, "x/libgone.so": 5, "x/libsame.so": 1},
        removals=[{"rule": "headers", "removed_bytes": 10, "count": 1}],
    ).described()
    now = sized(
        layers=[("sha256:a", "base", 100), ("sha256:d", "RUN pip", 700), ("sha256:e", "new", 7)],
        packages={"tensorflow": ("2.21", 600), "keras": ("3", 20), "same": ("1", 1)},
        libraries={"y/libcublas.so.12": 90, "x/libsame.so": 1},
        removals=[{"rule": "headers", "removed_bytes": 30, "count": 1}],
    ).described()
    found = against(now, then).subjects[0]
    assert found.state == "changed"
    assert [(i.state, i.created_by, i.unpacked_bytes) for i in found.layers] == [
        ("same", "base", 100),
        ("changed", "RUN pip", 700),
        ("added", "new", 7),
        ("removed", "old", 0),
    ]
    assert [(i.state, i.name, i.version, i.baseline_version) for i in found.packages] == [
        ("changed", "tensorflow", "2.21", "2.20"),
        ("added", "keras", "3", None),
        ("removed", "rich", None, "1"),
    ]
    assert [(i.state, i.name, i.disk_bytes - i.baseline_disk_bytes) for i in found.libraries] == [
        ("changed", "libcublas.so.12", 40),
        ("removed", "libgone.so", -5),
    ]
    assert [(i.rule, i.removed_bytes, i.baseline_removed_bytes) for i in found.removals] == [
        ("headers", 30, 10)
    ]


def test_subjects_that_came_and_went() -> None:
    found = against(make(sizes={"new": inspection()}), make(sizes={"old": inspection()}))
    assert [(item.subject, item.state) for item in found.subjects] == [
        ("new", "added"),
        ("old", "removed"),
    ]


def test_parity_is_the_worst_that_was_asked() -> None:
    def parity(*outcomes: str) -> RunRecord:
        gates = [{"name": str(n), "outcome": outcome} for n, outcome in enumerate(outcomes)]
        return sized(gates=gates).described()

    found = against(parity("passed", "not asked"), parity("passed", "failed")).subjects[0]
    assert (found.parity, found.baseline_parity) == ("passed", "failed")
    found = against(parity("<script>"), sized()).subjects[0]
    assert (found.parity, found.baseline_parity) == ("inconclusive", "not measured")


# ---- baselines ----


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    for text in (str(tmp_path / "none.json"), str(tmp_path), "git:no-such-branch"):
        record, info = find_baseline(text)
        assert record is None
        assert info.note.startswith("There is no baseline")
        found = compare(make(), record, info)
        assert (found.verdict, found.notes) == ("not compared", [info.note])


@pytest.mark.parametrize("text", ["git:", "git:--output=x", "git:a b", "git:-x:y"])
def test_a_ref_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="names no commit"):
        find_baseline(text)


def test_a_folder_and_a_zip_of_an_artifact(tmp_path: Path) -> None:
    write(tmp_path / "artifact" / "tfslim-report" / "report.json")
    write(tmp_path / "artifact" / "other.json", started="2020-01-01T00:00:00Z")
    packed = tmp_path / "artifact.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(tmp_path / "artifact" / "tfslim-report" / "report.json", "report.json")
    for text in (str(tmp_path / "artifact"), str(packed), f"artifact:{packed}"):
        record, info = find_baseline(text)
        assert record is not None
        assert (info.source, info.found, record.started.year) == (text, True, 2026)


def test_a_file_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("no")
    with pytest.raises(InputError, match="not a run record"):
        find_baseline(str(path))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("report.json", "no")
    with pytest.raises(InputError, match="not a run record"):
        find_baseline(str(tmp_path / "x.zip"))


def test_a_record_of_a_commit_comes_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [http_run("inference", 0.01 * turn, turn, requests=3000) for turn in (1, 2)]
    record = make(http=runs)
    record.save(tmp_path / "tfslim-report" / "report.json")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-qb", "main"], ["add", "."], [*who, "commit", "-qm", "x"]):
        assert proc.run(["git", "-C", str(tmp_path), *command]).ok
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    for text in ("git:main", "git:HEAD:tfslim-report", "git:main:tfslim-report/report.json"):
        assert find_baseline(text)[0] == record
    assert find_baseline("git:main:nowhere/report.json")[0] is None


def test_one_machine_in_two_states() -> None:
    """It was busy for one record and quiet for the other; the images are the same."""
    busy, quiet = (RunRecord.load(RECORDS / f"version-1-{name}.json") for name in ("busy", "quiet"))
    found = against(busy, quiet)
    assert found.same_machine
    assert found.verdict != "worse"
    items = [item for subject in found.subjects for item in subject.measures]
    assert {item.verdict for item in items if item.basis == "size"} == {"same"}
    assert change(found, "inference", "first-answer").basis == "stock"
