"""`tfslim pins` as a person uses it, with an index of small wheels on this machine."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_index import FakeIndex

from tfslim import cli
from tfslim.pins.lockfile import parse_lock

LINES = ("--tensorflow", "2.21.0", "--python", "3.13", "--cuda-arch", "90")


@dataclass
class Done:
    """How a run ended and what it said."""

    code: int
    out: str
    err: str


Pins = Callable[..., Done]


@pytest.fixture
def pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Pins]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("service.txt").write_text("packaging==24.0\n")

    def run(*arguments: str) -> Done:
        argv = ["tfslim", "pins", "--requirements", "service.txt", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_dry_run_shows_every_version_and_writes_no_lock(stocked: FakeIndex, pins: Pins) -> None:
    done = pins(*LINES, "--dry-run")
    assert done.code == 0, done.err
    for word in ("→ 12.6.4.1", "  12.5.3.2", "→ 12.6.85", "all are the same size", "chosen:"):
        assert word in done.out, word
    assert not list(Path().glob("*.txt.new"))
    assert {item.name for item in Path().iterdir()} == {"service.txt", ".tfslim"}


def test_the_smallest_is_locked_with_its_hash(stocked: FakeIndex, pins: Pins) -> None:
    done = pins(*LINES, "--no-gate", "--output", "lock.txt", "--json")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    assert result["pins"]["nvidia-cublas-cu12"] == "12.6.4.1"
    assert result["chosen_total"]["pull"] < result["newest_total"]["pull"]
    text = Path("lock.txt").read_text()
    assert parse_lock(text)["nvidia-cublas-cu12"].version == "12.6.4.1"
    assert "--require-hashes -r lock.txt" in text
    assert "not run (--no-gate)" in text
    assert stocked.url not in text
    assert str(Path.cwd()) not in text


def test_a_second_run_downloads_nothing(stocked: FakeIndex, pins: Pins) -> None:
    assert pins(*LINES, "--dry-run").code == 0
    stocked.asked.clear()
    assert pins(*LINES, "--dry-run").code == 0
    assert not [path for path in stocked.asked if path.endswith(".whl")]


def test_wheels_are_gone_when_they_are_measured(stocked: FakeIndex, pins: Pins) -> None:
    assert pins(*LINES, "--dry-run").code == 0
    assert list(Path(".tfslim/pins/wheels").iterdir()) == []


def test_several_sets_of_gpus_in_one_run(stocked: FakeIndex, pins: Pins) -> None:
    Path("locks").mkdir()
    assert pins(*LINES, "--cuda-arch", "80,90", "--dry-run").code == 0
    wheels = [path for path in stocked.asked if path.endswith(".whl")]
    assert len(wheels) == len(set(wheels)) == 5
    done = pins(*LINES, "--cuda-arch", "80,90", "--no-gate", "--output", "locks")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path("locks").iterdir()) == [
        "tensorflow-2.21.0-py3.13-sm80-90.txt",
        "tensorflow-2.21.0-py3.13-sm90.txt",
    ]


def test_a_version_can_be_excluded(stocked: FakeIndex, pins: Pins) -> None:
    done = pins(*LINES, "--dry-run", "--exclude", "cublas==12.6.*", "--json")
    (result,) = json.loads(done.out)
    assert result["pins"]["nvidia-cublas-cu12"] == "12.5.3.2"
    rows = {row["version"]: row["why"] for row in result["table"]["cublas"]}
    assert rows["12.6.4.1"] == "excluded: cublas==12.6.*"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--tensorflow", "9.9.9"), 2, "there is no TensorFlow 9.9.9 for Python 3.13"),
        (("--exclude", "???"), 2, "names no versions"),
        (("--exclude", "cublas"), 2, "no versions go together"),
        (("--profile", "nothing"), 2, "nothing"),
        (("--also", "no-such-rule"), 2, "has no rule called"),
        (("--cuda-arch", "hopper"), 10, "not a GPU's compute capability"),
    ],
)
def test_what_cannot_be_is_told(
    stocked: FakeIndex, pins: Pins, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = pins(*LINES, *arguments, "--no-gate", "--output", "lock.txt")
    assert done.code == code, done.err
    assert said in done.err
    assert not Path("lock.txt").exists()


def test_a_wheel_that_is_not_what_was_promised_ends_the_run(stocked: FakeIndex, pins: Pins) -> None:
    for path in stocked.files:
        if "cublas" in path and path.endswith(".whl"):
            stocked.files[path] += b"more"
    done = pins(*LINES, "--no-gate", "--output", "lock.txt")
    assert done.code == 5
    assert "promised; nothing was kept" in done.err
    assert not Path("lock.txt").exists()
    assert not list(Path().rglob("*.whl*"))


def test_an_index_that_is_not_there(
    stocked: FakeIndex, pins: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    done = pins(*LINES, "--dry-run")
    assert done.code == 5
    assert "could not be had from 127.0.0.1" in done.err
    assert "secret" not in done.err
