"""Measure an image, an archive or a folder: what is pulled, what lies on disk, and whose it is.

The same attribution serves all sources: an image's layers are merged to the file system that a
container sees, a folder is read as one layer, and each file is counted once however many hard
links lead to it. Bytes are bytes of file content; directories and tar headers are not counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfslim.errors import InputError
from tfslim.images.archive import Image, read_archive, read_layout
from tfslim.images.contents import Owner, Owners, is_elf, kind_of, records_ownership
from tfslim.images.described import describes, gates_of, removals_of
from tfslim.images.folder import DUPLICATE_MIN_BYTES, folder_layer
from tfslim.images.inspection import (
    DuplicateGroup,
    Duplicates,
    FileGpuUse,
    FileUse,
    GpuServing,
    GpuUse,
    ImageFacts,
    Inspection,
    KindUse,
    LayerUse,
    PackageUse,
    SourceKind,
    Waste,
)
from tfslim.images.layer_table import Layer, Look
from tfslim.images.layers import Inode, Merged, merge
from tfslim.images.store import find_stored, saved_chunks
from tfslim.ui import Step, Ui, human_bytes

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "GpuProbe",
    "inspect_dir",
    "inspect_image",
    "inspect_source",
    "layer_pull_bytes",
    "read_image",
    "source_kind",
]

GpuProbe = Callable[[Path], FileGpuUse | None]

_TOP = 25
_LIBRARY_MIN_BYTES = 256 << 10


def source_kind(source: str) -> SourceKind:
    """Return what a command line argument names: a folder, a file, else an image in the engine."""
    path = Path(source)
    if path.is_dir():
        return "layout" if (path / "oci-layout").is_file() else "directory"
    return "archive" if path.exists() else "engine"


def inspect_source(
    source: str,
    *,
    client: Callable[[], DockerClient],
    gpu: GpuProbe | None = None,
    ui: Ui | None = None,
) -> Inspection:
    """Measure whatever `source` names.

    Args:
        source: A folder, an OCI layout folder, a docker or OCI archive, or an image reference.
        client: Gives the engine; called only for an image reference.
        gpu: Attributes the GPU code in one ELF file; without it `Inspection.gpu` is None.
        ui: Shows progress.

    Raises:
        InputError: It is none of these, damaged, or holds nothing for linux/amd64.
        EngineError: The engine failed while it sent the image.
    """
    kind = source_kind(source)
    if kind == "directory":
        return inspect_dir(Path(source), gpu=gpu, ui=ui)
    if kind == "engine" and _looks_like_path(source):
        raise InputError(
            f"{source} does not exist",
            why="there is no such file or folder",
            way_out="Check the path, or give an image reference such as NAME:TAG.",
        )
    return inspect_image(source, client=client if kind == "engine" else None, gpu=gpu, ui=ui)


def inspect_image(
    source: str,
    *,
    client: Callable[[], DockerClient] | None = None,
    gpu: GpuProbe | None = None,
    ui: Ui | None = None,
) -> Inspection:
    """Measure an image in one pass, with bounded memory and nothing unpacked to disk.

    Args:
        source: An image reference where `client` is given, else an archive or OCI layout folder.
        client: Gives the engine that has the image.
        gpu: See `inspect_source`; candidates are spooled to a temporary file one at a time.
        ui: Shows progress.

    Raises:
        InputError: See `inspect_source`.
        EngineError: The engine failed while it sent the image.
    """
    with _progress(ui, f"Reading {source}") as step:
        image = read_image(source, _look(gpu, step), client=client)
    return _of_image(source, "engine" if client else source_kind(source), image)


def read_image(
    source: str, look: Look, *, client: Callable[[], DockerClient] | None = None
) -> Image:
    """Read an image's layers in one pass.

    Args:
        source: An image reference where `client` is given, else an archive or OCI layout folder.
        look: What to learn of each file.
        client: Gives the engine that has the image.

    Raises:
        InputError: See `inspect_source`.
        EngineError: The engine failed while it sent the image.
    """
    if client is not None:
        return _from_engine(client(), source, look)
    if source_kind(source) == "layout":
        return read_layout(Path(source), look)
    return read_archive(Path(source), look, name=source)


def inspect_dir(path: Path, *, gpu: GpuProbe | None = None, ui: Ui | None = None) -> Inspection:
    """Measure a folder (a venv, a root file system) without leaving its file system.

    Raises:
        InputError: It is no folder, or a file in it cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder", way_out="Give a venv or a root file system.")
    with _progress(ui, f"Reading {path}") as step:
        layer, allocated = folder_layer(path, _look(gpu, step))
    merged = merge([layer])
    return _inspection(
        source=str(path),
        kind="directory",
        image=None,
        layers=[],
        merged=merged,
        kept=_kept([layer], merged),
        pull=(None, "unknown", "a folder is not pulled"),
        allocated=allocated,
    )


