"""One cold start, against containers that are small servers in this process."""

from __future__ import annotations

import pytest

from cold_fakes import FAR_AWAY, FakeDocker, FakeImage
from tfslim.bench.coldcontainer import Spec
from tfslim.bench.coldfind import Find, find_out
from tfslim.bench.coldlaunch import Timeline, launch_cold
from tfslim.errors import InputError, ServiceError

IMAGE = "me/image:1"
PHASES = [
    "create",
    "interpreter",
    "imports",
    "gpu_init",
    "model_load",
    "warm_up",
    "first_answer",
    "second_answer",
]


def spec(timeout: float = 20) -> Spec:
    return Spec(IMAGE, None, "mine", gpu=False, jit=None, ready_timeout=timeout)


def started(image: FakeImage, find: Find | None = None) -> tuple[Timeline, tuple[str, ...]]:
    client = FakeDocker({IMAGE: image})
    found = find_out(client, spec(), find or Find())  # type: ignore[arg-type]
    timeline = launch_cold(client, spec(), found.ask)  # type: ignore[arg-type]
    assert all(container.removed for container in client.created)
    return timeline, found.notes


def test_phases_come_from_the_services_own_marks_and_sum_up() -> None:
    timeline, notes = started(FakeImage())
    assert list(timeline.phases_s) == PHASES
    assert timeline.phases_s["interpreter"] == pytest.approx(0.001, abs=1e-6)
    assert timeline.phases_s["imports"] == pytest.approx(0.004, abs=1e-6)
    until_first = [timeline.phases_s[name] for name in PHASES[:-1]]
    assert sum(until_first) == pytest.approx(timeline.first_answer_s)
    assert notes == ()
    assert timeline.same_clock


def test_memory_and_bytes_read_stand_beside_the_time() -> None:
    usage = started(FakeImage())[0].usage
    assert (usage.memory_bytes, usage.read_bytes, usage.rss_bytes) == (800, 4096, None)


def test_a_clock_of_another_machine_is_noticed_and_moved() -> None:
    timeline, _ = started(FakeImage(clock=FAR_AWAY))
    assert not timeline.same_clock
    assert 0 < timeline.first_answer_s < 5
    assert timeline.phases_s["imports"] == pytest.approx(0.004, abs=1e-6)


def test_a_service_without_marks_is_polled_and_says_less() -> None:
    timeline, notes = started(FakeImage(marks=False))
    assert list(timeline.phases_s) == ["create", "first_answer", "second_answer"]
    assert timeline.first_answer_s >= 0.03
    assert "gives no marks" in notes[0]
    assert "polled" in notes[0]


def test_a_foreign_service_is_asked_by_get() -> None:
    image = FakeImage(marks=False, ready_path="/hello", predicts=False)
    timeline, notes = started(image, Find(path="/hello"))
    assert timeline.phases_s["first_answer"] >= 0.0
    assert any("GET /hello" in note for note in notes)


def test_an_image_that_only_prints() -> None:
    image = FakeImage(marks=False, port=False, lines=("loaded", "done in 3 s"))
    timeline, notes = started(image, Find(ready_text="done"))
    assert list(timeline.phases_s) == ["create", "first_answer"]
    assert timeline.first_answer_s == timeline.ready_s >= 0.03
    assert "'done'" in notes[0]


def test_health_checks_and_jit_folder(tmp_path: pytest.TempPathFactory) -> None:
    client = FakeDocker({IMAGE: FakeImage()})
    with_jit = Spec(IMAGE, None, "mine", gpu=True, jit=tmp_path, ready_timeout=20)  # type: ignore[arg-type]
    find_out(client, with_jit, Find())  # type: ignore[arg-type]
    options = client.created[0].options
    assert options["healthcheck"] == {"test": ["NONE"]}
    assert options["environment"]["CUDA_CACHE_PATH"] == options["volumes"][str(tmp_path)]["bind"]
    assert options["device_requests"]


def test_a_crash_is_told_with_its_log() -> None:
    with pytest.raises(ServiceError, match="exited with status 3") as raised:
        started(FakeImage(crashes=lambda number: number == 1))
    assert "no space left on device" in raised.value.why


def test_too_slow_is_an_error_that_names_the_ways_out() -> None:
    client = FakeDocker({IMAGE: FakeImage(delay=5)})
    with pytest.raises(ServiceError, match="not ready within") as raised:
        find_out(client, spec(timeout=0.1), Find())  # type: ignore[arg-type]
    assert "--ready-text" in raised.value.way_out


def test_no_such_image() -> None:
    with pytest.raises(InputError, match="no image me/image:1"):
        find_out(FakeDocker({}), spec(), Find())  # type: ignore[arg-type]
