"""Builders by name or address: what is asked of them, and what is said where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tfslim.build.builder import parse_builder, use_builder
from tfslim.engine.engine import Endpoint, Engine
from tfslim.errors import EngineError
from tfslim.proc import Completed
from tfslim.ui import Ui

# What buildx 0.13 prints; newer ones say "Buildkit:" or "BuildKit version:", and may add lines.
SHOWN = """\
Name:          far
Driver:        {driver}
Last Activity: 2026-11-23 01:55:29 +0000 UTC

Nodes:
Name:             far0
Endpoint:         tcp://buildkit:1234
Status:           {status}
{error}BuildKit version: {version}
Platforms:        {platforms}
Labels:
 org.mobyproject.buildkit.worker.executor: oci
GC Policy rule#0:
 All:           false
"""


def shown(
    driver: str = "remote",
    status: str = "running",
    error: str = "",
    version: str = "v0.17.2",
    platforms: str = "linux/amd64*, linux/amd64/v2, linux/386",
) -> str:
    text = {"driver": driver, "status": status, "error": error}
    return SHOWN.format(**text, version=version, platforms=platforms)


class FakeEngine(Engine):
    """An engine whose buildx knows builders by what it prints of them."""

    def answer(self, builders: dict[str, str]) -> FakeEngine:
        object.__setattr__(self, "builders", builders)
        object.__setattr__(self, "calls", [])
        return self

    def buildx(self, args: Sequence[str], *_: Any, **__: Any) -> Completed:
        builders = cast("dict[str, str]", self.builders)  # type: ignore[attr-defined]
        self.calls.append(list(args))  # type: ignore[attr-defined]
        if args[0] == "create":
            builders[args[2]] = shown("kubernetes" if "kubernetes" in args else "remote")
            return Completed(("buildx",), 0, args[2], "")
        if args[0] == "ls":
            return Completed(("buildx",), 0, "\n".join(builders), "")
        text = builders.get(args[-1])
        if text is None:
            return Completed(("buildx",), 1, "", f'ERROR: no builder "{args[-1]}" found')
        return Completed(("buildx",), 0, text, "")


def engine(**builders: str) -> FakeEngine:
    found = FakeEngine(
        endpoint=Endpoint("unix:///x", None, Path("buildx"), {}),
        embedded=True,
        server_version="28",
        buildx_version="0.13.1",
        driver="docker",
        builder="default",
        driver_reason="",
        cache_export=False,
        cache_reason="",
        build_network="host",
        data_root=None,
    )
    return found.answer(builders)


def used(wanted: str | None, found: FakeEngine) -> Engine:
    return use_builder(found, wanted, Ui(quiet=True))


def test_what_buildx_prints_is_read() -> None:
    found = parse_builder(shown(error="Error: boom\n"))
    assert (found.name, found.driver) == ("far", "remote")
    assert found.status == {"far0": "running"}
    assert found.buildkit == ("v0.17.2",)
    assert found.endpoints == ("tcp://buildkit:1234",)
    assert found.platforms == ("linux/amd64", "linux/amd64/v2", "linux/386")
    assert found.errors == ("boom",)


def test_without_a_builder_the_engine_stays_as_it_is() -> None:
    own = engine()
    assert used(None, own) is own
    assert used("default", own) is own


def test_a_builder_by_name_takes_the_builds_and_can_export_a_cache() -> None:
    found = used("far", engine(far=shown()))
    assert (found.driver, found.builder, found.cache_export) == ("remote", "far", True)
    assert found.build_network == "default"


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("tcp://buildkit:1234", ["--driver", "remote", "tcp://buildkit:1234"]),
        ("unix:///run/buildkit.sock", ["--driver", "remote", "unix:///run/buildkit.sock"]),
        ("kubernetes://ci", ["--driver", "kubernetes", "--driver-opt", "namespace=ci"]),
        ("kubernetes://", ["--driver", "kubernetes"]),
    ],
)
def test_a_builder_is_made_for_an_address_once(address: str, options: list[str]) -> None:
    own = engine()
    first = used(address, own)
    second = used(address, own)
    made = [call for call in own.calls if call[0] == "create"]  # type: ignore[attr-defined]
    assert [call[3:] for call in made] == [options]
    assert first.builder == second.builder == made[0][2]
    assert first.driver == options[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (shown(driver="docker"), "another engine's own"),
        (shown(driver="mystery"), "has the driver 'mystery'"),
        (shown(status="inactive"), "not running"),
        (shown(error="Error: connection refused\n"), "not running"),
        (shown(platforms="linux/arm64"), "linux/amd64"),
        (shown(version="v0.9.3"), "BuildKit v0.9.3"),
    ],
)
def test_a_builder_that_cannot_do_it_is_refused_by_its_name(text: str, why: str) -> None:
    with pytest.raises(EngineError, match="'far'") as refused:
        used("far", engine(far=text))
    assert why in str(refused.value)


def test_a_builder_whose_version_is_not_told_is_taken() -> None:
    assert used("far", engine(far=shown(version="v0.0.0+unknown"))).builder == "far"


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(EngineError, match="no builder 'fra'") as refused:
        used("fra", engine(far=shown()))
    assert "far" in refused.value.why


def test_an_address_of_another_kind_names_the_kinds() -> None:
    with pytest.raises(EngineError, match="no address of a BuildKit") as refused:
        used("https://buildkit", engine())
    assert "tcp://" in refused.value.why
