from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import DockerException

from engine_fakes import FakeApi, program
from tfslim.engine import apt, embedded, engine
from tfslim.engine.engine import find_engine
from tfslim.errors import EngineError
from tfslim.ui import Ui

CONTAINERD = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
BUILDX = """\
echo "$@" >> "$0.calls"
if [ "$1" = version ]; then echo "github.com/docker/buildx v0.21.3 abc"; fi"""


@pytest.fixture
def ui() -> Ui:
    return Ui(quiet=True)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Docker: no variables, no default socket, no plugins but our own."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TFSLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(engine, "_SOCKET", tmp_path / "docker.sock")
    monkeypatch.setattr(engine, "_PLUGIN_FOLDERS", ())
    return tmp_path


@pytest.fixture
def serve(machine: Path) -> Iterator[Callable[..., FakeApi]]:
    """Start an engine's API at the default socket or another."""
    running: list[FakeApi] = []

    def start(info: dict[str, Any] | None = None, path: Path | None = None) -> FakeApi:
        running.append(FakeApi(path or machine / "docker.sock", info))
        return running[-1]

    yield start
    for api in running:
        api.close()


@pytest.fixture
def buildx(machine: Path) -> Path:
    return program(machine / "config/cli-plugins", "docker-buildx", BUILDX)


def test_no_engine_names_both_ways_out(ui: Ui) -> None:
    with pytest.raises(EngineError) as caught:
        find_engine(ui, setup=False)
    assert "no Docker engine" in caught.value.what
    assert "docs.docker.com/engine/install" in caught.value.way_out
    assert "--setup-engine" in caught.value.way_out


def test_containerd_store_builds_in_the_engine(
    ui: Ui, serve: Callable[..., FakeApi], buildx: Path
) -> None:
    serve({**CONTAINERD, "DockerRootDir": str(buildx.parent)})
    found = find_engine(ui, setup=False)
    assert (found.driver, found.builder, found.cache_export) == ("docker", "default", True)
    assert (found.buildx_version, found.server_version) == ("0.21.3", "28.0.0")
    assert (found.embedded, found.build_network) == (False, "default")
    assert found.data_root == buildx.parent
    assert (found.free_bytes() or 0) > 0
    assert found.version_info() == {"containerd": "1.7", "engine": "28.0.0", "buildx": "0.21.3"}


def test_classic_store_gets_a_container_builder(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path
) -> None:
    script = f'{BUILDX}\n[ "$1 $2" != "inspect tfslim" ] || exit 1'
    plugin = program(machine / "config/cli-plugins", "docker-buildx", script)
    serve()
    found = find_engine(ui, setup=False)
    assert (found.driver, found.builder, found.cache_export) == ("docker-container", "tfslim", True)
    assert "overlay2" in found.driver_reason
    calls = Path(f"{plugin}.calls").read_text().splitlines()
    assert calls[-2:] == [
        "create --name tfslim --driver docker-container default",
        "inspect --bootstrap tfslim",
    ]


def test_doctor_only_says_what_a_build_would_make(
    ui: Ui, serve: Callable[..., FakeApi], buildx: Path
) -> None:
    serve()
    found = find_engine(ui, setup=False, make_builder=False)
    assert "would use a docker-container builder" in found.driver_reason
    assert "create" not in Path(f"{buildx}.calls").read_text()


def test_builder_that_cannot_start_leaves_builds_without_cache(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path
) -> None:
    script = f'{BUILDX}\n[ "$2" != --bootstrap ] || {{ echo "pull failed: no such host"; exit 1; }}'
    program(machine / "config/cli-plugins", "docker-buildx", script)
    serve()
    found = find_engine(ui, setup=False)
    assert (found.driver, found.cache_export) == ("docker", False)
    assert "no such host" in found.driver_reason
    assert "containerd-snapshotter" in found.cache_reason


