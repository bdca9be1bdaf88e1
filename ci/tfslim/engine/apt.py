"""The one seam to apt and dpkg: where packages come from, which are missing, how to get them.

Two ways to get a package, never mixed up: `install` changes the machine and names the packages
first; `unpack` reads them into a private folder and changes nothing outside it.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfslim import proc
from tfslim.errors import EngineError, NetworkError
from tfslim.ui import Ui

__all__ = [
    "DEBIAN_KEYRING",
    "Release",
    "Source",
    "debian_mirrors",
    "install",
    "machine_release",
    "missing",
    "proxies",
    "require_root",
    "unpack",
    "unreachable",
]

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NONINTERACTIVE = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Release:
    """A distribution's release, as os-release names it ("debian", "bookworm", "12")."""

    id: str
    codename: str
    version: str


@dataclass(frozen=True)
class Source:
    """Where `unpack` takes packages from.

    Attributes:
        packages: Names to take; dependencies are not followed.
        suite: A Debian suite, or empty for the machine's own sources.
    """

    packages: tuple[str, ...]
    suite: str = ""
    components: tuple[str, ...] = field(default=("main",))


def machine_release() -> Release:
    """Return what this machine runs; refuse anything but Debian and its derivatives."""
    try:
        info = platform.freedesktop_os_release()
    except OSError:
        info = {}
    if not shutil.which("apt-get") or "VERSION_CODENAME" not in info:
        name = info.get("PRETTY_NAME", "an unknown system")
        raise EngineError(
            f"{name} has no apt packages to set things up from",
            way_out="Install Docker Engine with buildx: https://docs.docker.com/engine/install/",
        )
    return Release(info["ID"], info["VERSION_CODENAME"], info.get("VERSION_ID", ""))


def require_root(purpose: str) -> None:
    """Refuse to go on as an ordinary user, naming what root is needed for."""
    if os.geteuid() != 0:
        raise EngineError(
            f"{purpose} needs root",
            why=f"This process runs as user {os.geteuid()}.",
            way_out="Run the same command with sudo, or use a Docker engine you may talk to "
            "(DOCKER_HOST or `docker context use`).",
        )


def debian_mirrors() -> tuple[str, str] | None:
    """Return the mirrors of Debian's main and security archives that this machine is set up with.

    Third-party archives are left out: a mirror is one that carries the machine's own release.
    None where apt names no mirror, and on machines of another distribution.
    """
    release = machine_release()
    if release.id != "debian":
        return None
    # On a machine that never ran `apt-get update` only the second form answers.
    mirrors = _mirrors() or _mirrors("--no-release-info")
    if release.codename not in mirrors:
        return None
    main = mirrors[release.codename].rstrip("/")
    # Mirrors keep the security archive beside the main one, under this name.
    security = mirrors.get(f"{release.codename}-security", f"{main}-security")
    return main, security.rstrip("/")


def _mirrors(*options: str) -> dict[str, str]:
    """Return apt's package archives by release."""
    form = "$(RELEASE) $(REPO_URI)"
    found = proc.run(
        ["apt-get", "indextargets", *options, "--format", form, "Identifier: Packages"]
    )
    return dict(line.split(" ", 1) for line in found.stdout.splitlines() if " " in line)


def proxies() -> dict[str, str]:
    """Return the proxies of apt's settings as environment variables, for tools that read those."""
    settings = ["http_proxy", "Acquire::http::Proxy", "https_proxy", "Acquire::https::Proxy"]
    shell = proc.run(["apt-config", "shell", *settings]).stdout
    pairs = (part.partition("=") for part in shlex.split(shell))
    return {name: value for name, _, value in pairs if name not in os.environ}


def missing(packages: Sequence[str]) -> list[str]:
    """Return those of `packages` that are not installed on this machine."""
    return [name for name in packages if not _installed(name)]


def _installed(package: str) -> bool:
    answer = proc.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    return answer.ok and answer.stdout.strip() == "installed"


