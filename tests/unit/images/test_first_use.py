"""What `tfslim build` says of code that is compiled at first use, from the guard's record."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any, cast

import pytest
from docker.errors import NotFound

from tfslim.build.bake import BuiltImage
from tfslim.config import Config
from tfslim.images.first_use import first_use_warnings
from tfslim.plan import make_plan


class Engine:
    """An engine with one image; `record` is its guard's, None where it has no guard."""

    def __init__(self, record: bytes | None, *, there: bool = True) -> None:
        self.record = record
        self.there = there
        self.left = 0
        self.containers = self

    def create(self, _tag: str, command: list[str]) -> Engine:
        if not self.there:
            raise NotFound("no such image")
        assert command
        self.left += 1
        return self

    def remove(self, *, force: bool) -> None:
        assert force
        self.left -= 1

    def close(self) -> None:
        """Nothing is open."""

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        if self.record is None:
            raise NotFound("no such file")
        assert path == "/opt/venv/lib/python3.13/site-packages/_tfslim.json"
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo("_tfslim.json")
            member.size = len(self.record)
            tar.addfile(member, io.BytesIO(self.record))
        return iter([file.getvalue()]), {"size": len(self.record)}


def warnings(engine: Engine) -> list[str]:
    (build,) = make_plan(Config(), ("inference",))
    image = BuiltImage(build=build, digest="", seconds=0, steps=0, cached_steps=0, bases={})
    said = first_use_warnings(lambda: cast("Any", engine), [image])
    assert engine.left == 0
    return said


def test_modules_are_counted_by_gpu() -> None:
    (line,) = warnings(Engine(json.dumps({"jit": {"90": 1149}}).encode()))
    assert "1149 modules of GPU code would be compiled from PTX on sm_90 at first use" in line
    assert "`aot: true`" in line


@pytest.mark.parametrize(
    "engine",
    [
        Engine(b'{"jit": {}}'),
        Engine(b"{}"),
        Engine(b"not JSON"),
        Engine(b"[]"),
        Engine(b'{"jit": [1]}'),
        Engine(None),
        Engine(b"{}", there=False),
    ],
    ids=["none", "older", "damaged", "other", "other inside", "no guard", "not here"],
)
def test_nothing_is_said_where_nothing_is_known(engine: Engine) -> None:
    assert warnings(engine) == []