def test_docker_host_that_does_not_answer_is_not_passed_over(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()  # a good engine at the default socket must not be used instead
    monkeypatch.setenv("DOCKER_HOST", f"unix://{machine}/dead.sock")
    with pytest.raises(EngineError) as caught:
        find_engine(ui, setup=True)
    assert "dead.sock does not answer" in caught.value.what
    assert "unset DOCKER_HOST" in caught.value.way_out


def test_engine_that_hangs_does_not_hang_the_run(
    ui: Ui, machine: Path, buildx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_CALL_SECONDS", 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(machine / "docker.sock"))
        listener.listen()
        with pytest.raises(EngineError, match="does not answer") as caught:
            find_engine(ui, setup=False)
    assert "systemctl start docker" in caught.value.way_out


def test_permission_denied_says_how_to_get_it(
    ui: Ui, machine: Path, buildx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "docker.sock").touch()

    def refuse(*_: object) -> None:
        raise DockerException("PermissionError(13, 'Permission denied')")

    monkeypatch.setattr(engine, "_client", refuse)
    with pytest.raises(EngineError) as caught:
        find_engine(ui, setup=False)
    assert "usermod -aG docker" in caught.value.way_out


def test_engine_without_buildx_names_the_package(
    ui: Ui, serve: Callable[..., FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(CONTAINERD)
    monkeypatch.setattr(apt, "machine_release", lambda: apt.Release("ubuntu", "noble", "24.04"))
    monkeypatch.setattr(apt, "missing", list)
    with pytest.raises(EngineError) as caught:
        find_engine(ui, setup=False)
    assert "there is no buildx" in caught.value.what
    assert "apt-get install docker-buildx" in caught.value.way_out


def test_docker_ce_without_buildx_names_dockers_own_package(
    ui: Ui, serve: Callable[..., FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(CONTAINERD)
    monkeypatch.setattr(apt, "missing", lambda _: [])
    with pytest.raises(EngineError, match="docker-buildx-plugin"):
        find_engine(ui, setup=False)


@pytest.mark.parametrize(
    ("script", "says"),
    [("echo buildx v0.9.1 x", "too old"), ("echo broken >&2; exit 1", "does not run")],
)
def test_unusable_buildx_is_refused(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path, script: str, says: str
) -> None:
    program(machine / "config/cli-plugins", "docker-buildx", script)
    serve(CONTAINERD)
    with pytest.raises(EngineError, match=says):
        find_engine(ui, setup=False)


def test_current_context_is_honoured(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path, buildx: Path
) -> None:
    _make_context(machine / "config", "lab", machine / "lab.sock")
    serve({**CONTAINERD, "ServerVersion": "27.9.9"}, machine / "lab.sock")
    found = find_engine(ui, setup=False)
    assert (found.server_version, found.builder) == ("27.9.9", "lab")
    assert found.endpoint.env == {"DOCKER_CONTEXT": "lab"}


def test_missing_context_is_an_error(ui: Ui, buildx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(EngineError, match="context 'gone' does not exist"):
        find_engine(ui, setup=False)


def _make_context(config: Path, name: str, socket: Path) -> None:
    """Write a context as `docker context create` does: its folder is the name's SHA-256."""
    folder = config / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    endpoint = {"docker": {"Host": f"unix://{socket}", "SkipTLSVerify": False}}
    meta = {"Name": name, "Metadata": {}, "Endpoints": endpoint}
    (folder / "meta.json").write_text(json.dumps(meta))
    (config / "config.json").write_text(json.dumps({"currentContext": name}))


def test_running_embedded_engine_is_the_last_resort(
    ui: Ui, serve: Callable[..., FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = embedded.Home.default()
    program(home.buildx.parent, home.buildx.name, BUILDX)
    monkeypatch.setattr(embedded, "running", lambda _: True)
    serve(CONTAINERD, home.socket)
    found = find_engine(ui, setup=False)
    assert (found.embedded, found.build_network) == (True, "host")
    assert found.endpoint.host == f"unix://{home.socket}"


def test_setup_is_asked_of_the_embedded_engine(
    ui: Ui, serve: Callable[..., FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = embedded.Home.default()
    program(home.buildx.parent, home.buildx.name, BUILDX)
    serve(CONTAINERD, home.socket)
    monkeypatch.setattr(embedded, "up", lambda _ui, home: home.endpoint())
    assert find_engine(ui, setup=True).embedded


def test_buildx_runs_with_the_engines_builder(
    ui: Ui, serve: Callable[..., FakeApi], machine: Path
) -> None:
    script = f'{BUILDX}\n[ "$1" != env ] || echo "$BUILDX_BUILDER $EXTRA"'
    program(machine / "config/cli-plugins", "docker-buildx", script)
    serve(CONTAINERD)
    found = find_engine(ui, setup=False)
    assert found.buildx(["env"], env={"EXTRA": "x"}).stdout == "default x\n"
    lines: list[str] = []
    assert found.buildx(["env"], lines.append).ok
    assert lines == ["default "]


def test_docker_without_the_command_is_127(
    ui: Ui, serve: Callable[..., FakeApi], buildx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(buildx))  # noqa: PTH120
    serve(CONTAINERD)
    assert find_engine(ui, setup=False).docker(["ps"]).returncode == 127
