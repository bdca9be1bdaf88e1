from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tfslim.build.cache import LocalCache
from tfslim.config import CacheConfig
from tfslim.engine.engine import Engine
from tfslim.ui import Ui


def cache(tmp_path: Path, **settings: Any) -> LocalCache:
    return LocalCache(CacheConfig(dir=tmp_path / "cache", **settings))


def engine(*, can_export: bool = True) -> Engine:
    fake = SimpleNamespace(cache_export=can_export, cache_reason="the store cannot")
    return cast("Engine", fake)


def exported(at: LocalCache, variant: str, digest: str, blobs: dict[str, bytes]) -> None:
    """Do what buildx does: write blobs, then index.json."""
    with at.export(variant, digest) as destination:
        folder = Path(destination.split("dest=")[1].split(",")[0])
        (folder / "blobs/sha256").mkdir(parents=True)
        for name, content in blobs.items():
            (folder / "blobs/sha256" / name).write_bytes(content)
        (folder / "index.json").write_text("{}")


def interrupted(at: LocalCache) -> None:
    with at.export("stock", "d2") as destination:
        folder = Path(destination.split("dest=")[1].split(",")[0])
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt


def test_a_cache_is_read_only_once_it_is_complete(tmp_path: Path) -> None:
    at = cache(tmp_path)
    assert at.sources("stock") == []
    exported(at, "stock", "d1", {"a": b"1"})
    assert at.sources("stock") == [f"type=local,src={tmp_path / 'cache' / 'stock'}"]
    assert at.holds("stock", "d1")
    assert not at.holds("stock", "d2")


def test_an_interrupted_export_leaves_the_old_cache_and_nothing_else(tmp_path: Path) -> None:
    at = cache(tmp_path)
    exported(at, "stock", "d1", {"a": b"1"})
    with pytest.raises(KeyboardInterrupt):
        interrupted(at)
    assert at.holds("stock", "d1")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["stock"]


def test_a_new_export_replaces_the_old_one_so_that_it_does_not_grow(tmp_path: Path) -> None:
    at = cache(tmp_path)
    exported(at, "stock", "d1", {"a": b"1" * 1000})
    exported(at, "stock", "d2", {"b": b"2" * 10})
    assert at.bytes() == 10


def test_blobs_of_several_variants_are_stored_once(tmp_path: Path) -> None:
    at = cache(tmp_path)
    exported(at, "stock", "d1", {"same": b"x" * 1000})
    exported(at, "inference", "d2", {"same": b"x" * 1000, "own": b"y" * 10})
    assert at.bytes() == 1010


def test_the_oldest_caches_go_when_all_together_are_too_large(tmp_path: Path) -> None:
    at = cache(tmp_path, max_bytes=1500)
    exported(at, "stock", "d1", {"a": b"1" * 1000})
    exported(at, "inference", "d2", {"b": b"2" * 1000})
    assert at.sources("stock") == []
    assert at.sources("inference")


def test_where_the_driver_cannot_export_it_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = cache(tmp_path)
    ui = Ui(interactive=False)
    assert not at.usable(engine(can_export=False), ui)
    assert not at.usable(engine(can_export=False), ui)
    assert capsys.readouterr().err.count("the store cannot") == 1


def test_too_little_disk_means_no_export_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = cache(tmp_path, max_bytes=10**18)
    assert not at.usable(engine(), Ui(interactive=False))
    assert "cache.max-bytes" in capsys.readouterr().err


def test_switched_off_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not cache(tmp_path, local=False).usable(engine(can_export=False), Ui(interactive=False))
    assert capsys.readouterr().err == ""
