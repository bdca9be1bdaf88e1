"""A stranger's artifact: read with limits, refused with a reason, never a traceback."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import stat
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import report_records
import run_records
from fake_github import zipped
from tfslim.errors import InputError
from tfslim.github import parcel
from tfslim.github.parcel import open_parcel

STATE = {"id": "tfslim", "status": "done", "exit_code": 0, "verdict": "good"}


def _files(**more: Any) -> dict[str, bytes]:
    sizes = {"app": run_records.inspection()}
    return {
        "action.json": json.dumps({**STATE, **more}).encode(),
        "report.json": json.dumps(run_records.document(sizes=sizes)).encode(),
        "report.md": b"[click](https://evil.example)",
        "plots/sizes-light.svg": b"<svg onload=alert(1)>",
    }


def _open(content: bytes, tmp_path: Path) -> parcel.Parcel:
    path = tmp_path / "artifact.zip"
    path.write_bytes(content)
    return open_parcel(path)


def _refused(content: bytes, tmp_path: Path) -> str:
    with pytest.raises(InputError) as caught:
        _open(content, tmp_path)
    return str(caught.value)


def test_what_a_job_leaves(tmp_path: Path) -> None:
    found = _open(zipped(_files()), tmp_path)
    assert found.state.id == "tfslim"
    assert found.record is not None
    assert found.record.subjects == ["app"]


def test_a_whole_report_as_it_is_written(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report_records.full().save(report / "report.json")
    files = {path.name: path.read_bytes() for path in report.iterdir()}
    found = _open(zipped({**files, "action.json": _files()["action.json"]}), tmp_path)
    assert found.record == report_records.full()


def test_a_job_that_came_to_nothing(tmp_path: Path) -> None:
    files = _files(status="failed", exit_code=7, verdict="error")
    del files["report.json"]
    found = _open(zipped(files), tmp_path)
    assert found.record is None
    assert found.state.exit_code == 7


def test_samples_are_read_from_their_file_alone(tmp_path: Path) -> None:
    record = report_records.full()
    files = _files()
    files["report.samples.json.gz"] = gzip.compress(b"[" * 1000)
    assert _open(zipped(files), tmp_path).record != record  # nothing refers to it: passed over


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "..", "a\\..\\b", "C:x", "a\0b", "x" * 301, "."],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    packed = zipped({**_files(), "placeholder": b"x"})
    if "\0" in name:  # the packer would cut it
        packed = zipped({**_files(), "a?b": b"x"}).replace(b"a?b", b"a\0b")
        assert "which is no name" in _refused(packed, tmp_path)
        return
    assert "which " in _refused(zipped({**_files(), name: b"x"}), tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    packed = io.BytesIO(zipped(_files()))
    with zipfile.ZipFile(packed, "a") as archive:
        item = zipfile.ZipInfo("link")
        item.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(item, "/etc/passwd")
    assert "which is a link" in _refused(packed.getvalue(), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["report.json", "REPORT.json", "Action.json"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO(zipped(_files()))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"{}")
    assert "twice" in _refused(packed.getvalue(), tmp_path)


def test_other_ways_of_packing_are_refused(tmp_path: Path) -> None:
    packed = io.BytesIO(zipped(_files()))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("big.xz", b"x" * 1000, zipfile.ZIP_LZMA)
    assert "not ours" in _refused(packed.getvalue(), tmp_path)


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"action.json": b"{}"}))
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    assert "encrypted" in _refused(bytes(content), tmp_path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    files = {f"f{number}": b"" for number in range(2_001)}
    assert "more than 2000 files" in _refused(zipped({**_files(), **files}), tmp_path)


def test_too_large_a_zip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 1 << 20)
    assert "larger than 1 MiB" in _refused(b"x" * (1 << 20) + b"y", tmp_path)


def test_a_bomb_is_refused_by_what_it_says(tmp_path: Path) -> None:
    packed = zipped({**_files(), "zeros": bytes(1 << 20)})
    said = struct.pack("<I", 1 << 20)
    assert packed.count(said) >= 1
    claims = packed.replace(said, struct.pack("<I", 0x7FFFFFFF))
    assert "unpacks to more than 512 MiB" in _refused(claims, tmp_path)


@pytest.mark.parametrize("name", ["report.json", "action.json"])
def test_a_bomb_is_refused_by_what_it_is(tmp_path: Path, name: str) -> None:
    big = zipped({**_files(), name: b" " * (17 << 20)})
    assert len(big) < 100_000
    assert f"its {name} is larger than" in _refused(big, tmp_path)
    # And where the directory says that it is small:
    lies = big.replace(struct.pack("<I", 17 << 20), struct.pack("<I", 10))
    assert "action.json" in _refused(lies, tmp_path) or "damaged" in _refused(lies, tmp_path)


def test_samples_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    files = _files()
    files["report.samples.json.gz"] = gzip.compress(bytes(33 << 20))
    assert "unpacks to more than 32 MiB" in _refused(zipped(files), tmp_path)
    files["report.samples.json.gz"] = b"no gzip"
    assert "is damaged" in _refused(zipped(files), tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'{"schema_version": 99}',
        b'{"schema_version": 2, "started": "now"}',
        json.dumps(run_records.document(notes=["x" * 30_000])).encode(),
        json.dumps(run_records.document(extra=float("nan"))).encode(),
        json.dumps(run_records.document(extra=-1)).encode(),
        json.dumps(run_records.document(extra=10**400)).encode(),
        json.dumps(run_records.document(environment={"cpus": "many"})).encode(),
    ],
)
def test_records_that_are_none(tmp_path: Path, record: bytes) -> None:
    assert "report.json" in _refused(zipped({**_files(), "report.json": record}), tmp_path)


def test_a_record_of_thousands_of_images_is_refused(tmp_path: Path) -> None:
    sizes = dict.fromkeys(map(str, range(201)), run_records.inspection())
    record = json.dumps(run_records.document(sizes=sizes)).encode()
    told = _refused(zipped({**_files(), "report.json": record}), tmp_path)
    assert "more than 200 images" in told


def test_a_record_of_thousands_of_measures_is_refused(tmp_path: Path) -> None:
    runs = [run_records.http_run("app", 1.0) for _ in range(5_001)]
    runs = [{**run, "batch_size": number + 1} for number, run in enumerate(runs)]
    record = json.dumps(run_records.document(http=runs)).encode()
    told = _refused(zipped({**_files(), "report.json": record}), tmp_path)
    assert "more than 5000 measures" in told


@pytest.mark.parametrize(
    "state",
    [
        {"id": "../../x"},
        {"id": "a" * 41},
        {"exit_code": 256},
        {"verdict": "excellent"},
        {"repository": "org/app/../x"},
        {"pull_request": "five"},
        {"head_sha": "main"},
        {"unknown": 1},
    ],
)
def test_states_that_are_none(tmp_path: Path, state: dict[str, object]) -> None:
    files = _files()
    files["action.json"] = json.dumps({**STATE, **state}).encode()
    assert "action.json" in _refused(zipped(files), tmp_path)


def test_without_a_state_it_is_no_report(tmp_path: Path) -> None:
    files = _files()
    del files["action.json"]
    assert "no action.json" in _refused(zipped(files), tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 100_000),
)
def test_a_damaged_zip_is_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(zipped(_files()))
    for at, value in changes:
        content[at % len(content)] = value
    content = content[: len(content) - cut % (len(content) * 3)] if cut % 3 == 0 else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "artifact.zip")
        path.write_bytes(bytes(content))
        with contextlib.suppress(InputError):
            open_parcel(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(sorted(run_records.document(sizes={}, notes=[], others=[], http=[]))),
    value=_JSON,
    inside=st.booleans(),
)
def test_any_json_in_a_record_is_read_or_refused(key: str, value: object, inside: bool) -> None:
    document = run_records.document(sizes={"app": run_records.inspection()})
    if inside:
        document["sizes"]["app"][key] = value
    else:
        document[key] = value
    files = {**_files(), "report.json": json.dumps(document).encode()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "artifact.zip")
        path.write_bytes(zipped(files))
        with contextlib.suppress(InputError):
            assert open_parcel(path).state.id == "tfslim"
