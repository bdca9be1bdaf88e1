"""`tfslim bench --explain-cold-start`: the probe by this Python, the engine by a stand-in."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ContainerError, ImageNotFound
from rich.console import Console

from tfslim.bench import explain as room
from tfslim.bench import explain_probe, explain_text
from tfslim.bench.explain_levers import levers_of
from tfslim.cli_explain import ExplainOptions, perform
from tfslim.errors import InputError
from tfslim.ui import Ui


class Engine:
    """An engine whose containers are processes of this machine."""

    def __init__(self, *, python: str | None = "python", entrypoint: list[str] | None = None):
        self.python = python
        self.config = {"Entrypoint": entrypoint, "Cmd": ["serve"]}
        self.environments: list[dict[str, str]] = []
        self.made: list[str] = []
        self.removed: list[str] = []
        self.images = self.containers = self

    def get(self, reference: str) -> Any:
        """Return an image, or a container to be removed."""
        if reference == "none":
            raise ImageNotFound("none")
        self.asked = reference
        return self

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Config": self.config}

    def remove(self, **_: object) -> None:
        self.removed.append(self.asked)

    def run(
        self, image: str, command: list[str], *, entrypoint: list[str], name: str, **options: Any
    ) -> bytes:
        self.made.append(name)
        if entrypoint[0] != self.python:
            raise APIError("executable file not found in $PATH")
        paths = {bind["bind"]: host for host, bind in options.get("volumes", {}).items()}
        argv = [paths.get(part, part) for part in [*entrypoint[1:], *command]]
        environment = options.get("environment", {})
        self.environments.append(environment)
        done = subprocess.run(
            [sys.executable, *argv],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise ContainerError(image, done.returncode, command, image, done.stderr)
        return done.stdout

    def close(self) -> None:
        """Nothing to close."""


def explained(engine: Engine, code: str = "import json.tool") -> room.Explanation:
    asked = ExplainOptions("my/image:1", code, cold=0)
    return perform(asked, lambda: engine, launches=2, ui=Ui(quiet=True))  # type: ignore[arg-type,return-value]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def told(engine: Engine) -> room.Explanation:
    return explained(engine)


def test_a_start_is_taken_apart(engine: Engine, told: room.Explanation) -> None:
    found = told
    assert engine.made == engine.removed
    assert found.code == "import json.tool"
    assert found.cpu_s.n == 2
    assert min(phase.median for phase in found.phases_s.values()) > 0
    assert found.imports["self"]
    assert any(one["name"] == "json.tool" for one in found.imports["cumulative"])
    assert found.counts["opened"][".pyc"] > 0
    assert found.counts["stat_calls"] > 0
    assert found.relocations["looked_up"] > 0, "glibc's loader tells"
    assert found.cold is None
    assert found.notes[0].startswith("cold starts: not measured: switched off")
    assert all(one.get("PYTHONDONTWRITEBYTECODE") for one in engine.environments[1:])


def test_gains_are_measured_where_they_can_be_and_else_not_invented(
    told: room.Explanation,
) -> None:
    levers = {lever.name: lever for lever in told.levers}
    bytecode = levers["complete bytecode, never checked"]
    assert bytecode.gain is not None
    assert bytecode.measured.startswith("here: 2 starts with, 2 without")
    hidden = levers["symbols hidden that nobody asks for"]
    assert (hidden.state, hidden.gain) == ("not applicable", None)
    assert "not measured on this image" in hidden.measured
    assert levers["garbage collector rests during import"].state == "not used"


def test_it_can_be_printed_and_saved(told: room.Explanation) -> None:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(explain_text.terminal(told))
    text = console.export_text()
    for part in ("my/image:1", "slowest of", "files opened", "levers", "note: cold starts"):
        assert part in text
    assert room.Explanation.model_validate_json(told.model_dump_json()) == told


@pytest.mark.parametrize(
    ("python", "entrypoint"),
    [("/opt/p/bin/python3.13", ["/opt/p/bin/python3.13", "-m", "x"]), ("python3", ["uvicorn"])],
)
def test_python_is_found_by_the_image_or_by_its_usual_names(
    python: str, entrypoint: list[str]
) -> None:
    engine = Engine(python=python, entrypoint=entrypoint)
    assert room._python_of(engine, "image") == python  # type: ignore[arg-type]


def test_an_image_without_python_gets_a_clear_answer() -> None:
    engine = Engine(python=None, entrypoint=["/server"])
    with pytest.raises(InputError) as caught:
        explained(engine)
    assert engine.made == engine.removed != [], "no container is left behind"
    assert "my/image:1 has no Python that could be found" in str(caught.value)
    assert "--cold-start measures any image" in str(caught.value)


def test_code_that_fails_is_shown_with_its_reason() -> None:
    with pytest.raises(InputError) as caught:
        explained(Engine(), "import never_there")
    assert "No module named 'never_there'" in str(caught.value)
    assert "--explain-code" in str(caught.value)


def test_there_is_no_such_image() -> None:
    with pytest.raises(InputError, match="there is no image none"):
        room.explain(Engine(), "none", code="", rounds=1, cold=0, ui=Ui(quiet=True))  # type: ignore[arg-type]


# ---- the probe ----


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("UNCHECKED_HASH", "unchecked"),
        ("CHECKED_HASH", "checked by content"),
        ("TIMESTAMP", "checked by time"),
    ],
)
def test_kinds_of_bytecode(mode: str, kind: str, tmp_path: Path) -> None:
    source, cached = tmp_path / "m.py", tmp_path / "m.pyc"
    source.write_text("A = 1\n")
    py_compile.compile(
        str(source),
        str(cached),
        invalidation_mode=getattr(py_compile.PycInvalidationMode, mode),
    )
    assert explain_probe.kind_of(str(source), str(cached)) == kind
    source.write_text("A = 22\n")
    changed = "stale" if kind == "checked by time" else kind
    assert explain_probe.kind_of(str(source), str(cached)) == changed


def test_bytecode_that_is_not_there_or_of_another_python(tmp_path: Path) -> None:
    (tmp_path / "m.py").touch()
    assert explain_probe.kind_of(str(tmp_path / "m.py"), str(tmp_path / "m.pyc")) == "missing"
    (tmp_path / "m.pyc").write_bytes(b"old!" + bytes(12))
    assert explain_probe.kind_of(str(tmp_path / "m.py"), str(tmp_path / "m.pyc")) == "stale"


def test_one_cold_start_reads_and_takes_time() -> None:
    command = [sys.executable, explain_probe.__file__, "once", "import json.tool"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["start_s"] > 0
    assert answer["read_bytes"] >= 0


def test_it_needs_nothing_but_a_python() -> None:
    spec = importlib.util.spec_from_file_location("alone", explain_probe.__file__)
    assert spec is not None
    text = Path(explain_probe.__file__).read_text()
    assert "tfslim." not in text.replace("_tfslim.json", "")
    command = [sys.executable, "-I", "-S", explain_probe.__file__, "once", "pass"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


# ---- levers ----


def start(code: float, teardown: float = 0.5) -> dict[str, float]:
    return {
        "interpreter_s": 0.0,
        "code_s": code,
        "code_cpu_s": code,
        "teardown_s": teardown,
        "cpu_s": code + teardown,
    }


def found(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "tensorflow": True,
        "interpreter": {
            "pgo": False,
            "lto": False,
            "distribution": "debian",
            "base": "/usr/bin/python3.13",
            "collector_rests": True,
            "prefetch": True,
            "hidden": None,
            "native": False,
        },
        "counts": {"bytecode": {"unchecked": 9}, "collections": 0, "collector_s": 0.0},
        "relocations": {"looked_up": 90_000, "from_cache": 10_000},
        "times": {
            "as it is": [start(1.0), start(1.0)],
            "collector works": [start(1.2), start(1.2)],
            "collector rests": [start(0.8), start(0.8)],
            "no bytecode": [start(4.0)],
            "all bytecode": [start(0.5)],
            "no teardown": [start(1.0, 0.0)],
            "imports at once": [start(1.25)],
            "library alone": [start(0.1)],
        },
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) else value
    return base


def states(said: dict[str, Any], cold: Any = None) -> dict[str, str]:
    return {lever.name.split()[0]: lever.state for lever in levers_of(said, cold or {})}


def test_an_image_of_ours_uses_them() -> None:
    cold = {"on": [{"start_s": 3.0}], "off": [{"start_s": 6.0}]}
    levers = {lever.name.split()[0]: lever for lever in levers_of(found(), cold)}
    assert {levers[name].state for name in ("complete", "garbage", "files", "symbols")} == {"used"}
    gains = [levers[name].gain for name in ("complete", "garbage", "files")]
    assert [round(gain.value, 2) for gain in gains if gain] == [0.25, 0.88, 0.5]
    assert "Debian" in levers["interpreter"].detail


def test_an_image_that_uses_none_is_told_what_each_would_gain() -> None:
    said = found(
        interpreter={"collector_rests": False, "prefetch": False, "base": "/usr/local/bin/python"},
        counts={"bytecode": {"missing": 9}},
        relocations={"looked_up": 500_000, "from_cache": 100_000},
    )
    levers = {lever.name.split()[0]: lever for lever in levers_of(said, {})}
    assert {levers[name].state for name in ("complete", "garbage", "files", "symbols")} == {
        "not used"
    }
    assert levers["complete"].gain is not None
    assert levers["complete"].gain.value == 0.5
    assert levers["garbage"].gain is not None
    assert levers["garbage"].gain.value == 0.8
    assert levers["files"].gain is None
    assert levers["interpreter"].state == "not known"


def test_what_first_use_and_the_library_alone_gain() -> None:
    levers = {lever.name.split()[0]: lever for lever in levers_of(found(), {})}
    gains = [levers[name].gain for name in ("packages", "served")]
    assert [round(gain.value, 2) for gain in gains if gain] == [0.8, 0.1]
    assert "the library opened alone" in levers["served"].measured
    assert "×0.32" in levers["symbols"].measured
    foreign = found(interpreter={"collector_rests": False}, times={"library alone": []})
    levers = {lever.name.split()[0]: lever for lever in levers_of(foreign, {})}
    assert (levers["packages"].state, levers["packages"].gain) == ("not used", None)
    assert levers["served"].measured.startswith("not measured on this image")


def test_an_image_without_python_s_tensorflow_is_told_that_it_has_done_so() -> None:
    said = found(tensorflow=False, interpreter={"native": True})
    assert states(said)["served"] == "used"


def package(folder: Path, **rules: list[str]) -> list[str]:
    """Make a package `tensorflow` with its library, and say what was slimmed."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text("raise ImportError('was removed')\n")
    (folder / "tensorflow" / explain_probe.LIBRARY).touch()
    if rules:
        (folder / "_tfslim.json").write_text(json.dumps(rules))
    return [str(folder)]


