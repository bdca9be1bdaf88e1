from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from engine_fakes import program
from tfslim.build import debian
from tfslim.compat import compat
from tfslim.engine import apt
from tfslim.errors import BuildFailedError, DiskError, EngineError, NetworkError
from tfslim.ui import Ui

PYTHON = "python:3.13-slim-trixie"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root on Debian with the tools installed; `unshare` is where mmdebstrap would start."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(apt, "install", lambda *_: None)
    monkeypatch.setattr(apt, "debian_mirrors", lambda: ("http://m/debian", "http://m/security"))
    monkeypatch.setattr(apt, "proxies", lambda: {"http_proxy": "http://proxy:3128"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def test_every_recipe_is_complete() -> None:
    for recipe in debian.recipes().values():
        assert recipe.suite in ("bookworm", "trixie")
        assert "ca-certificates" in recipe.packages
        assert recipe.env["PATH"]
        assert recipe.differs
        assert all(path.startswith("/") for pair in recipe.links.items() for path in pair)


def test_recipes_are_what_compat_promises() -> None:
    table = compat()
    promised = {base.name for base in table.python_bases.values() if base.debian}
    for base in table.cuda_bases.values():
        if base.python.debian:
            promised |= {base.runtime, base.devel}
    assert promised == set(debian.recipes())


def test_cuda_runtime_holds_no_driver_and_no_python() -> None:
    packages = debian.recipes()["nvidia/cuda:12.4.1-runtime-ubuntu22.04"].packages
    assert not [name for name in packages if name.startswith(("libcuda1", "python"))]


def test_key_changes_with_contents_but_not_with_words() -> None:
    recipe = debian.recipes()[PYTHON]
    assert dataclasses.replace(recipe, differs="other words").key == recipe.key
    assert dataclasses.replace(recipe, packages=()).key != recipe.key


def test_build_runs_mmdebstrap_in_a_mount_namespace(machine: Path, tmp_path: Path) -> None:
    # The fake packs nothing: it notes its arguments, and writes what a real build leaves.
    script = f"""
printf '%s\\n' "$@" > {tmp_path}/args; env > {tmp_path}/env
touch {tmp_path}/root.tar.zst; printf 'zlib=1\\nbash=5\\n' > {tmp_path}/packages"""
    program(machine / "bin", "unshare", script)
    rootfs = debian.build(debian.recipes()[PYTHON], tmp_path, Ui(quiet=True))
    assert rootfs.packages == ("bash=5", "zlib=1")
    args = (tmp_path / "args").read_text().splitlines()
    assert args[:5] == ["--mount", "--propagation", "private", "mmdebstrap", "--mode=root"]
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert f"deb {signed} http://m/security trixie-security main" in args
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in args
    assert "http_proxy=http://proxy:3128" in (tmp_path / "env").read_text()


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ("tar: No space left on device", DiskError),
        ("E: Could not resolve 'm'", NetworkError),
        ("E: Unable to locate package x", BuildFailedError),
        ("W: GPG error: NO_PUBKEY 6ED0E7B82643E131", BuildFailedError),
    ],
)
def test_failures_are_told_apart(
    machine: Path, tmp_path: Path, says: str, error: type[Exception]
) -> None:
    program(machine / "bin", "unshare", f'echo "{says}"; exit 1')
    with pytest.raises(error, match="cannot be built from Debian packages") as caught:
        debian.build(debian.recipes()[PYTHON], tmp_path, Ui(quiet=True))
    assert says in str(caught.value)


def test_ordinary_users_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineError, match="needs root"):
        debian.build(debian.recipes()[PYTHON], tmp_path, Ui(quiet=True))


def test_links_are_made_in_the_tree_and_leftovers_removed(tmp_path: Path) -> None:
    """The hooks themselves run, on a small tree; only the query of packages is left out."""
    root = tmp_path / "tree"
    for path in ("usr/local/bin/x", "var/log/dpkg.log", "etc/resolv.conf", "var/lib/dpkg/status"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    hooks = debian._hooks(debian.recipes()[PYTHON], tmp_path / "list")
    for hook in hooks[1:]:
        subprocess.run(["sh", "-c", hook, "exec", str(root)], check=True)
    assert (root / "usr/local/bin/python").readlink() == Path("/usr/bin/python3.13")
    assert (root / "var/lib/dpkg/status").exists()
    assert not (root / "var/log/dpkg.log").exists()
    assert not (root / "etc/resolv.conf").exists()
