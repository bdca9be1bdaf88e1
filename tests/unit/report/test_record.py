from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from run_records import document, http_run, inspection, make, starts
from tfslim import proc
from tfslim.cli_report import keep_cold_starts
from tfslim.errors import InputError
from tfslim.report.machine import find_ci, find_source
from tfslim.report.record import RunRecord, merge, pins_of, record_schema

ROOT = Path(__file__).parents[3]
FIRST = sorted((ROOT / "tests" / "fixtures" / "records").glob("version-1-*.json"))
PUBLISHED = sorted((ROOT / "benchmarks" / "results").glob("*/report.json"))
MANY = [http_run("inference", 0.01 * turn, turn, requests=2000) for turn in range(1, 4)]


def read(text: str | bytes) -> RunRecord:
    return RunRecord.parse(text.encode() if isinstance(text, str) else text, name="a record")


def test_a_record_is_read_back_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    record.save(tmp_path / "report.json")
    assert RunRecord.load(tmp_path / "report.json") == record


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_results_are_read(path: Path) -> None:
    assert RunRecord.load(path).subjects


@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_records_of_version_1_are_read(path: Path) -> None:
    text = json.loads(path.read_text())
    record = RunRecord.load(path)
    assert (text["schema_version"], record.schema_version) == (1, 2)
    assert record.environment.machine_key == "x86_64, 2 × AMD EPYC, 24 GiB"
    assert len(record.measurements) == len(text["measurements"]) > 0
    assert record.subjects[0] == "stock"
    assert record.cold_starts is None
    assert record.environment.source.commit == ""


def test_a_newer_version_says_what_to_do() -> None:
    with pytest.raises(InputError, match="version 3; this tfslim reads up to 2") as caught:
        read(json.dumps(document(schema_version=3)))
    assert "newer" in caught.value.way_out


def test_fields_of_the_future_are_passed_over() -> None:
    assert read(json.dumps(document(from_tomorrow={"a": [1]}))) == make()


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '{"schema_version": true}', "\xff"])
def test_what_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a run record"):
        read(text.encode("latin-1"))


def test_a_missing_record_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        RunRecord.load(tmp_path / "none.json")
    assert "tfslim bench" in caught.value.way_out


def hostile(place: str, value: str) -> str:
    """Return a record's text with something else at a place."""
    text = json.dumps(
        document(
            sizes={"inference": inspection()}, cold_starts=starts(inference=[1]), http=MANY[:1]
        )
    )
    assert place in text
    return text.replace(place, value, 1)