def test_the_library_alone_is_opened_where_tensorflow_alone_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", package(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    ways = explain_probe.variations("import tensorflow", complete=True)
    library = tmp_path / "tensorflow" / explain_probe.LIBRARY
    assert ways["library alone"]["code"] == f"import ctypes; ctypes.CDLL({str(library)!r})"
    assert "library alone" not in explain_probe.variations("import my_service", complete=True)
    library.unlink()
    assert "library alone" not in explain_probe.variations("import tensorflow", complete=True)


def test_a_native_image_is_started_by_opening_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", package(tmp_path, rules=["native"]))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    asked: list[str] = []

    def run(command: list[str], **_: str) -> Any:
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 1, "", "stop here")

    monkeypatch.setattr(explain_probe, "run", run)
    assert explain_probe.explain("", 1)["failed"] == "stop here"
    assert asked[0].startswith("import ctypes; ctypes.CDLL(")


def test_stale_bytecode_and_bytecode_that_is_checked_count_in_part() -> None:
    assert states(found(counts={"bytecode": {"stale": 1, "unchecked": 8}}))["complete"] == "in part"
    said = found(counts={"bytecode": {"checked by time": 9}})
    assert states(said)["complete"] == "in part"


def test_without_tensorflow_in_python() -> None:
    assert states(found(tensorflow=False))["served"] == "not applicable"
