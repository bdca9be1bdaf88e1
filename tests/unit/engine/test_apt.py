from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from engine_fakes import program
from tfslim.engine import apt
from tfslim.errors import EngineError, NetworkError
from tfslim.ui import Ui

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm", "VERSION_ID": "12"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root on Debian 12 with only the programs a test writes into bin/, before the real ones."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: BOOKWORM)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    program(tmp_path / "bin", "apt-get", "exit 0")
    program(tmp_path / "bin", "dpkg-query", "exit 1")
    return tmp_path


def test_packages_are_named_before_they_are_installed(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = machine / "installed"
    program(machine / "bin", "apt-get", f'[ "$1" != install ] || touch {marker}')
    program(
        machine / "bin", "dpkg-query", 'case "$*" in *zstd) printf installed;; *) exit 1;; esac'
    )
    apt.install(["mmdebstrap", "zstd"], "the test", Ui(interactive=False))
    said = capsys.readouterr().err
    assert "for the test: mmdebstrap\n" in said  # zstd is there already
    assert marker.exists()


def test_stale_lists_are_updated_once(machine: Path) -> None:
    script = f"""
[ "$1" = update ] && touch {machine}/fresh
[ "$1" = install ] && [ ! -e {machine}/fresh ] && exit 100
exit 0"""
    program(machine / "bin", "apt-get", script)
    apt.install(["mmdebstrap"], "the test", Ui(quiet=True))
    assert (machine / "fresh").exists()


def test_unreachable_mirror_is_a_network_error(machine: Path) -> None:
    program(machine / "bin", "apt-get", "echo \"E: Could not resolve 'mirror.example'\"; exit 100")
    with pytest.raises(NetworkError) as caught:
        apt.install(["mmdebstrap"], "the test", Ui(quiet=True))
    assert "Acquire::http::Proxy" in caught.value.way_out


def test_ordinary_users_cannot_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineError, match="Installing mmdebstrap needs root"):
        apt.install(["mmdebstrap"], "the test", Ui(quiet=True))


def test_mirrors_are_the_machines_own(machine: Path) -> None:
    listing = """
echo "bookworm-updates http://mirror.example/debian/"
echo "bookworm http://mirror.example/debian/"
echo "nodistro https://elsewhere.example/"
echo "bookworm-security http://mirror.example/security/" """
    program(machine / "bin", "apt-get", listing)
    assert apt.debian_mirrors() == (
        "http://mirror.example/debian",
        "http://mirror.example/security",
    )


def test_other_distributions_have_no_debian_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    noble = {"ID": "ubuntu", "VERSION_CODENAME": "noble", "VERSION_ID": "24.04"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: noble)
    assert apt.debian_mirrors() is None


def test_security_lies_beside_the_main_archive_where_it_is_not_named(machine: Path) -> None:
    program(machine / "bin", "apt-get", 'echo "bookworm http://mirror.example/debian/"')
    assert apt.debian_mirrors() == (
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    )


def test_mirrors_are_known_before_the_first_update(machine: Path) -> None:
    script = 'case "$*" in *--no-release-info*) echo "bookworm http://mirror.example/debian";; esac'
    program(machine / "bin", "apt-get", script)
    assert apt.debian_mirrors() == (
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    )


def test_proxies_of_apt_become_variables_unless_set(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "http://mine:1")
    program(
        machine / "bin",
        "apt-config",
        "echo \"http_proxy='http://p:3128'\"; echo \"https_proxy='x'\"",
    )
    assert apt.proxies() == {"http_proxy": "http://p:3128"}


def test_system_without_apt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "Arch Linux"})
    with pytest.raises(EngineError, match="Arch Linux"):
        apt.machine_release()


def test_unpack_keeps_apts_state_private(machine: Path, tmp_path: Path) -> None:
    script = f"""
printf '%s\\n' "$@" > {machine}/args
case "$*" in
  *indextargets*) echo "bookworm http://mirror.example/debian" ;;
  *download*) touch tool_1%3a2_amd64.deb ;;
esac"""
    program(machine / "bin", "apt-get", script)
    program(machine / "bin", "dpkg", 'touch "$3/unpacked"')
    source = apt.Source(("tool",), "trixie")
    names = apt.unpack(source, tmp_path / "root", tmp_path / "state", Ui(quiet=True))
    assert names == ["tool_1:2_amd64"]
    assert (tmp_path / "root/unpacked").exists()
    args = (machine / "args").read_text().splitlines()
    assert f"Dir::State::lists={tmp_path}/state/lists/trixie" in args
    entry = (tmp_path / "state/trixie.list").read_text()
    assert "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in entry
    assert "http://mirror.example/debian trixie" in entry


def test_without_a_mirror_another_releases_packages_are_refused(
    machine: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="apt names no Debian mirror"):
        apt.unpack(apt.Source(("tool",), "trixie"), tmp_path / "r", tmp_path / "s", Ui(quiet=True))
