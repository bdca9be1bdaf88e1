"""What a job measures, with the rooms it goes through replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from docker.errors import ImageNotFound

from report_records import small
from tfslim import cli_slim, proc
from tfslim.errors import ConfigError, EngineError, NetworkError, ServiceError, VerifyError
from tfslim.github import measured
from tfslim.github.inputs import configuration, read_inputs, variable
from tfslim.github.measured import Made, Wanted, measure
from tfslim.images.inspection import Inspection
from tfslim.parity.verdict import Verdict
from tfslim.report.record import RunRecord
from tfslim.ui import Ui

SIZE = Inspection.model_validate(
    {
        **small().sizes["inference"].model_dump(),
        "gates": [{"name": "zoo", "outcome": "passed"}],  # said before it was slimmed
    }
)


class _Images:
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def get(self, name: str) -> None:
        if name not in self.names:
            raise ImageNotFound(name)


class _Engine:
    """An engine with some images, and a registry with others."""

    def __init__(self, here: set[str], there: set[str]) -> None:
        self.images = _Images(here)
        self.there = there
        self.pulled: list[str] = []

    def client(self) -> Any:
        return self

    def close(self) -> None:
        pass

    def docker(self, args: list[str], on_line: Any = None) -> proc.Completed:
        self.pulled.append(args[-1])
        ok = args[-1] in self.there
        return proc.Completed(tuple(args), 0 if ok else 1, "" if ok else "no such host", "")


class Rooms:
    """What the job asks of other rooms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = _Engine({"me/app:1"}, {"me/far:1"})
        self.inspected: list[str] = []
        self.slimmed: list[cli_slim.Request] = []
        self.verified: list[Any] = []
        self.gate: Any = "the plan changes no TensorFlow"
        self.timed: list[Any] = []
        environment = small().environment
        for name, stand_in in {
            "find_building_engine": lambda ui, wanted, setup: self.engine,
            "environment": lambda engine, text: environment.model_copy(update={"gpu": text}),
            "inspect_source": self._inspect,
        }.items():
            monkeypatch.setattr(measured, name, stand_in)
        monkeypatch.setattr(measured.cli_slim, "perform", self._slim)
        monkeypatch.setattr(measured.cli_slim, "summary", lambda done: [])
        monkeypatch.setattr(measured.gate, "verify", self._verify)
        monkeypatch.setattr(measured.cli_bench, "measure_sources", self._measure)
        monkeypatch.setattr(measured.cli_coldstart, "perform", self._cold)

    def _inspect(self, image: str, **_: object) -> Inspection:
        self.inspected.append(image)
        return SIZE

    def _slim(self, request: cli_slim.Request, client: object, ui: Ui) -> Any:
        self.slimmed.append(request)

        class Done:
            gate = self.gate
            image = None

            class plan:  # noqa: N801
                files = ("libtensorflow_cc.so.2",)

            @staticmethod
            def error() -> None:
                return None

        return Done

    def _verify(self, request: Any, client: object, ui: Ui) -> Verdict:
        self.verified.append(request)
        return _verdict("failed" if "wrong" in request.models[0] else "passed")

    def _measure(self, names: list[str], *_: object, **__: object) -> RunRecord:
        self.timed.append(names)
        return small(notes=["timed"])

    def _cold(self, config: object, names: list[str], *_: object, **__: object) -> Any:
        self.timed.append(names)
        raise ServiceError("it does not serve", why="it exited")


def _verdict(outcome: str) -> Verdict:
    side = {"name": "x", "kind": "image", "what": "x"}
    return Verdict.model_construct(
        outcome=outcome, reason="compared", models=(), stock=side, slim=side
    )


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    monkeypatch.chdir(tmp_path)
    return Rooms(monkeypatch)


def _made(**given: str) -> Made:
    inputs = read_inputs({variable(k.replace("_", "-")): v for k, v in given.items()})
    wanted = Wanted(inputs, configuration(inputs), "app", "abc", Path("tfslim-report"))
    return measure(wanted, Ui(quiet=True))


def test_an_image_that_is_there_is_not_pulled(rooms: Rooms) -> None:
    made = _made(image="me/app:1", max_pull="1 GB")
    assert rooms.engine.pulled == []
    assert (made.subject, made.image) == ("app", "me/app:1")
    assert list(made.record.sizes) == ["app"]
    assert made.record.budgets["default"].max_pull == 10**9


def test_an_image_that_is_elsewhere_is_pulled(rooms: Rooms) -> None:
    _made(image="me/far:1")
    assert rooms.engine.pulled == ["me/far:1"]
    assert rooms.inspected == ["me/far:1"]


def test_an_image_that_is_nowhere_is_an_error_that_says_how_to_log_in(rooms: Rooms) -> None:
    with pytest.raises(NetworkError, match="me/none:1") as told:
        _made(image="me/none:1")
    assert "login" in told.value.way_out


def test_an_archive_is_measured_without_an_engine(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*_: object, **__: object) -> None:
        raise AssertionError("no engine is needed")

    monkeypatch.setattr(measured, "find_building_engine", no_engine)
    Path("app.tar").write_bytes(b"")
    assert _made(image="app.tar").image == "app.tar"


