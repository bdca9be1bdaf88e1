from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_fakes import program
from tfslim.engine import apt, embedded
from tfslim.engine.embedded import Home
from tfslim.errors import EngineError
from tfslim.ui import Ui

pytestmark = pytest.mark.skipif(
    shutil.which("start-stop-daemon") is None, reason="the embedded engine needs dpkg's tools"
)

# What dockerd does as far as setup sees it: a pid file, a socket, an end on SIGTERM.
DOCKERD = """\
home=$(dirname "$2")
trap 'rm -f "$home/dockerd.pid"; exit 0' TERM
echo $$ > "$home/dockerd.pid"
touch "$home/docker.sock"
while :; do sleep 0.05; done"""
FAILING = 'echo "failed to start daemon: operation not permitted"; exit 1'


@pytest.fixture
def ui() -> Ui:
    return Ui(quiet=True)


@pytest.fixture
def home() -> Iterator[Home]:
    """A short path: sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="tfslim-") as folder:
        yield Home(Path(folder) / "engine")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch, ui: Ui) -> Iterator[None]:
    """Root on Debian 12; `ip` answers but changes nothing; no packages are installed."""
    program(tmp_path / "bin", "ip", f'echo "$@" >> {tmp_path}/ip.calls')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(apt, "machine_release", lambda: apt.Release("debian", "bookworm", "12"))
    monkeypatch.setattr(apt, "install", lambda *_: None)
    monkeypatch.setattr(apt, "unpack", unpack)
    yield
    embedded.down(ui, home)


def unpack(
    source: apt.Source, root: Path, state: Path, ui: Ui, dockerd: str = DOCKERD
) -> list[str]:
    if source.packages == ("runc",):
        program(root / "usr/sbin", "runc", "exit 0")
    else:
        program(root / "usr/sbin", "dockerd", dockerd)
        program(root / "usr/bin", "docker", '[ -e "${DOCKER_HOST#unix://}" ]')
        program(root / "usr/libexec/docker/cli-plugins", "docker-buildx", "exit 0")
    return [f"{name}_1_amd64" for name in source.packages]


def test_up_is_idempotent_and_down_leaves_nothing_running(ui: Ui, home: Home) -> None:
    endpoint = embedded.up(ui, home)
    first = embedded.status(home)
    assert first.running
    assert "docker-buildx_1_amd64" in first.packages
    assert endpoint.buildx is not None
    assert endpoint.buildx.resolve().is_file()
    embedded.up(ui, home)
    assert embedded.status(home).pid == first.pid
    assert embedded.down(ui, home)
    assert not embedded.running(home)
    assert not home.socket.exists()
    assert not embedded.down(ui, home)


def test_it_starts_beside_other_shells(ui: Ui, home: Home) -> None:
    """start-stop-daemon starts nothing if what it looks for runs already: not just any shell."""
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60; true"], start_new_session=True) as other:
        try:
            embedded.up(ui, home)
            assert embedded.running(home)
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_daemon_leaves_the_machines_network_alone(ui: Ui, home: Home, tmp_path: Path) -> None:
    embedded.up(ui, home)
    settings = json.loads((home.path / "daemon.json").read_text())
    assert settings["features"]["containerd-snapshotter"]
    assert settings["builder"]["gc"]["defaultKeepStorage"].endswith("B")
    for key in ("iptables", "ip6tables", "ip-masq", "ip-forward"):
        assert settings[key] is False
    assert settings["bridge"] == home.bridge != "docker0"
    paths = [settings[key] for key in ("data-root", "exec-root", "pidfile")]
    assert all(path.startswith(f"{home.path}/") for path in [*paths, settings["hosts"][0][7:]])


def test_interrupted_setup_can_be_run_again(
    ui: Ui, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: apt.Source, root: Path, state: Path, ui: Ui) -> list[str]:
        unpack(source, root, state, ui)
        raise KeyboardInterrupt

    monkeypatch.setattr(apt, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded.up(ui, home)
    assert not home.root.exists()
    assert embedded.status(home).packages == ()
    monkeypatch.setattr(apt, "unpack", unpack)
    embedded.up(ui, home)
    assert embedded.running(home)
    assert not (home.path / "root.new").exists()


def test_failed_start_shows_what_the_daemon_said(
    ui: Ui, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "unpack", lambda *a: unpack(*a, dockerd=FAILING))
    with pytest.raises(EngineError) as caught:
        embedded.up(ui, home)
    assert "operation not permitted" in caught.value.why
    assert str(home.log) in caught.value.way_out


def test_stale_pid_file_counts_as_stopped(home: Home) -> None:
    home.path.mkdir()
    home.pidfile.write_text(str(os.getpid()))  # a live process, but not dockerd
    assert not embedded.running(home)
    home.pidfile.write_text("garbage")
    assert not embedded.running(home)


def test_purge_deletes_everything(ui: Ui, home: Home) -> None:
    embedded.up(ui, home)
    embedded.purge(ui, home)
    assert not home.path.exists()
    embedded.purge(ui, home)  # nothing there: nothing to do


def test_purge_does_not_delete_through_a_mount(
    ui: Ui, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.path.mkdir()
    monkeypatch.setattr(embedded, "_mounts", lambda _: [home.path / "data/x"])
    with pytest.raises(EngineError, match="still has mounts"):
        embedded.purge(ui, home)
    assert home.path.exists()


def test_ordinary_users_are_told_before_anything_happens(
    ui: Ui, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineError) as caught:
        embedded.up(ui, home)
    assert "needs root" in caught.value.what
    assert "sudo" in caught.value.way_out
    assert not home.path.exists()


def test_unknown_release_is_refused(ui: Ui, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "machine_release", lambda: apt.Release("debian", "buster", "10"))
    with pytest.raises(EngineError, match="debian buster"):
        embedded.up(ui, home)
    assert not home.root.exists()


def test_too_long_home_is_refused(ui: Ui, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="too long for the path of a socket"):
        embedded.up(ui, Home(tmp_path / ("x" * 100)))


def test_bridge_is_the_homes_own_and_fits_an_interface_name(tmp_path: Path) -> None:
    names = {Home(tmp_path / str(n)).bridge for n in range(20)}
    assert len(names) == 20
    assert all(len(name) <= 15 for name in names)


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSLIM_HOME", str(tmp_path))
    assert Home.default().path == tmp_path / "engine"
    monkeypatch.delenv("TFSLIM_HOME")
    assert Home.default().path == Path("/var/lib/tfslim/engine")
