"""What is taken from a package index, and what a bad one cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_index import FakeIndex

from tfslim.errors import ConfigError, NetworkError
from tfslim.pins.index import PackageIndex, requires_dist
from tfslim.pins.settings import IndexSettings
from tfslim.ui import Ui


@pytest.fixture
def client(index: FakeIndex) -> PackageIndex:
    return PackageIndex(IndexSettings(f"{index.url}/simple"), "3.13", Ui(quiet=True))


def test_wheels_that_fit_oldest_first(index: FakeIndex, client: PackageIndex) -> None:
    for version in ("12.10.1", "12.9.1", "12.2.1"):
        index.add("nvidia-x-cu12", version)
    assert [str(wheel.version) for wheel in client.wheels("nvidia-x-cu12")] == [
        "12.2.1",
        "12.9.1",
        "12.10.1",
    ]


def test_what_cannot_be_used_or_locked_does_not_count(
    index: FakeIndex, client: PackageIndex
) -> None:
    index.add("x", "1.0")
    index.add("x", "2.0", tag="py3-none-win_amd64")
    index.add("x", "2.1", tag="py3-none-manylinux2014_aarch64")
    index.add("x", "2.2", tag="cp311-cp311-manylinux2014_x86_64")
    index.add("x", "2.3", tag="py3-none-manylinux_2_39_x86_64")
    index.add("x", "3.0rc1")
    index.add("x", "3.1.dev7")
    index.add("x", "4.0")["yanked"] = "broken"
    index.add("x", "5.0")["requires-python"] = ">=3.14"
    index.add("x", "6.0")["hashes"] = {}
    index.add("x", "7.0")["hashes"] = {"sha256": "short"}
    index.add("x", "8.0")["filename"] = "../../etc/x-8.0-py3-none-any.whl"
    index.add("x", "9.0")["filename"] = "other-9.0-py3-none-any.whl"
    index.add("x", "10.0")["filename"] = "x-10.0.tar.gz"
    assert [str(wheel.version) for wheel in client.wheels("x")] == ["1.0"]


@pytest.mark.parametrize(
    "answer",
    [
        b"<not json",
        b"[]",
        b"null",
        b'{"meta": {"api-version": "9.0"}, "name": "x", "files": []}',
        b'{"meta": {"api-version": "1.0"}, "name": "x", "files": [{"filename": 7}]}',
        b'{"meta": {"api-version": "1.0"}, "name": "x", "files": {"a": 1}}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_none_is_an_error(
    index: FakeIndex, client: PackageIndex, answer: bytes
) -> None:
    index.pages["x"] = answer
    with pytest.raises(NetworkError) as raised:
        client.wheels("x")
    assert "list of x" in raised.value.what


def test_an_unknown_package_is_named(index: FakeIndex, client: PackageIndex) -> None:
    with pytest.raises(ConfigError, match="list of nowhere: there is no such package"):
        client.wheels("nowhere")


def test_a_login_in_the_address_is_never_shown(index: FakeIndex) -> None:
    settings = IndexSettings(index.url.replace("http://", "http://me:secret@") + "/simple")
    with pytest.raises(ConfigError) as raised:
        PackageIndex(settings, "3.13", Ui(quiet=True)).wheels("nowhere")
    assert "secret" not in str(raised.value)


def test_an_index_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfslim.pins.index._ATTEMPTS", 0)
    client = PackageIndex(IndexSettings("http://127.0.0.1:9/simple"), "3.13", Ui(quiet=True))
    with pytest.raises(NetworkError, match="could not be had from"):
        client.wheels("x")


@pytest.mark.parametrize("metadata", [True, False])
def test_requirements_with_or_without_the_wheel(
    index: FakeIndex, client: PackageIndex, tmp_path: Path, metadata: bool
) -> None:
    index.add("x", "1.0", metadata=metadata, requires=("y>=2", 'z; extra == "more"'))
    (wheel,) = client.wheels("x")
    listed = requires_dist(client.metadata(wheel, tmp_path))
    assert [item.name for item in listed] == ["y", "z"]


def test_a_download_is_checked_and_found_again(
    index: FakeIndex, client: PackageIndex, tmp_path: Path
) -> None:
    index.add("x", "1.0")
    (wheel,) = client.wheels("x")
    path = client.download(wheel, tmp_path)
    assert path.read_bytes() == index.files[f"/files/{wheel.filename}"]
    index.files.clear()
    assert client.download(wheel, tmp_path) == path


def test_a_download_with_another_hash_is_an_error_and_nothing_is_kept(
    index: FakeIndex, client: PackageIndex, tmp_path: Path
) -> None:
    index.add("x", "1.0")
    (wheel,) = client.wheels("x")
    index.files[f"/files/{wheel.filename}"] += b"more"
    with pytest.raises(NetworkError, match="promised; nothing was kept"):
        client.download(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_wheel_that_was_changed_is_downloaded_again(
    index: FakeIndex, client: PackageIndex, tmp_path: Path
) -> None:
    index.add("x", "1.0")
    (wheel,) = client.wheels("x")
    (tmp_path / wheel.filename).write_bytes(b"broken")
    assert client.download(wheel, tmp_path).stat().st_size == wheel.size
