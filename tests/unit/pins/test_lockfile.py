"""Locks: read, made by uv from an index, written in one step."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_index import FakeIndex

from tfslim.errors import ConfigError, InputError, NetworkError
from tfslim.pins.lockfile import Resolution, parse_lock, resolve, write_lock
from tfslim.pins.settings import IndexSettings

A, B = "a" * 64, "b" * 64


def test_packages_versions_and_hashes() -> None:
    text = (
        f"# head\nPy_Yaml==6.0 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n    # via x\n"
    )
    found = parse_lock(text)
    assert set(found) == {"py-yaml"}
    assert found["py-yaml"].version == "6.0"
    assert found["py-yaml"].hashes == {A, B}


@pytest.mark.parametrize(
    "line",
    [
        "x==1",
        f"x>=1 --hash=sha256:{A}",
        f"x @ file:///tmp/x.whl --hash=sha256:{A}",
        "x==1 --hash=sha256:abc",
        f"--index-url https://somewhere/simple --hash=sha256:{A}",
        f"./x.whl --hash=sha256:{A}",
    ],
)
def test_what_is_not_pinned_with_a_hash_is_no_lock(line: str) -> None:
    with pytest.raises(InputError):
        parse_lock(line)


def wanted(tmp_path: Path, **pins: str) -> Resolution:
    service = tmp_path / "requirements.txt"
    service.write_text("# the service\npackaging==24.0\n")
    names = {f"nvidia-{name}-cu12": version for name, version in pins.items()}
    return Resolution("2.21.0", "3.13", names, service=service)


def test_uv_locks_the_chosen_versions_with_the_indexs_hashes(
    stocked: FakeIndex, tmp_path: Path
) -> None:
    settings = IndexSettings(f"{stocked.url}/simple")
    body = resolve(wanted(tmp_path, cublas="12.6.4.1", nvjitlink="12.5.82"), settings)
    locked = parse_lock(body)
    assert {name: item.version for name, item in locked.items()} == {
        "nvidia-cublas-cu12": "12.6.4.1",
        "nvidia-nvjitlink-cu12": "12.5.82",
        "packaging": "24.0",
        "tensorflow": "2.21.0",
    }
    files = {entry["filename"]: entry for page in stocked.pages.values() for entry in page["files"]}
    cublas = files["nvidia_cublas_cu12-12.6.4.1-py3-none-manylinux2014_x86_64.whl"]
    assert locked["nvidia-cublas-cu12"].hashes == {cublas["hashes"]["sha256"]}
    for word in (stocked.url, str(tmp_path), "http"):
        assert word not in body


def test_versions_that_tensorflow_does_not_take_are_refused(
    stocked: FakeIndex, tmp_path: Path
) -> None:
    settings = IndexSettings(f"{stocked.url}/simple")
    with pytest.raises(ConfigError, match=r"no set of packages for TensorFlow 2\.21\.0"):
        resolve(wanted(tmp_path, cublas="11.0"), settings)
    with pytest.raises(ConfigError, match="does not take nvidia-cudnn-cu12"):
        resolve(wanted(tmp_path, cudnn="9.3"), settings)


def test_an_index_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(NetworkError):
        resolve(wanted(tmp_path), IndexSettings("http://127.0.0.1:9/simple"))


def test_a_lock_is_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.txt"
    write_lock(path, ["first", ""], f"x==1 --hash=sha256:{A}\n")
    assert path.read_text().splitlines()[:2] == ["# first", "#"]
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]
    assert set(parse_lock(path.read_text())) == {"x"}
