"""From arguments to trees that scripts can run in: folders, and packs, which are unpacked first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpuproof.document import TreeFacts
from tfslim.bench import enter
from tfslim.bench.driver import Driver
from tfslim.bench.rootfs import Root, RootTarget, open_root
from tfslim.errors import ConfigError, InputError
from tfslim.pack.manifest import MANIFEST
from tfslim.pack.read import read_marker, unpack_tree
from tfslim.parity.target import Target
from tfslim.parity.trees import tree_target
from tfslim.ui import Ui

__all__ = ["Given", "Opened", "open_tree", "parse"]

Role = Literal["slim", "stock", "wrong"]
_PACKAGES = "lib/python3*/*-packages"


@dataclass(frozen=True)
class Given:
    """What was named.

    Attributes:
        name: As results show it.
        path: A virtual environment, a root file system, or a pack of one.
    """

    name: str
    path: Path
    role: Role


@dataclass(frozen=True)
class Opened:
    """A tree at hand.

    Attributes:
        target: Where scripts run.
        root: How its service is run, for a root file system.
    """

    facts: TreeFacts
    path: Path
    target: Target
    root: Root | None


def parse(arguments: Sequence[str], role: Role) -> Iterator[Given]:
    """Read NAME=PATH; a path without a name has its folder's."""
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals:
            name, path = Path(argument).name, argument
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ConfigError(
                f"{name!r} is no name for a tree",
                way_out="Letters, digits, '.', '_' and '-': NAME=FOLDER.",
            )
        yield Given(name, Path(path), role)


@contextmanager
def open_tree(given: Given, state: Path, driver: Driver | None, ui: Ui) -> Iterator[Opened]:
    """Make a tree ready; a pack is unpacked into the state folder, once.

    Args:
        given: What was named.
        state: Folder that keeps what was unpacked.
        driver: Bound into root file systems where a script is given GPUs.
        ui: Shows progress.

    Raises:
        InputError: It is no tree, or nothing in it can run.
    """
    path, size = given.path.absolute(), None
    if (path / MANIFEST).is_file():
        unpacked = state / "trees" / given.name
        size = unpack_tree(path, unpacked, ui=ui).manifest.tree_bytes
        path = unpacked.absolute()
    if not path.is_dir():
        raise InputError(f"there is no folder {given.path}")
    if (path / "usr").is_dir() and not (path / "pyvenv.cfg").exists():
        with open_root(str(path), ui) as root:
            target = RootTarget(root, enter.choose_tool(), driver)
            yield Opened(_facts(given, path, target.kind, size), path, target, root)
        return
    tree = tree_target(str(path))
    yield Opened(_facts(given, path, tree.kind, size), path, tree, None)


def _facts(given: Given, path: Path, kind: str, size: int | None) -> TreeFacts:
    known, marker = _known(path), read_marker(path)
    rules = {*known.get("rules", {}), *known.get("removed", {})}
    rules |= {"guard"} if known else set()
    rules |= {"zstd"} if known.get("zstd") else set()
    return TreeFacts(
        name=given.name,
        role=given.role,
        kind=kind,
        profile=str(known.get("profile", "")),
        served=tuple(known.get("served", ())),
        ptx=bool(known.get("ptx", False)),
        rules=tuple(sorted(rules)),
        manifest=marker.manifest if marker else "",
        bytes=size,
        backend="capi" if "native" in rules else "tensorflow",
    )


def _known(path: Path) -> dict[str, Any]:
    """Return what tfslim wrote down about a tree; nothing for a stock one."""
    for depth in range(4):
        for found in sorted(path.glob(f"{'*/' * depth}{_PACKAGES}/_tfslim.json")):
            known: dict[str, Any] = json.loads(found.read_bytes())
            return known
    return {}
