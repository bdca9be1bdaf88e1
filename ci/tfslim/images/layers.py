"""Lay the layers of an image over one another: what is left, and what was shipped for nothing."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tfslim.images.layer_table import Layer, Member

__all__ = ["Inode", "Merged", "Placed", "merge"]

_MAX_LINKS = 40  # as the kernel's own limit for a path


@dataclass(eq=False, slots=True)
class Inode:
    """The content of a file; hard links share one.

    Attributes:
        layer: Index of the layer it lies in.
        member: The entry with the content.
        paths: The final paths that lead to it; none means that it is wasted.
        entries: (layer, index of member) of every entry that leads to it, final or not.
    """

    layer: int
    member: Member
    paths: list[str] = field(default_factory=list)
    entries: list[tuple[int, int]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Placed:
    """A path of the merged file system.

    Attributes:
        layer: Index of the layer whose entry won.
        index: Index of that entry in the layer's members.
        member: The entry.
        inode: Its content, for files and hard links.
    """

    layer: int
    index: int
    member: Member
    inode: Inode | None


@dataclass(frozen=True)
class Merged:
    """The file system a container sees, and the bytes it never sees.

    Attributes:
        files: Final entries by path.
        inodes: Every file content of every layer, live or not.
        lowest: For every path ever there, the lowest layer that has it.
        efficiency: dive's score, 0 to 1; see `merge`.
        dive_wasted_bytes: dive's wasted bytes; see `merge`.
    """

    files: dict[str, Placed]
    inodes: tuple[Inode, ...]
    lowest: dict[str, int]
    efficiency: float
    dive_wasted_bytes: int

    @property
    def live(self) -> list[Inode]:
        """Contents that a container sees; each once however many hard links lead to it."""
        return [inode for inode in self.inodes if inode.paths]

    @property
    def wasted(self) -> list[Inode]:
        """Contents that a later layer overwrites or deletes: pulled and stored for nothing."""
        return [inode for inode in self.inodes if not inode.paths]


def merge(layers: Sequence[Layer]) -> Merged:
    """Apply the layers in order, as an engine does (OCI image-spec, "Applying changesets").

    dive's figures are computed as dive does (wagoodman/dive, filetree/efficiency.go), so that
    they can be compared: for each path that is a leaf of a layer's tree, the sizes it has in the
    layers that touch it, a deleted folder counting with what it held; score = Σ smallest / Σ all;
    wasted = Σ of all sizes of the paths that occur at least twice. It counts the surviving copy
    too, but not a folder deleted as a whole.
    """
    state = _State()
    for number, layer in enumerate(layers):
        state.whiteouts(layer)
        state.add(number, layer)
    for path, placed in state.files.items():
        if placed.inode:
            placed.inode.paths.append(path)
    seen = state.dive.values()
    total = sum(map(sum, seen))
    return Merged(
        files=state.files,
        inodes=tuple(state.inodes),
        lowest=state.lowest,
        efficiency=sum(map(min, seen)) / total if total else 1.0,
        dive_wasted_bytes=sum(sum(sizes) for sizes in seen if len(sizes) > 1),
    )


class _State:
    """The file system as it grows, layer by layer."""

    def __init__(self) -> None:
        self.files: dict[str, Placed] = {}
        self.inodes: list[Inode] = []
        self.lowest: dict[str, int] = {}
        self.dive: defaultdict[str, list[int]] = defaultdict(list)
        self._folders: dict[str, str] = {}
        self._parents: set[str] = set()

    def whiteouts(self, layer: Layer) -> None:
        """Remove what a layer deletes from the layers below it."""
        gone: set[str] = set()
        emptied: set[str] = set()
        for member in layer.members:
            if member.kind == "whiteout":
                path = self._real(member.path)
                gone.add(path)
                self.dive[path].append(self._tree_bytes(path))
            elif member.kind == "opaque":
                emptied.add(self._real(f"{member.path}/x").removesuffix("x").rstrip("/"))
        if gone or emptied:
            self._remove(gone, emptied)

    def add(self, number: int, layer: Layer) -> None:
        """Put a layer's entries over what is there."""
        sizes: dict[str, int] = {}
        self._folders.clear()
        for index, member in enumerate(layer.members):
            if _deletes(member) or not member.path:
                continue
            path = self._real(member.path)
            sizes[path] = member.size_bytes
            old = self.files.get(path)
            if member.kind != "dir" and path in self._parents:
                self._remove({path}, set())
            if member.kind == "symlink" or (old and old.member.kind == "symlink"):
                self._folders.clear()
            inode = self._inode(number, member)
            if inode:
                inode.entries.append((number, index))
            self.files[path] = Placed(number, index, member, inode)
            self.lowest.setdefault(path, number)
            self._note_parents(path)
        inner = {path.rpartition("/")[0] for path in sizes}
        inner |= {member.path.rpartition("/")[0] for member in layer.members if _deletes(member)}
        for path, size in sizes.items():
            if path not in inner:
                self.dive[path].append(size)

    def _inode(self, number: int, member: Member) -> Inode | None:
        if member.kind == "hardlink":
            target = self.files.get(self._real(member.target))
            return target.inode if target else None
        if member.kind != "file":
            return None
        self.inodes.append(Inode(number, member))
        return self.inodes[-1]

    def _note_parents(self, path: str) -> None:
        """Remember the folders above a path: a layer need not have entries for them."""
        folder = path.rpartition("/")[0]
        while folder and folder not in self._parents:
            self._parents.add(folder)
            folder = folder.rpartition("/")[0]

    def _remove(self, gone: set[str], emptied: set[str]) -> None:
        """Take out the paths in `gone` with all below them, and all below those in `emptied`."""
        above = gone | emptied
        everything = "" in emptied
        self._folders.clear()
        self.files = {
            path: placed
            for path, placed in self.files.items()
            if not everything and path not in gone and not _below(path, above)
        }

    def _tree_bytes(self, path: str) -> int:
        """Return the size of the files below a folder; 0 for anything else, as dive has it."""
        placed = self.files.get(path)
        if not placed or placed.member.kind != "dir":
            return 0
        prefix = path + "/"
        return sum(p.member.size_bytes for k, p in self.files.items() if k.startswith(prefix))

    def _real(self, path: str) -> str:
        """Return a path with the symbolic links among its folders followed, inside the image."""
        folder, slash, base = path.rpartition("/")
        if not slash:
            return path
        if folder not in self._folders:
            self._folders[folder] = folder  # what a link through itself finds
            self._folders[folder] = self._followed(folder)
        real = self._folders[folder]
        return f"{real}/{base}" if real else base

    def _followed(self, folder: str) -> str:
        current = folder
        for _ in range(_MAX_LINKS):
            current = self._real(current)
            placed = self.files.get(current)
            if not placed or placed.member.kind != "symlink":
                return current
            here = posixpath.join("/", posixpath.dirname(current), placed.member.target)
            current = posixpath.normpath(here).lstrip("/")
        return folder


def _deletes(member: Member) -> bool:
    return member.kind in ("whiteout", "opaque")


def _below(path: str, above: set[str]) -> bool:
    at = path.rfind("/")
    while at > 0:
        if path[:at] in above:
            return True
        at = path.rfind("/", 0, at)
    return False
