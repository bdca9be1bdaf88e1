"""What was measured of an image or a folder, as data: the record that `tfslim inspect` prints."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tfslim.images.described import GateResult, RuleRemoval

__all__ = [
    "DuplicateGroup",
    "Duplicates",
    "FileGpuUse",
    "FileUse",
    "GpuServing",
    "GpuUse",
    "ImageFacts",
    "ImageShare",
    "Inspection",
    "KindUse",
    "LayerUse",
    "PackageUse",
    "Shared",
    "SharedLayer",
    "SourceKind",
    "Waste",
]

SourceKind = Literal["engine", "archive", "layout", "directory"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class GpuServing(_Record):
    """What one GPU finds, in modules: what a program hands to the driver at once.

    Attributes:
        code: With machine code for it.
        jit: With PTX alone, which the driver compiles at first use.
        none: With nothing that it can run; libraries have such modules for other GPUs.
        picked: Where the library chooses by itself, so that this cannot tell.
    """

    code: int = 0
    jit: int = 0
    none: int = 0
    picked: int = 0

    def plus(self, other: GpuServing) -> GpuServing:
        """Return both together."""
        return GpuServing(
            code=self.code + other.code,
            jit=self.jit + other.jit,
            none=self.none + other.none,
            picked=self.picked + other.picked,
        )


class FileGpuUse(_Record):
    """GPU code in one file, as the slim engine's scan sees it.

    Attributes:
        by_arch_bytes: Stored payload bytes by architecture, such as "sm_90" or "compute_90".
        by_kind_bytes: The same bytes by "cubin", "cubin (bare zstd)", "PTX" or "LTO-IR".
        unexplained_bytes: Bytes in GPU sections that the scan could not account for.
        by_gpu: What GPUs find in it, by architecture such as "sm_90".
    """

    by_arch_bytes: dict[str, int] = Field(default_factory=dict)
    by_kind_bytes: dict[str, int] = Field(default_factory=dict)
    unexplained_bytes: int = 0
    by_gpu: dict[str, GpuServing] = Field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """All that was attributed to an architecture."""
        return sum(self.by_arch_bytes.values())


class GpuUse(_Record):
    """GPU code of the whole tree; see `FileGpuUse` for the fields."""

    total_bytes: int
    by_arch_bytes: dict[str, int]
    by_kind_bytes: dict[str, int]
    by_library: dict[str, FileGpuUse]
    unexplained_bytes: int
    by_gpu: dict[str, GpuServing] = Field(default_factory=dict)


class ImageFacts(_Record):
    """What an image is, beside its files."""

    name: str
    platform: str
    manifest_digest: str | None
    config_digest: str
    user: str
    entrypoint: list[str]
    command: list[str]


class LayerUse(_Record):
    """One layer.

    Attributes:
        pull_bytes: Compressed size; None where only the unpacked layer is known.
        wasted_bytes: Content that later layers overwrite or delete.
    """

    digest: str
    compression: str
    pull_bytes: int | None
    unpacked_bytes: int
    files: int
    wasted_bytes: int
    created_by: str


class PackageUse(_Record):
    """Bytes of one Python distribution, one Debian package, or a group nobody owns."""

    kind: str
    name: str
    version: str
    disk_bytes: int
    files: int


class KindUse(_Record):
    """Bytes of one kind of file."""

    kind: str
    disk_bytes: int
    files: int


class FileUse(_Record):
    """One file; `layer` counts from 0 at the base and is None in a folder."""

    path: str
    disk_bytes: int
    owner: str
    layer: int | None


class Waste(_Record):
    """Bytes that are pulled and stored but never seen by a container.

    Attributes:
        wasted_bytes: Content of files that a later layer overwrites or deletes.
        efficiency: dive's score (Σ smallest size of each path / Σ all sizes), 1 is perfect.
        dive_wasted_bytes: dive's figure, which counts the surviving copy as well.
        largest: The largest such files.
    """

    wasted_bytes: int
    efficiency: float
    dive_wasted_bytes: int
    largest: list[FileUse]


class DuplicateGroup(_Record):
    """Files with the same content; `disk_bytes` is the size of each."""

    disk_bytes: int
    paths: list[str]


class Duplicates(_Record):
    """Content that lies there more than once (files of 4 KiB and more).

    Attributes:
        extra_bytes: What would be saved if each content lay there once.
        largest: The groups that cost most.
    """

    extra_bytes: int
    groups: int
    largest: list[DuplicateGroup]


class Inspection(_Record):
    """Everything measured about one source.

    Attributes:
        pull_bytes: Compressed layers (each digest once) and config; None for a folder or where
            it cannot be known.
        pull_bytes_source: "manifest" where the sizes are those of the blobs a registry would
            send; "estimated" where the engine keeps layers unpacked and they were compressed
            here; "unknown" otherwise. `pull_bytes_note` says why.
        disk_bytes: Content of the final file system, hard links once.
        allocated_bytes: Disk blocks behind it (holes cost nothing); only for a folder.
        libraries: Shared libraries of 256 KiB and more, largest first.
        removals: What rules of the slim engine took out, where it left that written.
        gates: What the parity gate said, likewise.
    """

    schema_version: Literal[1] = 1
    source: str
    source_kind: SourceKind
    image: ImageFacts | None
    pull_bytes: int | None
    pull_bytes_source: Literal["manifest", "estimated", "unknown"]
    pull_bytes_note: str
    disk_bytes: int
    allocated_bytes: int | None
    files: int
    layers: list[LayerUse]
    packages: list[PackageUse]
    kinds: list[KindUse]
    waste: Waste
    duplicates: Duplicates
    largest_files: list[FileUse]
    gpu: GpuUse | None
    libraries: list[FileUse] = Field(default_factory=list)
    removals: list[RuleRemoval] = Field(default_factory=list)
    gates: list[GateResult] = Field(default_factory=list)


class SharedLayer(_Record):
    """One layer of several images.

    Attributes:
        pull_bytes: Compressed size; None where only the unpacked layer is known.
        stored: How often an engine unpacks it: once for each different stack of layers below it.
        images: Sources that have it.
    """

    digest: str
    pull_bytes: int | None
    unpacked_bytes: int
    stored: int
    created_by: str
    images: list[str]


class ImageShare(_Record):
    """One of several images.

    Attributes:
        pull_bytes: Its layers, each digest once.
        adds_pull_bytes: Of those, the ones that no image before it has.
        adds_unpacked_bytes: What unpacking it adds after those before it.
    """

    source: str
    pull_bytes: int
    unpacked_bytes: int
    adds_pull_bytes: int
    adds_unpacked_bytes: int


class Shared(_Record):
    """What several images have in common; configs and manifests are not counted.

    Attributes:
        pull_bytes: Pulling all of them on an empty machine: each layer once.
        unpacked_bytes: Their layers in an engine.
        images: In the order given.
        layers: In the order of the images, each from the base up.
    """

    schema_version: Literal[1] = 1
    pull_bytes: int
    unpacked_bytes: int
    images: list[ImageShare]
    layers: list[SharedLayer]
