"""Whose files are put out of the page cache, and whether they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tfslim.bench import pagecache

LINE = "88 64 0:39 / / rw,relatime master:2 - overlay overlay rw,{},upperdir=/u,workdir=/w\n"
OTHER = "89 88 0:44 / /proc rw,nosuid - proc proc rw\n"


def test_layers_of_a_container(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    whole = OTHER + LINE.format(f"lowerdir={one}:{two}")
    assert pagecache.lower_folders(whole) == (one, two)
    newer = LINE.format(f"lowerdir+={one},lowerdir+={two}")
    assert pagecache.lower_folders(newer) == (one, two)


@pytest.mark.parametrize("lower", ["lowerdir=l/A:l/B", "lowerdir=/not/there", "index=off"])
def test_layers_that_cannot_be_seen(lower: str) -> None:
    assert pagecache.lower_folders(LINE.format(lower)) == ()


def test_a_mount_below_the_root_is_not_the_image(tmp_path: Path) -> None:
    text = LINE.format(f"lowerdir={tmp_path}").replace(" / / ", " / /data ")
    assert pagecache.lower_folders(text) == ()


def test_largest_files_first_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/big").write_bytes(bytes(3 << 20))
    (tmp_path / "middle").write_bytes(bytes(2 << 20))
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "sub/big")
    found = pagecache.largest_files([tmp_path])
    assert found == (tmp_path / "sub/big", tmp_path / "middle")


def test_evicted_files_are_out_of_memory(tmp_path: Path) -> None:
    if shutil.which("fincore") is None:
        pytest.skip("fincore is not installed")
    (tmp_path / "file").write_bytes(os.urandom(4 << 20))
    cache = pagecache.choose("evict", [tmp_path])
    assert cache.way == "evict"
    assert pagecache.resident_share([tmp_path / "file"]) == 1.0
    cache.empty([tmp_path])
    left = pagecache.resident_share([tmp_path / "file"])
    if left == 1.0:
        pytest.skip("this file system keeps its files in memory")
    assert left == 0.0


def test_why_only_warm_starts_are_measured(tmp_path: Path) -> None:
    assert pagecache.choose("off", [tmp_path]).text == (
        "not measured: switched off (--cold-cache off)"
    )
    assert "not lie on this machine" in pagecache.choose("auto", []).text


def test_nothing_is_said_of_no_files() -> None:
    assert pagecache.resident_share([]) is None