def test_what_is_slimmed_stands_beside_what_it_was(rooms: Rooms) -> None:
    made = _made(image="me/app:1", slim="true", cuda_archs="80, 90")
    (request,) = rooms.slimmed
    assert (request.source, request.tag) == ("me/app:1", "me/app:abc-slim")
    assert (request.cuda_arch, request.profile, request.models) == ("80,90", "arch", ())
    assert list(made.record.sizes) == ["stock", "slim"]
    assert (made.subject, made.image) == ("slim", "me/app:abc-slim")
    assert made.record.parity["slim"][0].outcome == "not asked"
    assert made.record.parity["stock"][0].outcome == "passed"


def test_the_answers_to_the_user_s_model_are_compared_too(rooms: Rooms) -> None:
    rooms.gate = _verdict("passed")
    made = _made(image="me/app:1", slim="true", model="my_model")
    assert rooms.verified[0].models == ("my_model",)
    assert [gate.name for gate in made.record.parity["slim"]] == ["zoo", "model"]


def test_another_answer_to_the_user_s_model_ends_the_run(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms.gate = _verdict("passed")
    error = VerifyError("it answers differently")
    monkeypatch.setattr(
        measured.cli_verify,
        "error_of",
        lambda verdict: error if verdict.outcome == "failed" else None,
    )
    with pytest.raises(VerifyError):
        _made(image="me/app:1", slim="true", model="wrong")


def test_profile_workload_traces_the_model(rooms: Rooms) -> None:
    Path("a.npz").write_bytes(b"")
    _made(image="me/app:1", slim="true", profile="workload", model="m", trace_input="a.npz")
    (request,) = rooms.slimmed
    assert (request.models, request.trace_inputs) == (("m",), (Path("a.npz"),))
    assert rooms.verified == []  # the gate has asked with it


def test_an_archive_is_not_slimmed(rooms: Rooms) -> None:
    Path("app.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"app\.tar"):
        _made(image="app.tar", slim="true")


def test_sizes_start_nothing(rooms: Rooms) -> None:
    record = _made(image="me/app:1").record
    assert rooms.timed == []
    assert record.environment.gpu == "not measured: only sizes were asked for"


def test_what_is_asked_for_and_fails_is_an_error(rooms: Rooms) -> None:
    with pytest.raises(ServiceError):
        _made(image="me/app:1", bench="cold-start")


def test_of_everything_what_fails_is_a_note(rooms: Rooms) -> None:
    record = _made(image="me/app:1", bench="full").record
    assert rooms.timed == [["app=me/app:1"], ["app=me/app:1"]]
    assert record.notes == ["timed", "cold-start: not measured: it does not serve it exited"]


def test_a_gpu_that_is_required_and_missing_is_no_note(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(*_: object, **__: object) -> RunRecord:
        raise EngineError("a GPU is required, and there is none")

    monkeypatch.setattr(measured.cli_bench, "measure_sources", no_gpu)
    with pytest.raises(EngineError, match="a GPU is required"):
        _made(image="me/app:1", bench="full", gpu="required")
    assert _made(image="me/app:1", bench="full").record.notes[0].startswith("throughput: not")


@pytest.mark.parametrize(
    ("reference", "without"),
    [
        ("a/b:1", "a/b"),
        ("host:5000/a/b", "host:5000/a/b"),
        ("host:5000/a/b:1@sha256:0", "host:5000/a/b"),
        ("b", "b"),
    ],
)
def test_a_tag_is_taken_off_and_a_port_is_not(reference: str, without: str) -> None:
    assert measured._without_tag(reference) == without


class _Line:
    """A run over variants that builds nothing."""

    made: ClassVar[list[_Line]] = []

    def __init__(self, config: Any, builds: list[Any], ui: Ui, *, setup_engine: bool) -> None:
        self.builds, self.asked = builds, [("setup", setup_engine)]
        self.engine = _Engine(set(), set())
        _Line.made.append(self)

    def check_push(self) -> None:
        self.asked.append(("check", True))

    def bench(self, only: str, *, folder: Path) -> RunRecord:
        self.asked.append(("bench", only))
        return small(sizes={build.variant: SIZE for build in self.builds})

    def push(self, images: list[Any]) -> list[Any]:
        self.asked.append(("push", True))
        return []


@pytest.fixture
def line(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> type[_Line]:
    _Line.made.clear()
    monkeypatch.setattr(measured, "Line", _Line)
    monkeypatch.setattr(measured, "_as_root", lambda: True)
    return _Line


@pytest.mark.parametrize("bench", ["sizes", "throughput", "full"])
def test_variants_are_measured_as_they_are_asked_for(line: type[_Line], bench: str) -> None:
    made = _made(variants="stock, inference", bench=bench)
    assert line.made[0].asked == [("setup", True), ("bench", bench)]
    assert [build.variant for build in line.made[0].builds] == ["stock", "inference"]
    assert (made.subject, made.image) == ("inference", "tfslim/inference:2.21.0-py3.13")


def test_cold_starts_alone_are_sizes_and_starts(line: type[_Line], rooms: Rooms) -> None:
    with pytest.raises(ServiceError):
        _made(variants="inference", bench="cold-start")
    assert line.made[0].asked[-1] == ("bench", "sizes")
    assert rooms.timed == [["inference"]]


def test_a_push_that_cannot_be_is_told_before_anything_is_built(line: type[_Line]) -> None:
    made = _made(variants="inference", push="ghcr.io/me/app")
    made.push()
    assert [name for name, _ in line.made[0].asked] == ["setup", "check", "bench", "push"]
