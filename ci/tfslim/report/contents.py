"""What is inside two images, side by side: layers, packages, libraries, what rules took out."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from tfslim.images.described import RuleRemoval
from tfslim.images.inspection import FileUse, Inspection, LayerUse, PackageUse

__all__ = [
    "LayerChange",
    "LibraryChange",
    "PackageChange",
    "RuleChange",
    "State",
    "grouped",
    "layer_changes",
    "libraries_of",
    "library_changes",
    "package_changes",
    "rule_changes",
]

State = Literal["added", "removed", "changed", "same"]
_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class LayerChange(_Model):
    """One layer, matched by digest, else by the command that made it.

    Attributes:
        state: "changed": made by the same command, with other content.
        created_by: The command, or its beginning.
        digest: Now; empty where it was removed.
        baseline_digest: Then; empty where it was added.
        pull_bytes: Compressed, now; None where not known or removed.
        baseline_pull_bytes: Likewise, then.
        unpacked_bytes: Now; 0 where it was removed.
        baseline_unpacked_bytes: Then; 0 where it was added.
    """

    state: State
    created_by: str
    digest: str = ""
    baseline_digest: str = ""
    pull_bytes: int | None = None
    baseline_pull_bytes: int | None = None
    unpacked_bytes: int = 0
    baseline_unpacked_bytes: int = 0


class PackageChange(_Model):
    """One package that came, went, or changed its version or size; equal ones are left out.

    Attributes:
        kind: "python", "debian" or "group".
        version: Now; None where it is gone.
        baseline_version: Then; None where it is new.
        disk_bytes: Now.
        baseline_disk_bytes: Then.
    """

    state: State
    kind: str
    name: str
    version: str | None
    baseline_version: str | None
    disk_bytes: int
    baseline_disk_bytes: int


class LibraryChange(_Model):
    """One shared library that came, went, or changed its size; equal ones are left out."""

    state: State
    name: str
    path: str
    disk_bytes: int
    baseline_disk_bytes: int


class RuleChange(_Model):
    """What one rule took out, where it is not the same as before."""

    state: State
    rule: str
    removed_bytes: int
    baseline_removed_bytes: int


def layer_changes(now: Inspection, then: Inspection) -> list[LayerChange]:
    """Return every layer of both images: those of now in their order, then those that went."""
    left = list(then.layers)
    same = [_taken(left, "digest", layer.digest) for layer in now.layers]
    found = []
    for layer, old in zip(now.layers, same, strict=True):
        found.append(_layer(layer, old or _taken(left, "created_by", layer.created_by)))
    return [*found, *(_layer(None, old) for old in left)]


def package_changes(now: Inspection, then: Inspection) -> list[PackageChange]:
    """Return the packages that differ, largest difference first."""
    pairs = _paired(now.packages, then.packages, lambda package: (package.kind, package.name))
    changes = [_package(new, old) for new, old in pairs if new != old]
    return sorted(changes, key=lambda c: (-abs(c.disk_bytes - c.baseline_disk_bytes), c.name))


def library_changes(now: Inspection, then: Inspection) -> list[LibraryChange]:
    """Return the libraries that differ, matched by file name, largest difference first.

    A record of version 1 holds no list of libraries: the libraries among its largest files and
    those with GPU code stand for it, and only they are compared.
    """
    new, old = libraries_of(now), libraries_of(then)
    if not (now.libraries and then.libraries):
        both = {name for name, _ in _named(new)} & {name for name, _ in _named(old)}
        new = [item for item in new if posixpath.basename(item.path) in both]
        old = [item for item in old if posixpath.basename(item.path) in both]
    changes = []
    for here, there in _paired(new, old, lambda item: posixpath.basename(item.path)):
        file = here or there
        size, before = (item.disk_bytes if item else 0 for item in (here, there))
        if file is not None and size != before:
            changes.append(
                LibraryChange(
                    state=_state(here, there),
                    name=posixpath.basename(file.path),
                    path=file.path,
                    disk_bytes=size,
                    baseline_disk_bytes=before,
                )
            )
    return sorted(changes, key=lambda c: (-abs(c.disk_bytes - c.baseline_disk_bytes), c.name))


def libraries_of(size: Inspection) -> list[FileUse]:
    """Return the known libraries, largest first; of version 1 those among the largest files."""
    if size.libraries:
        return size.libraries
    return [item for item in size.largest_files if ".so" in posixpath.basename(item.path)]


def rule_changes(now: Iterable[RuleRemoval], then: Iterable[RuleRemoval]) -> list[RuleChange]:
    """Return the rules that took out more or less than before, largest difference first."""
    changes = []
    for new, old in _paired(list(now), list(then), lambda item: item.rule):
        item = new or old
        removed, before = (side.removed_bytes if side else 0 for side in (new, old))
        if item is not None and removed != before:
            changes.append(
                RuleChange(
                    state=_state(new, old),
                    rule=item.rule,
                    removed_bytes=removed,
                    baseline_removed_bytes=before,
                )
            )
    return sorted(changes, key=lambda c: (-abs(c.removed_bytes - c.baseline_removed_bytes), c.rule))


def _taken(
    layers: list[LayerUse], field: Literal["digest", "created_by"], value: str
) -> LayerUse | None:
    """Take the first layer of that digest or command out of a list."""
    found = next((layer for layer in layers if getattr(layer, field) == value), None)
    if found is not None:
        layers.remove(found)
    return found


def _layer(new: LayerUse | None, old: LayerUse | None) -> LayerChange:
    equal = new is not None and old is not None and new.digest == old.digest
    made = new or old
    return LayerChange(
        state="same" if equal else _state(new, old),
        created_by=made.created_by if made else "",
        digest=new.digest if new else "",
        baseline_digest=old.digest if old else "",
        pull_bytes=new.pull_bytes if new else None,
        baseline_pull_bytes=old.pull_bytes if old else None,
        unpacked_bytes=new.unpacked_bytes if new else 0,
        baseline_unpacked_bytes=old.unpacked_bytes if old else 0,
    )


def _package(new: PackageUse | None, old: PackageUse | None) -> PackageChange:
    either = new or old
    assert either is not None  # noqa: S101 (a pair has at least one side)
    return PackageChange(
        state=_state(new, old),
        kind=either.kind,
        name=either.name,
        version=new.version if new else None,
        baseline_version=old.version if old else None,
        disk_bytes=new.disk_bytes if new else 0,
        baseline_disk_bytes=old.disk_bytes if old else 0,
    )


def _state(new: object, old: object) -> State:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"


def _named(files: Iterable[FileUse]) -> Iterable[tuple[str, FileUse]]:
    return ((posixpath.basename(item.path), item) for item in files)


def _paired(
    new: Iterable[_Item], old: Iterable[_Item], key: Callable[[_Item], _Key]
) -> list[tuple[_Item | None, _Item | None]]:
    """Pair the items of two lists by key; of several with one key each is paired in turn."""
    here, there = grouped(new, key), grouped(old, key)
    pairs: list[tuple[_Item | None, _Item | None]] = []
    for name in dict.fromkeys([*here, *there]):
        pairs += zip_longest(here.get(name, []), there.get(name, []))
    return pairs


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> Mapping[_Key, list[_Item]]:
    """Return items by their key, each list in the items' order."""
    found: defaultdict[_Key, list[_Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found
