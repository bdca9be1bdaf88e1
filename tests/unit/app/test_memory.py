"""The bytes of bodies and answers held at once: counted, bounded, and who stalls gives way."""

from __future__ import annotations

import pytest

from tfserve_app import memory
from tfserve_app.memory import Memory, MemoryFullError


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    return clock


def nobody() -> None:
    pytest.fail("this one has not stalled")


def test_what_is_over_is_free_again(clock: Clock) -> None:
    held = Memory(10)
    with held.hold(nobody) as hold:
        hold.add(6)
        with held.hold(nobody) as other, pytest.raises(MemoryFullError):
            other.add(5)
        hold.answer(9)
        assert held.held == 9, "an answer replaces its request"
    assert held.held == 0


def test_the_longest_stalled_gives_way_and_no_more_than_needed(clock: Clock) -> None:
    gone: list[str] = []
    held = Memory(10)
    with (
        held.hold(lambda: gone.append("first")) as first,
        held.hold(lambda: gone.append("second")) as second,
        held.hold(nobody) as new,
    ):
        first.add(4)
        clock.now = 1.0
        second.add(4)
        clock.now = 2.5
        new.add(5)
        assert (gone, held.held) == (["first"], 9)
        new.add(5)
        assert (gone, held.held) == (["first", "second"], 10)
        with pytest.raises(MemoryFullError):
            new.add(1)


def test_who_waits_for_the_model_has_not_stalled(clock: Clock) -> None:
    held = Memory(10)
    with held.hold(nobody) as predicting, held.hold(nobody) as new:
        predicting.add(8)
        predicting.on_client = False
        clock.now = 100.0
        with pytest.raises(MemoryFullError):
            new.add(5)
