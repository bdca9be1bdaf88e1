"""Builders by name or address: what is asked of them, and what is said where they cannot."""

from __future__ import annotations

import pytest

from engine_fakes import SLEEPING_BUILDER, FakeEngine, fake_engine, shown_builder
from tfslim.build import builder
from tfslim.build.builder import look_at_builder, parse_builder, use_builder
from tfslim.engine.engine import Engine
from tfslim.errors import EngineError
from tfslim.ui import Ui


def used(wanted: str | None, found: FakeEngine) -> Engine:
    return use_builder(found, wanted, Ui(quiet=True))


def test_what_buildx_prints_is_read() -> None:
    found = parse_builder(shown_builder(error="Error: boom\n"))
    assert (found.name, found.driver) == ("far", "remote")
    assert found.status == {"far0": "running"}
    assert found.buildkit == ("v0.17.2",)
    assert found.endpoints == ("tcp://buildkit:1234",)
    assert found.platforms == ("linux/amd64", "linux/amd64/v2", "linux/386")
    assert found.errors == ("boom",)


def test_without_a_builder_the_engine_stays_as_it_is() -> None:
    own = fake_engine()
    assert used(None, own) is own
    assert used("default", own) is own


def test_a_builder_by_name_takes_the_builds_and_can_export_a_cache() -> None:
    found = used("far", fake_engine(cache_export=False, far=shown_builder()))
    assert (found.driver, found.builder, found.cache_export) == ("remote", "far", True)
    assert found.build_network == "default"


@pytest.mark.parametrize(("wanted", "made"), [(None, True), ("tfslim", True), ("far", False)])
def test_the_engines_own_builder_is_made_only_where_it_builds(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, made: bool
) -> None:
    asked: list[bool] = []

    def find(ui: Ui, *, setup: bool, make_builder: bool) -> Engine:
        asked.append(make_builder)
        return fake_engine(far=shown_builder(), tfslim=shown_builder("docker-container"))

    monkeypatch.setattr(builder, "find_engine", find)
    found = builder.find_building_engine(Ui(quiet=True), wanted, setup=False)
    assert found.builder == (wanted or "default")
    assert asked == [made]


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
    own = fake_engine()
    first = used(address, own)
    second = used(address, own)
    made = [call for call in own.calls if call[0] == "create"]
    assert [call[3:] for call in made] == [options]
    assert first.builder == second.builder == made[0][2]
    assert first.driver == options[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (shown_builder(driver="docker"), "another engine's own"),
        (shown_builder(driver="mystery"), "has the driver 'mystery'"),
        (shown_builder(status="inactive"), "not running"),
        (shown_builder(error="Error: connection refused\n"), "not running"),
        (shown_builder(platforms="linux/arm64"), "linux/amd64"),
        (shown_builder(version="v0.9.3"), "BuildKit v0.9.3"),
    ],
)
def test_a_builder_that_cannot_do_it_is_refused_by_its_name(text: str, why: str) -> None:
    with pytest.raises(EngineError, match="'far'") as refused:
        used("far", fake_engine(far=text))
    assert why in str(refused.value)


def test_a_builder_whose_version_is_not_told_is_taken() -> None:
    assert used("far", fake_engine(far=shown_builder(version="v0.0.0+unknown"))).builder == "far"


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(EngineError, match="no builder 'fra'") as refused:
        used("fra", fake_engine(far=shown_builder()))
    assert "far" in refused.value.why


def test_an_address_of_another_kind_names_the_kinds() -> None:
    with pytest.raises(EngineError, match="no address of a BuildKit") as refused:
        used("https://buildkit", fake_engine())
    assert "tcp://" in refused.value.why


def test_a_look_makes_and_starts_nothing() -> None:
    own = fake_engine(far=SLEEPING_BUILDER)
    found = look_at_builder(own, "far")
    assert found is not None
    assert found.asleep == ("far0",)
    assert look_at_builder(own, "tcp://buildkit:1234") is None
    assert {call[0] for call in own.calls} == {"inspect"}
    assert not any("--bootstrap" in call for call in own.calls)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("fra", "no builder 'fra'"),
        ("https://buildkit", "no address of a BuildKit"),
        ("old", "BuildKit v0.9.3"),
    ],
)
def test_a_look_refuses_what_a_build_would(wanted: str, why: str) -> None:
    with pytest.raises(EngineError, match=why):
        look_at_builder(fake_engine(old=shown_builder(version="v0.9.3")), wanted)