def install(packages: Sequence[str], why: str, ui: Ui) -> None:
    """Install the missing ones of `packages` on this machine, after naming them.

    Args:
        packages: Package names of the machine's own release.
        why: What they are for, as the user reads it.
        ui: Where they are named.
    """
    wanted = missing(packages)
    if not wanted:
        return
    require_root(f"Installing {', '.join(wanted)}")
    ui.print(f"Installing from this machine's package sources, for {why}: {' '.join(wanted)}")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted]
    with ui.step(f"apt-get install {' '.join(wanted)}") as step:
        done = proc.stream(command, step.update, env=_NONINTERACTIVE)
        if not done.ok:  # a fresh machine has no package lists yet, or stale ones
            proc.stream(["apt-get", "update", "-q"], step.update, env=_NONINTERACTIVE)
            done = proc.stream(command, step.update, env=_NONINTERACTIVE)
    if not done.ok:
        raise _apt_failed(f"apt cannot install {', '.join(wanted)}", done)


def unpack(source: Source, root: Path, state: Path, ui: Ui) -> list[str]:
    """Unpack packages into `root` without installing them.

    Args:
        source: What to take, and from where.
        root: Folder that gets their files.
        state: Folder for apt's own lists and downloads, so that the machine's stay as they are.
        ui: Where progress is shown.

    Returns:
        What was unpacked, as "name_version_arch", sorted.
    """
    options = _private_apt(source, state)
    downloads = state / "debs"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    with ui.step(f"Download {' '.join(source.packages)} ({source.suite or 'own release'})") as step:
        for command in (["update", "-q"], ["download", "-q", *source.packages]):
            argv = ["apt-get", *options, *command]
            done = proc.stream(argv, step.update, cwd=downloads, env=_NONINTERACTIVE)
            if not done.ok:
                raise _apt_failed(f"apt cannot get {', '.join(source.packages)}", done)
    debs = sorted(downloads.glob("*.deb"))
    root.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        done = proc.run(["dpkg", "--extract", str(deb), str(root)])
        if not done.ok:
            raise EngineError(f"{deb.name} cannot be unpacked", why=done.tail)
    shutil.rmtree(downloads)
    return [deb.stem.replace("%3a", ":") for deb in debs]


def _private_apt(source: Source, state: Path) -> list[str]:
    """Return apt options that keep every list and cache below `state`."""
    name = source.suite or "own"
    lists, cache = state / "lists" / name, state / "cache"
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": str(lists),
        "Dir::Cache": str(cache),
        # The sandbox user may not enter a private folder; downloads are signed either way.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    if source.suite:
        entry = state / f"{name}.list"
        components = " ".join(source.components)
        signed = f"[signed-by={DEBIAN_KEYRING}]"
        mirrors = debian_mirrors()
        if mirrors is None:
            raise EngineError(
                "apt names no Debian mirror",
                why=f"packages of Debian {source.suite} are needed, and no source in /etc/apt "
                "carries this machine's own release",
                way_out="Add Debian's archive to /etc/apt/sources.list, or install Docker Engine "
                "with buildx.",
            )
        entry.write_text(f"deb {signed} {mirrors[0]} {source.suite} {components}\n")
        settings |= {"Dir::Etc::sourcelist": str(entry), "Dir::Etc::sourceparts": "/dev/null"}
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def unreachable(said: str) -> bool:
    """True where apt's words mean that a mirror could not be reached."""
    signs = ("Could not resolve", "Could not connect", "Temporary failure", "Failed to fetch")
    return any(sign in said for sign in signs)


def _apt_failed(what: str, done: proc.Completed) -> EngineError | NetworkError:
    if unreachable(done.stdout):
        return NetworkError(
            what,
            why=done.tail,
            way_out="Check the network, or set your mirror or proxy in /etc/apt "
            "(sources.list.d; Acquire::http::Proxy in apt.conf.d) and run this again.",
        )
    return EngineError(what, why=done.tail, way_out="Fix what apt says, then run this again.")
