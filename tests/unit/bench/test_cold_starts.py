"""Several images in turn; what an interruption leaves; what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cold_fakes import FakeDocker, FakeImage
from tfslim.bench.coldstart import (
    State,
    Subject,
    Wish,
    cold_starts,
    forget,
    model_name_of,
    states,
)
from tfslim.bench.results import ColdStarts
from tfslim.config import BenchConfig
from tfslim.errors import InputError, ServiceError
from tfslim.ui import Ui

SUBJECTS = [Subject(name, f"x/{name}", None, "mine") for name in ("a", "b", "c")]


def run(client: FakeDocker, folder: Path, launches: int = 3) -> ColdStarts:
    return cold_starts(
        client,  # type: ignore[arg-type]
        SUBJECTS,
        BenchConfig(),
        Wish(launches, "off"),
        gpu=False,
        folder=folder,
        ui=Ui(quiet=True),
    )


def images(**own: FakeImage) -> dict[str, FakeImage]:
    fast = {name: FakeImage(delay=0.001) for name in ("a", "b", "c")}
    return {f"x/{name}": image for name, image in {**fast, **own}.items()}


def test_images_take_turns_and_each_turn_begins_with_another(tmp_path: Path) -> None:
    result = run(FakeDocker(images()), tmp_path)
    order = [(one.round, one.subject) for one in result.launches]
    assert order == [
        *((0, name) for name in "abc"),
        *((1, name) for name in "bca"),
        *((2, name) for name in "cab"),
    ]
    assert {(one.page_cache, one.jit_cache) for one in result.launches} == {("warm", "none")}
    assert result.device == "CPU"
    assert result.cold_cache.startswith("not measured")
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_interrupted_after_its_launches_makes_none_again(tmp_path: Path) -> None:
    before = run(FakeDocker(images()), tmp_path)
    again = FakeDocker(images())
    assert run(again, tmp_path).launches == before.launches
    assert again.starts == {"x/a": 1, "x/b": 1, "x/c": 1}  # not counted


def test_a_crash_keeps_what_was_measured_and_the_next_run_goes_on(tmp_path: Path) -> None:
    broken = FakeDocker(images(b=FakeImage(delay=0.001, crashes=lambda number: number == 2)))
    with pytest.raises(ServiceError, match="x/b exited with status 3") as raised:
        run(broken, tmp_path)
    assert "3 launches before it are kept" in raised.value.way_out
    again = FakeDocker(images())
    result = run(again, tmp_path)
    assert len(result.launches) == 9
    assert again.starts == {"x/a": 3, "x/b": 3, "x/c": 3}  # one each is not counted
    assert {(one.subject, one.round) for one in result.launches} == {
        (name, number) for name in "abc" for number in range(3)
    }


def test_other_images_begin_anew(tmp_path: Path) -> None:
    broken = FakeDocker(images(c=FakeImage(delay=0.001, crashes=lambda number: number == 1)))
    with pytest.raises(ServiceError):
        run(broken, tmp_path)
    journal = tmp_path / "launches.jsonl"
    journal.write_text(journal.read_text().replace("sha256:x/a", "sha256:older"))
    assert len(run(FakeDocker(images()), tmp_path, launches=1).launches) == 3


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    broken = FakeDocker(images(c=FakeImage(delay=0.001, crashes=lambda number: number == 1)))
    with pytest.raises(ServiceError):
        run(broken, tmp_path)
    journal = tmp_path / "launches.jsonl"
    journal.write_text(journal.read_text()[:-40])
    again = FakeDocker(images())
    assert len(run(again, tmp_path, launches=1).launches) == 3
    assert again.starts == {"x/a": 1, "x/b": 2, "x/c": 2}


def test_a_state_for_each_kind_of_node() -> None:
    assert states(cold=True, gpu=False) == (State("cold", "none"), State("warm", "none"))
    assert states(cold=False, gpu=False) == (State("warm", "none"),)
    assert states(cold=True, gpu=True) == (
        State("cold", "cold"),
        State("warm", "cold"),
        State("warm", "warm"),
    )


def test_on_a_gpu_compiled_ptx_is_kept_or_begun_anew(tmp_path: Path) -> None:
    client = FakeDocker(images())
    subject = Subject("x/a:1", "x/a", None, "mine")
    result = cold_starts(
        client,  # type: ignore[arg-type]
        [subject],
        BenchConfig(),
        Wish(2, "off"),
        gpu=True,
        folder=tmp_path,
        ui=Ui(quiet=True),
    )
    assert [one.jit_cache for one in result.launches] == ["cold", "warm", "cold", "warm"]
    folders = [str(next(iter(one.options["volumes"]))) for one in client.created]
    first, *rest = folders
    assert rest[1] == rest[3] == first  # filled by the start that is not counted
    assert len({rest[0], rest[2], first}) == 3
    assert not any(":" in folder or Path(folder).exists() for folder in folders)


def test_the_models_name_of_an_image() -> None:
    client = FakeDocker({"x/a": FakeImage(), "x/b": FakeImage(env=("PATH=/bin",))})
    assert model_name_of(client, "x/a") == "mine"  # type: ignore[arg-type]
    assert model_name_of(client, "x/b") is None  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no image x/c"):
        model_name_of(client, "x/c")  # type: ignore[arg-type]