DISK = '"disk_bytes": 3000000000'


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (DISK, '"disk_bytes": -1', "sizes.inference.disk_bytes: a negative number"),
        (DISK, '"disk_bytes": NaN', "NaN is no number"),
        (DISK, '"disk_bytes": -Infinity', "-Infinity is no number"),
        (DISK, '"disk_bytes": 1e999', "too large"),
        (DISK, '"disk_bytes": ' + "9" * 30, "too large"),
        (DISK, '"disk_bytes": ' + "9" * 400, "too large"),
        (DISK, '"disk_bytes": ' + "9" * 5000, "no JSON"),
        (DISK, '"disk_bytes": "3 GB"', "sizes.inference.disk_bytes"),
        ('"first_answer_s": 1', '"first_answer_s": -1', "a negative number"),
        ('"latencies_s": [0.01', '"latencies_s": [-5.0', "http.0.latencies_s.0: a negative number"),
        ('"latencies_s": [0.01', '"latencies_s": [null', "http.0.latencies_s.0"),
        ("an image", "x" * 30_000, "a text of more than"),
        ('"gpu": null', '"' + "k" * 600 + '": null', "a key of more than"),
        ('"gpu": null', '"gpu": ' + "[" * 40 + "]" * 40, "deep"),
        ('"gpu": null', '"gpu": ' + "[" * 100_000 + "]" * 100_000, "no JSON|deep"),
        ('"schema_version": 2', '"schema_version": 2, "others": [{"others": [{}]}]', "parts"),
        ('"schema_version": 2', '"schema_version": 2, "others": 5', "others"),
        ('"schema_version": 2', '"schema_version": "2"', "schema_version"),
        ('"gpu": null', '"gpu": [' + "[]," * 2_000_000 + "[]]", "more than 1000000 values"),
    ],
)
def test_a_hostile_record_is_refused_with_its_place(place: str, value: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        read(hostile(place, value))
    assert re.search(why, caught.value.why)
    assert len(str(caught.value)) < 2000


def test_a_record_that_is_too_large_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        read(b" " * ((16 << 20) + 1))
    assert "larger than 16 MiB" in caught.value.why


# ---- samples beside the record ----


def test_many_samples_go_into_a_file_beside_it(tmp_path: Path) -> None:
    record = make(http=MANY)
    path, samples = record.save(tmp_path / "report.json")
    assert samples.name == "report.samples.json.gz"
    assert path.stat().st_size < 20_000
    assert RunRecord.load(path) == record
    assert record.save(tmp_path / "report.json")[1].read_bytes() == samples.read_bytes()


def test_few_samples_stay_inside(tmp_path: Path) -> None:
    assert len(make(http=MANY[:1]).save(tmp_path / "report.json")) == 1


def test_without_the_file_it_is_read_with_a_note(tmp_path: Path) -> None:
    record = make(http=MANY)
    path, samples = record.save(tmp_path / "report.json")
    samples.unlink()
    found = RunRecord.load(path)
    assert any("raw samples" in note for note in found.notes)
    assert [run.samples_per_second for run in found.http] == [
        run.samples_per_second for run in record.http
    ]
    assert found.http[0].latencies_s[0] == pytest.approx(0.01)


def test_quantiles_stand_for_the_samples(tmp_path: Path) -> None:
    run = {**http_run("inference", 0.01), "latencies_s": [i / 1000 for i in range(1, 6001)]}
    path, samples = make(http=[run]).save(tmp_path / "report.json")
    samples.unlink()
    found = RunRecord.load(path).http[0].latencies_s
    assert len(found) == 6000
    assert sorted(found)[5400] == pytest.approx(5.4, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../etc/passwd"},
        {"file": "other.json"},
        {"sha256": "0" * 64},
    ],
)
def test_a_file_that_is_not_the_one_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    path, _ = make(http=MANY).save(tmp_path / "report.json")
    data = json.loads(path.read_text())
    data["samples"] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="not a run record"):
        RunRecord.load(path)


@pytest.mark.parametrize("content", [b"[]", b"[[1,2]]", b"{}", b"not JSON", b"[[" + b"-1," * 3])
def test_samples_that_are_not_what_the_record_says(tmp_path: Path, content: bytes) -> None:
    path, samples = make(http=MANY).save(tmp_path / "report.json")
    samples.write_bytes(gzip.compress(content))
    data = json.loads(path.read_text())
    data["samples"]["sha256"] = hashlib.sha256(samples.read_bytes()).hexdigest()
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="not a run record"):
        RunRecord.load(path)


@pytest.mark.parametrize(
    "reference",
    [{}, {"list": 0, "n": 10**12, "quantiles": [1, 2]}, {"list": 0, "n": 5, "quantiles": []}],
)
def test_a_reference_that_is_none(reference: dict[str, Any]) -> None:
    run = {**http_run("inference", 0.01), "latencies_s": reference}
    samples = {"file": "x.samples.json.gz", "sha256": "0" * 64}
    with pytest.raises(InputError, match="not a run record"):
        read(json.dumps(document(http=[run], samples=samples)))


# ---- machine, commit, CI, pins ----


def test_the_same_kind_of_machine_has_the_same_key() -> None:
    one = make(environment={"kernel": "6.1", "memory_bytes": 8 * 2**30 - 12345})
    other = make(environment={"kernel": "6.18"})
    assert one.environment.machine_key == other.environment.machine_key
    assert one.environment.machine_key == "x86_64, 2 × A CPU, 8 GiB"


def test_gpus_are_part_of_the_key() -> None:
    gpu = {"name": "NVIDIA H200", "driver": "550"}
    found = make(environment={"gpus": [gpu]}).environment.machine_key
    assert found.endswith("NVIDIA H200")


