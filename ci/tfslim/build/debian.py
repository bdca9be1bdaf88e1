"""Base images built from Debian packages: a recipe in, a compressed root file system out.

mmdebstrap does the work; bases.yaml says what goes in. Nothing here knows Docker.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tfslim import proc
from tfslim.engine import apt
from tfslim.errors import BuildFailedError, DiskError, NetworkError
from tfslim.ui import Ui

__all__ = ["Recipe", "RootFs", "build", "recipes"]

_TOOLS = ("mmdebstrap", "zstd", "debian-archive-keyring")
# Part of every recipe's key: raise it when the code below makes other files of the same recipe.
_BUILDER_VERSION = 1
# What packages leave behind that nothing reads again, and what mmdebstrap copies from this machine.
_LEFTOVERS = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/hostname",
    "etc/resolv.conf",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
)


@dataclass(frozen=True)
class Recipe:
    """A base image as bases.yaml describes it; see there for the fields."""

    name: str
    suite: str
    components: tuple[str, ...]
    packages: tuple[str, ...]
    excludes: tuple[str, ...]
    includes: tuple[str, ...]
    links: dict[str, str]
    env: dict[str, str]
    cmd: tuple[str, ...]
    differs: str

    @property
    def key(self) -> str:
        """Content key: the same key means the same recipe built by the same code."""
        content = {key: value for key, value in vars(self).items() if key != "differs"}
        text = json.dumps([_BUILDER_VERSION, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class RootFs:
    """A built root file system.

    Attributes:
        archive: tar, compressed with zstd.
        packages: Every installed package as "name=version", sorted.
    """

    archive: Path
    packages: tuple[str, ...]


@functools.cache
def recipes() -> dict[str, Recipe]:
    """Return all recipes by the name in FROM."""
    text = resources.files("tfslim.build").joinpath("bases.yaml").read_text()
    data = yaml.safe_load(text)
    return {name: _recipe(name, row, data["defaults"]) for name, row in data["bases"].items()}


def _recipe(name: str, row: dict[str, Any], defaults: dict[str, Any]) -> Recipe:
    return Recipe(
        name=name,
        suite=row["suite"],
        components=tuple(row["components"]),
        packages=tuple(row["packages"]),
        excludes=(*defaults["excludes"], *row.get("excludes", ())),
        includes=tuple(defaults["includes"]),
        links=dict(row["links"]),
        env=dict(row["env"]),
        cmd=tuple(row["cmd"]),
        differs=row["differs"],
    )


def build(recipe: Recipe, work: Path, ui: Ui) -> RootFs:
    """Build a recipe's root file system below `work`.

    Raises:
        EngineError: Not root, or the tools cannot be installed.
        NetworkError: The mirror cannot be reached.
        DiskError: No space left below `work`.
        BuildFailedError: Anything else that mmdebstrap says.
    """
    apt.require_root(f"Building {recipe.name} from Debian packages")
    apt.install(_TOOLS, "base images from Debian packages", ui)
    archive, listing = work / "root.tar.zst", work / "packages"
    argv, env = _command(recipe, archive, listing), {**apt.proxies(), "TMPDIR": str(work)}
    with ui.step(f"Build {recipe.name} from Debian {recipe.suite} packages") as step:
        done = proc.stream(argv, lambda line: step.update(line.removeprefix("I: ")[:78]), env=env)
    if not done.ok:
        raise _failed(recipe, done)
    return RootFs(archive, tuple(sorted(listing.read_text().split())))


def _command(recipe: Recipe, archive: Path, listing: Path) -> list[str]:
    filters = [f"path-exclude={pattern}" for pattern in recipe.excludes]
    filters += [f"path-include={pattern}" for pattern in recipe.includes]
    return [
        # In a mount namespace of its own, what is mounted into the tree ends with the processes:
        # removing a killed build's folder can then never reach into this machine's /dev or /sys.
        *("unshare", "--mount", "--propagation", "private"),
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(recipe.packages)}",
        f"--components={','.join(recipe.components)}",
        *(f"--dpkgopt={line}" for line in filters),
        *(f"--customize-hook={hook}" for hook in _hooks(recipe, listing)),
        recipe.suite,
        str(archive),
        *_sources(recipe),
    ]


def _hooks(recipe: Recipe, listing: Path) -> list[str]:
    """Return the shell commands that run in the finished tree ("$1") before it is packed."""
    query = r"dpkg-query -W -f '${binary:Package}=${Version}\n'"
    links = [
        f'ln -s {shlex.quote(target)} "$1"{shlex.quote(path)}'
        for path, target in recipe.links.items()
    ]
    leftovers = " ".join(f'"$1"/{pattern}' for pattern in _LEFTOVERS)
    return [f'chroot "$1" {query} > {shlex.quote(str(listing))}', *links, f"rm -f {leftovers}"]


def _sources(recipe: Recipe) -> list[str]:
    """Return the lines of sources.list, which stay in the image for apt in later builds."""
    mirrors = apt.debian_mirrors()
    if mirrors is None:
        return []  # mmdebstrap knows Debian's own, and adds updates and security
    main, security = mirrors
    areas = " ".join(recipe.components)
    signed = f"[signed-by={apt.DEBIAN_KEYRING}]"
    return [
        f"deb {signed} {main} {recipe.suite} {areas}",
        f"deb {signed} {main} {recipe.suite}-updates {areas}",
        f"deb {signed} {security} {recipe.suite}-security {areas}",
    ]


def _failed(recipe: Recipe, done: proc.Completed) -> BuildFailedError | DiskError | NetworkError:
    what = f"{recipe.name} cannot be built from Debian packages"
    if "No space left on device" in done.stdout:
        return DiskError(
            what,
            why=done.tail,
            way_out="Free some space (docker system prune), or set TMPDIR to a larger disk.",
        )
    if "NO_PUBKEY" in done.stdout:
        return BuildFailedError(
            what,
            why=f"{apt.DEBIAN_KEYRING} is too old for Debian {recipe.suite}.\n{done.tail}",
            way_out="Install a newer debian-archive-keyring: "
            "https://packages.debian.org/stable/debian-archive-keyring\n"
            "or use `base-source: registry`.",
        )
    if apt.unreachable(done.stdout):
        return NetworkError(
            what,
            why=done.tail,
            way_out=f"Check that your Debian mirror can be reached and carries {recipe.suite};\n"
            "mirror and proxy are those of /etc/apt.",
        )
    return BuildFailedError(
        what, why=done.tail, way_out="`base-source: registry` needs none of it."
    )
