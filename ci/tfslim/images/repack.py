"""Pack an image's layers again: the same files under the same ID, fewer bytes to pull.

What builds images packs layers with windows of a few megabytes. GPU kernels and TensorFlow's code
are alike over much longer distances, so zstd with its long-distance matcher and a window of 128 MB
makes the same layers a tenth smaller at the same level, and a fifth at a high one. What unpacks
them needs that window in memory, for each layer that it unpacks at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ConfigDict

from tfslim.errors import ConfigError
from tfslim.images.disk import need_free
from tfslim.images.inspect import source_kind
from tfslim.images.layer_table import Layer
from tfslim.images.oci import Blob, OciArchive, image_name
from tfslim.images.opened import PackedImage, stored_image
from tfslim.images.rewrite import check_output, checked_level, deliver
from tfslim.images.tarstream import unpacked
from tfslim.ui import Step, Ui

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Repacked", "Repacking", "repack_image"]


class PackedLayer(BaseModel):
    """A layer before and after; bytes are of its blob as stored."""

    model_config = ConfigDict(frozen=True)

    diff_id: str
    before_digest: str
    before_bytes: int
    after_digest: str
    after_bytes: int


class Repacked(BaseModel):
    """What became of an image.

    Attributes:
        source: What was read.
        target: The name in the engine, or the archive's path.
        level: Of zstd.
        image_id: Digest of the image's config, the same before and after.
        manifest_digest: Of the new image.
        before_bytes: Bytes of all layers as they were stored.
        after_bytes: The same now.
        layers: From the base up.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    level: int
    image_id: str
    manifest_digest: str
    before_bytes: int
    after_bytes: int
    layers: list[PackedLayer]


@dataclass(frozen=True)
class Repacking:
    """Where the packed image goes, and how hard to try.

    Attributes:
        tag: Its name in the engine; without a name and an output it keeps its own.
        output: Archive file to write in place of loading it into the engine.
        level: Of zstd, 1 to 22.
        scratch: Folder for temporary files; the system's by default.
    """

    tag: str | None = None
    output: Path | None = None
    level: int | None = None
    scratch: Path | None = None

    def name(self, source: str) -> str:
        """Return the new image's reference in full.

        Raises:
            ConfigError: There is none, or it is no name for an image.
        """
        if self.tag:
            return image_name(self.tag)
        if source_kind(source) == "engine":
            return image_name(source)
        if self.output:
            return image_name(f"{self.output.name.partition('.')[0].lower()}:latest")
        raise ConfigError(
            f"{source} is a file, and the packed image needs a name",
            way_out="Give --tag NAME to load it into the engine, or --output FILE.",
        )


def repack_image(
    source: str,
    how: Repacking,
    *,
    client: Callable[[], DockerClient],
    ui: Ui | None = None,
) -> Repacked:
    """Pack an image's layers again with zstd.

    Config, annotations and files stay byte for byte what they are. An index around the image with
    attestations (SBOM, provenance) is not taken over: it names the old manifest.

    Args:
        source: An image reference, a docker or OCI archive, or an OCI layout folder.
        how: Name, place and level.
        client: Gives the engine, where one is needed.
        ui: Shows progress.

    Raises:
        InputError: The source is no image, or is damaged.
        ConfigError: The name or the level cannot be used.
        EngineError: The engine failed while it sent or took the image.
        DiskError: There is not enough room.
    """
    ui = ui or Ui(quiet=True)
    level, name = checked_level("zstd", how.level), how.name(source)
    if how.output:
        check_output(how.output)
    with stored_image(source, client=client, scratch=how.scratch, ui=ui) as stored:
        layers = stored.image.layers
        folder = how.output.absolute().parent if how.output else stored.folder
        need_free(folder, sum(layer.blob_bytes for layer in layers), "the new archive")
        total = sum(layer.unpacked_bytes for layer in layers)

        def write(file: BinaryIO) -> tuple[list[Blob], Blob]:
            with ui.step(f"Packing {len(layers)} layers, zstd {level}", total=total) as step:
                return _write(file, stored, name, level, step)

        blobs, manifest = deliver(write, how.output, folder, client=client, ui=ui)
        return Repacked(
            source=source,
            target=str(how.output or name.removeprefix("docker.io/").removeprefix("library/")),
            level=level,
            image_id=stored.image.config_digest,
            manifest_digest=manifest.digest,
            before_bytes=sum(layer.blob_bytes for layer in layers),
            after_bytes=sum(blob.size_bytes for blob in blobs),
            layers=[_told(layer, blob) for layer, blob in zip(layers, blobs, strict=True)],
        )


def _write(
    file: BinaryIO, stored: PackedImage, name: str, level: int, step: Step
) -> tuple[list[Blob], Blob]:
    archive = OciArchive(file)
    blobs = [_packed(archive, stored, layer, level, step) for layer in stored.image.layers]
    manifest, _ = archive.finish(
        config=stored.image.config_json,
        layers=blobs,
        annotations=stored.image.annotations,
        name=name,
    )
    return blobs, manifest


def _packed(archive: OciArchive, stored: PackedImage, layer: Layer, level: int, step: Step) -> Blob:
    with archive.layer("zstd", level, layer.unpacked_bytes) as (sink, done):
        for piece in unpacked(stored.blobs.reader(layer)).rest():
            sink.write(piece)
            step.advance(len(piece))
    return done[0]


def _told(layer: Layer, blob: Blob) -> PackedLayer:
    return PackedLayer(
        diff_id=blob.diff_id,
        before_digest=layer.digest,
        before_bytes=layer.blob_bytes,
        after_digest=blob.digest,
        after_bytes=blob.size_bytes,
    )
