"""A user's own Dockerfile, built with the cache beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tfslim.build.bake import BuildLog, build_failure
from tfslim.build.own import OwnBuild, build_own
from tfslim.config import CacheConfig, Config
from tfslim.engine.engine import Engine
from tfslim.errors import BuildFailedError, DiskError, TfslimError
from tfslim.ui import Ui


class _Engine:
    cache_export = True
    cache_reason = ""


class _Bake:
    """Stands for buildx: keeps what it is asked for, writes a cache, or fails."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.said: str | None = None

    def __call__(
        self,
        engine: Engine,
        target: str,
        definition: dict[str, Any],
        log: BuildLog,
        *,
        variables: dict[str, str],
        ours: bool,
        failure: Callable[[str, str, Path], TfslimError],
    ) -> dict[str, Any]:
        assert not ours
        self.asked.append(dict(definition["target"][target]))
        if self.said is not None:
            raise failure(target, self.said, log.path)
        for line in ("#1 [1/2] RUN x", "#1 CACHED", "#2 [2/2] RUN y"):
            log(line)
        for place in definition["target"][target].get("cache-to", ()):
            folder = Path(place.partition("dest=")[2].partition(",")[0])
            (folder / "blobs/sha256").mkdir(parents=True)
            (folder / "index.json").write_text("{}")
        return {"containerimage.digest": "sha256:1"}


@pytest.fixture
def bake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Bake:
    monkeypatch.chdir(tmp_path)
    fake = _Bake()
    monkeypatch.setattr("tfslim.build.bake.run_bake", fake)
    return fake


def _build(tmp_path: Path, **more: Any) -> str:
    config = Config(cache=CacheConfig(dir=tmp_path / "cache", max_bytes=1))
    build = OwnBuild("own-app", "x/app:1", Path("docker/Dockerfile"), Path(), **more)
    return build_own(cast("Engine", _Engine()), build, config, Ui(quiet=True))


def test_bake_is_told_what_the_inputs_say(bake: _Bake, tmp_path: Path) -> None:
    assert _build(tmp_path, target="serving", args={"A": "1,2"}) == "sha256:1"
    asked = bake.asked[0]
    assert asked["dockerfile"] == str(tmp_path / "docker/Dockerfile")
    assert asked["context"] == str(tmp_path)
    assert (asked["target"], asked["args"], asked["tags"]) == ("serving", {"A": "1,2"}, ["x/app:1"])
    assert asked["output"][0].startswith("type=docker,oci-mediatypes=true,compression=zstd")
    assert asked["cache-from"] == []


def test_the_cache_is_exported_once_for_an_image_and_used_again(
    bake: _Bake, tmp_path: Path
) -> None:
    _build(tmp_path)
    _build(tmp_path)
    first, export, second = bake.asked
    assert export["output"] == ["type=cacheonly"]
    assert "cache-to" not in first
    assert "cache-to" not in second  # the same image again
    assert second["cache-from"] == [f"type=local,src={tmp_path / 'cache/own-app'}"]
    assert "target" not in first


def test_a_failed_build_names_the_dockerfile_and_a_way_out(bake: _Bake, tmp_path: Path) -> None:
    bake.said = "ERROR: process did not complete"
    with pytest.raises(BuildFailedError, match="docker/Dockerfile") as told:
        _build(tmp_path)
    assert "process did not complete" in told.value.why
    assert "`image`" in told.value.way_out


def test_a_full_disk_is_told_as_one(bake: _Bake, tmp_path: Path) -> None:
    bake.said = "no space left on device"
    with pytest.raises(DiskError):
        _build(tmp_path)
    assert isinstance(build_failure("x", bake.said, tmp_path), DiskError)
