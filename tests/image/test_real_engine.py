"""The real engine: it builds, exports a cache, uses it, and its Debian base is a usable Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfslim.build.bases import ensure_bases
from tfslim.engine.engine import Engine, find_engine
from tfslim.ui import Ui

pytestmark = pytest.mark.image

PYTHON = "python:3.13-slim-trixie"
TAG = "tfslim-test/engine:1"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    found = find_engine(Ui(), setup=os.geteuid() == 0)
    yield found
    client = found.client()
    for image in client.images.list(TAG.partition(":")[0]):
        client.images.remove(image.id, force=True)
    client.close()


def build(engine: Engine, folder: Path, *options: str) -> list[str]:
    lines: list[str] = []
    args = ["build", "--progress=plain", f"--network={engine.build_network}", "--load", *options]
    done = engine.buildx([*args, "-t", TAG, str(folder)], lines.append)
    assert done.ok, done.tail
    return lines


def test_build_with_local_cache_and_metadata(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\n")
    metadata = tmp_path / "metadata.json"
    options = [f"--metadata-file={metadata}"]
    if engine.cache_export:
        options.append(f"--cache-to=type=local,dest={tmp_path}/cache,mode=max")
    build(engine, tmp_path, *options)
    assert json.loads(metadata.read_text())["containerimage.digest"].startswith("sha256:")
    assert (tmp_path / "cache/index.json").exists() is engine.cache_export
    assert any("CACHED" in line for line in build(engine, tmp_path))


def test_debian_base_stands_in_for_the_registrys_name(engine: Engine, tmp_path: Path) -> None:
    base = ensure_bases(engine, [PYTHON], "debian", Ui())[PYTHON]
    (tmp_path / "Dockerfile").write_text(f"""\
FROM {PYTHON}
RUN python -m venv /venv && /venv/bin/pip --version
RUN apt-get update -qq && apt-cache show bash > /dev/null
CMD ["/venv/bin/python", "-c", "import ssl, sqlite3, ctypes; print('works')"]
""")
    build(engine, tmp_path, f"--build-context={PYTHON}={base.context}")
    client = engine.client()
    assert client.containers.run(TAG, remove=True) == b"works\n"
    listed = client.containers.run(
        TAG, ["dpkg-query", "-W", "-f", r"${binary:Package}\n"], remove=True
    )
    client.close()
    names = {package.partition("=")[0] for package in base.packages}
    assert set(listed.decode().split()) == names