def _from_engine(client: DockerClient, reference: str, look: Look) -> Image:
    stored = find_stored(client, reference)
    if stored.content:
        return read_layout(stored.content, look, name=reference, digest=stored.digest)
    return read_archive(saved_chunks(client, reference), look, name=reference)


def _looks_like_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source.endswith((".tar", ".tgz", ".gz"))


@contextmanager
def _progress(ui: Ui | None, title: str) -> Iterator[Step]:
    with (ui or Ui(quiet=True)).step(title) as step:
        yield _Counted(step)


class _Counted(Step):
    """A step that also says how many bytes have passed."""

    def __init__(self, inner: Step) -> None:
        self._inner = inner
        self._bytes = 0

    def advance(self, amount: float) -> None:
        self._bytes += int(amount)
        self._inner.advance(amount)
        self._inner.update(human_bytes(self._bytes))


def _look(gpu: GpuProbe | None, step: Step) -> Look:
    return Look(
        keep=lambda path: records_ownership(path) or describes(path),
        probe_wanted=_has_gpu_code_perhaps,
        probe=gpu,
        checksums=True,
        estimate=True,
        on_bytes=step.advance,
    )


def _has_gpu_code_perhaps(_path: str, _size: int, head: bytes) -> bool:
    return is_elf(head)


def _of_image(source: str, kind: SourceKind, image: Image) -> Inspection:
    merged = merge(image.layers)
    wasted: Counter[int] = Counter()
    for inode in merged.wasted:
        wasted[inode.layer] += inode.member.size_bytes
    return _inspection(
        source=source,
        kind=kind,
        image=_facts(image),
        layers=[_layer_use(layer, wasted[n]) for n, layer in enumerate(image.layers)],
        merged=merged,
        kept=_kept(image.layers, merged),
        pull=_pull(image),
        allocated=None,
    )


def _facts(image: Image) -> ImageFacts:
    run = image.config.get("config") or {}
    return ImageFacts(
        name=image.name,
        platform=image.platform,
        manifest_digest=image.manifest_digest,
        config_digest=image.config_digest,
        user=run.get("User") or "",
        entrypoint=run.get("Entrypoint") or [],
        command=run.get("Cmd") or [],
    )


def _layer_use(layer: Layer, wasted: int) -> LayerUse:
    return LayerUse(
        digest=layer.digest,
        compression=layer.compression,
        pull_bytes=layer_pull_bytes(layer),
        unpacked_bytes=layer.unpacked_bytes,
        files=sum(member.kind in ("file", "hardlink") for member in layer.members),
        wasted_bytes=wasted,
        created_by=layer.created_by,
    )


def layer_pull_bytes(layer: Layer) -> int | None:
    """Return what a registry sends for a layer; for one that is not compressed the estimate."""
    return layer.estimate_bytes if layer.compression == "none" else layer.blob_bytes


_Pull = tuple[int | None, Literal["manifest", "estimated", "unknown"], str]


def _pull(image: Image) -> _Pull:
    sizes = {layer.digest: layer_pull_bytes(layer) for layer in image.layers}
    plain = sum(layer.compression == "none" for layer in image.layers)
    total = image.config_bytes + sum(size or 0 for size in sizes.values())
    if None in sizes.values():
        return None, "unknown", f"{plain} layers are not compressed in this source"
    if plain:
        note = f"{plain} layers are not compressed in this source; taken with zstd level 3"
        return total, "estimated", note
    return total, "manifest", "compressed layers and config"


def _kept(layers: Iterable[Layer], merged: Merged) -> dict[str, bytes]:
    """Return the content of the files that were kept and that a container sees."""
    kept: dict[str, bytes] = {}
    for layer in layers:
        kept |= layer.kept
    return {path: content for path, content in kept.items() if path in merged.files}


def _owners(kept: Mapping[str, bytes], merged: Merged) -> Owners:
    return Owners(
        kept,
        {
            path: placed.member.target
            for path, placed in merged.files.items()
            if "/" not in path and placed.member.kind == "symlink"
        },
    )


def _inspection(
    *,
    source: str,
    kind: SourceKind,
    image: ImageFacts | None,
    layers: list[LayerUse],
    merged: Merged,
    kept: Mapping[str, bytes],
    pull: _Pull,
    allocated: int | None,
) -> Inspection:
    live = merged.live
    owners = _owners(kept, merged)
    owner_of = {inode: owners.of(inode.paths[0]) for inode in live}
    in_image = image is not None
    return Inspection(
        source=source,
        source_kind=kind,
        image=image,
        pull_bytes=pull[0],
        pull_bytes_source=pull[1],
        pull_bytes_note=pull[2],
        disk_bytes=sum(inode.member.size_bytes for inode in live),
        allocated_bytes=allocated,
        files=len(live),
        layers=layers,
        packages=_packages(owner_of),
        kinds=_kinds(live),
        waste=_waste(merged, owners, in_image=in_image),
        duplicates=_duplicates(live),
        largest_files=[
            _file_use(inode, owner_of[inode], in_image=in_image) for inode in _largest(live)
        ],
        gpu=_gpu(live),
        libraries=[
            _file_use(inode, owner_of[inode], in_image=in_image) for inode in _libraries(live)
        ],
        removals=removals_of(kept),
        gates=gates_of(kept),
    )


