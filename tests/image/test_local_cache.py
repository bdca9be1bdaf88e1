"""The local cache is worth something on an engine that has never seen the build."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tfslim.build.cache import LocalCache
from tfslim.config import CacheConfig
from tfslim.engine import embedded
from tfslim.engine.engine import Engine, find_engine
from tfslim.ui import Ui

pytestmark = pytest.mark.image


def build(engine: Engine, folder: Path, *options: str) -> str:
    lines: list[str] = []
    args = ["build", "--progress=plain", "--provenance=false", *options, str(folder)]
    done = engine.buildx(args, lines.append)
    assert done.ok, done.tail
    return "\n".join(lines)


def test_another_engine_takes_every_step_from_the_exported_cache(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine.embedded or os.geteuid() != 0:
        pytest.skip("a second engine is made only where the first is tfslim's own, as root")
    source = tmp_path / "source"
    source.mkdir()
    (source / "Dockerfile").write_text("FROM scratch\nCOPY a /a\nCOPY b /b\n")
    for name in ("a", "b"):
        (source / name).write_bytes(os.urandom(1000))
    cache = LocalCache(CacheConfig(dir=tmp_path / "cache", max_bytes=1))
    with cache.export("x", "digest") as destination:
        assert "CACHED" not in build(engine, source, "--cache-to", destination)

    # Short, because sockets lie below it.
    monkeypatch.setenv("TFSLIM_HOME", tempfile.mkdtemp(prefix="tfslim-"))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    ui = Ui(interactive=False)
    try:
        other = find_engine(ui, setup=True)
        assert other.data_root != engine.data_root
        (imported,) = cache.sources("x")
        assert build(other, source, "--cache-from", imported).count("CACHED") == 2
    finally:
        embedded.purge(ui)