def test_the_commit_of_a_repository(tmp_path: Path) -> None:
    assert find_source(tmp_path).commit == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-qb", "main"], ["add", "."], [*who, "commit", "-qm", "x"]):
        assert proc.run(["git", "-C", str(tmp_path), *command]).ok
    clean = find_source(tmp_path)
    assert (len(clean.commit), clean.ref, clean.changed) == (40, "main", False)
    (tmp_path / "file").write_text("2")
    assert find_source(tmp_path).changed


def test_the_job_of_github_actions() -> None:
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7"}
    found = find_ci(variables)
    assert found is not None
    assert found.url == "https://github.com/o/r/actions/runs/7"
    assert find_ci({}) is None


def test_pins_name_the_lock_and_its_digest() -> None:
    lock = next((ROOT / "dockerfiles" / "locks").glob("*2.21.0*sm90.txt"))
    pins = pins_of(lock)
    assert pins.lock == lock.name
    assert pins.packages["tensorflow"] == "2.21.0"
    assert len(pins.sha256) == 64


# ---- parts ----


def test_merging_mixes_nothing() -> None:
    one = make(sizes={"stock": inspection()}, budgets={"stock": {"max_pull": 5}})
    two = make(
        environment={"cpu": "Another"},
        sizes={"inference": inspection()},
        budgets={"stock": {"max_pull": 6}, "inference": {"max_pull": 7}},
    )
    joined = merge([merge([one, two]), one])
    assert joined.subjects == ["stock", "inference"]
    assert [part.environment.cpu for part in joined.parts] == ["A CPU", "Another", "A CPU"]
    assert joined.budgets["stock"].max_pull == 5
    assert joined.budgets["inference"].max_pull == 7
    assert read(joined.model_dump_json()) == joined


def test_what_images_say_of_themselves_moves_to_the_record() -> None:
    size = inspection(
        removals=[{"rule": "headers", "removed_bytes": 5, "count": 1}],
        gates=[{"name": "zoo", "outcome": "passed"}],
    )
    record = make(sizes={"inference": size}).described()
    assert record.removals["inference"][0].rule == "headers"
    assert record.parity["inference"][0].outcome == "passed"
    assert record.sizes["inference"].removals == []


def test_cold_starts_join_what_the_folder_has(tmp_path: Path) -> None:
    found = make(cold_starts=starts(inference=[1.0])).cold_starts
    assert found is not None
    where = make().environment
    path = keep_cold_starts(found, where, tmp_path)
    assert RunRecord.load(path).cold_starts == found

    make(sizes={"stock": inspection()}).save(path)
    keep_cold_starts(found, where, tmp_path)
    both = RunRecord.load(path)
    assert (list(both.sizes), both.cold_starts) == (["stock"], found)

    elsewhere = make(environment={"cpu": "Another"}).environment
    keep_cold_starts(found, elsewhere, tmp_path)
    head, other = RunRecord.load(path).parts
    assert (list(head.sizes), other.environment.cpu) == (["stock"], "Another")

    path.write_text("mine")
    assert keep_cold_starts(found, where, tmp_path).name == "report-cold-starts.json"
    assert path.read_text() == "mine"


# ---- the schema ----


def test_the_published_schema_is_the_one_of_this_version() -> None:
    published = ROOT / "docs" / "record.schema.json"
    again = "run: tfslim report --schema > docs/record.schema.json"
    assert json.loads(published.read_text()) == record_schema(), again


def test_written_records_fit_the_schema(record: RunRecord, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = record_schema()
    whole = make(http=MANY, sizes={"x": inspection()}, cold_starts=starts(x=[1, 2]))
    for number, one in enumerate((record, whole, merge([record, whole]))):
        path, *_ = one.save(tmp_path / str(number) / "report.json")
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_a_written_record_is_strict_json(tmp_path: Path) -> None:
    bad = make(http=[http_run("x", 1.0)])
    run = bad.http[0].model_copy(update={"latencies_s": (float("nan"),)})
    with pytest.raises(ValueError, match="JSON compliant"):
        bad.model_copy(update={"http": [run]}).save(tmp_path / "r.json")