def _libraries(inodes: Iterable[Inode]) -> list[Inode]:
    """Return the shared libraries that a budget may name, largest first."""
    found = (
        inode
        for inode in inodes
        if inode.member.size_bytes >= _LIBRARY_MIN_BYTES
        and kind_of(inode.paths[0], inode.member.head, inode.member.mode) == "shared library"
    )
    return sorted(found, key=lambda inode: (-inode.member.size_bytes, inode.paths[0]))


def _largest(inodes: Iterable[Inode]) -> list[Inode]:
    by_size = sorted(inodes, key=lambda inode: (-inode.member.size_bytes, inode.member.path))
    return [inode for inode in by_size[:_TOP] if inode.member.size_bytes]


def _file_use(inode: Inode, owner: Owner, *, in_image: bool) -> FileUse:
    return FileUse(
        path=inode.paths[0] if inode.paths else inode.member.path,
        disk_bytes=inode.member.size_bytes,
        owner=owner.name,
        layer=inode.layer if in_image else None,
    )


def _packages(owner_of: Mapping[Inode, Owner]) -> list[PackageUse]:
    sizes: Counter[Owner] = Counter()
    files: Counter[Owner] = Counter()
    for inode, owner in owner_of.items():
        sizes[owner] += inode.member.size_bytes
        files[owner] += 1
    return [
        PackageUse(
            kind=owner.kind,
            name=owner.name,
            version=owner.version,
            disk_bytes=sizes[owner],
            files=files[owner],
        )
        for owner in sorted(files, key=lambda owner: (-sizes[owner], owner.name))
    ]


def _kinds(live: Iterable[Inode]) -> list[KindUse]:
    sizes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for inode in live:
        kind = kind_of(inode.paths[0], inode.member.head, inode.member.mode)
        sizes[kind] += inode.member.size_bytes
        files[kind] += 1
    return [
        KindUse(kind=kind, disk_bytes=sizes[kind], files=files[kind])
        for kind in sorted(files, key=lambda kind: (-sizes[kind], kind))
    ]


def _waste(merged: Merged, owners: Owners, *, in_image: bool) -> Waste:
    wasted = merged.wasted
    return Waste(
        wasted_bytes=sum(inode.member.size_bytes for inode in wasted),
        efficiency=merged.efficiency,
        dive_wasted_bytes=merged.dive_wasted_bytes,
        largest=[
            _file_use(inode, owners.of(inode.member.path), in_image=in_image)
            for inode in _largest(wasted)
        ],
    )


def _duplicates(live: Iterable[Inode]) -> Duplicates:
    same: defaultdict[bytes, list[Inode]] = defaultdict(list)
    for inode in live:
        if inode.member.sha256 and inode.member.size_bytes >= DUPLICATE_MIN_BYTES:
            same[inode.member.sha256].append(inode)
    groups = [
        DuplicateGroup(
            disk_bytes=inodes[0].member.size_bytes,
            paths=sorted(inode.paths[0] for inode in inodes),
        )
        for inodes in same.values()
        if len(inodes) > 1
    ]
    groups.sort(key=lambda group: (-_extra(group), group.paths))
    return Duplicates(
        extra_bytes=sum(map(_extra, groups)), groups=len(groups), largest=groups[:_TOP]
    )


def _extra(group: DuplicateGroup) -> int:
    return group.disk_bytes * (len(group.paths) - 1)


def _gpu(live: Iterable[Inode]) -> GpuUse | None:
    found = {
        inode.paths[0]: inode.member.finding
        for inode in live
        if isinstance(inode.member.finding, FileGpuUse)
    }
    if not found:
        return None
    arch: Counter[str] = Counter()
    kind: Counter[str] = Counter()
    gpus: dict[str, GpuServing] = {}
    for use in found.values():
        arch.update(use.by_arch_bytes)
        kind.update(use.by_kind_bytes)
        gpus |= {gpu: one.plus(gpus.get(gpu, GpuServing())) for gpu, one in use.by_gpu.items()}
    by_size = sorted(found, key=lambda path: (-found[path].total_bytes, path))
    return GpuUse(
        total_bytes=sum(arch.values()),
        by_arch_bytes=dict(sorted(arch.items())),
        by_kind_bytes=dict(sorted(kind.items())),
        by_library={path: found[path] for path in by_size},
        unexplained_bytes=sum(use.unexplained_bytes for use in found.values()),
        by_gpu=gpus,
    )
