"""From an image comes an image: the same in everything but the files that an edit changed.

The image is unpacked, edited on disk, and its layers are rewritten where edited files lie. All of
the config is kept (entrypoint, env, user, ports, volumes, health check…) but for what must follow
the layers; labels and annotations say what was done and from which digest.
"""

from __future__ import annotations

import copy
import datetime
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from docker.errors import DockerException
from pydantic import BaseModel, ConfigDict

from tfslim.errors import ConfigError, EngineError, InputError
from tfslim.images.archive import Image
from tfslim.images.disk import full_disk_is_told, need_free
from tfslim.images.layer_table import Layer
from tfslim.images.oci import Blob, Compression, OciArchive, image_name
from tfslim.images.opened import UnpackedImage, unpacked_image
from tfslim.images.relayer import LayerEdit, layer_edits, rewrite_layer, write_new_layer
from tfslim.images.tarstream import unpacked
from tfslim.images.unpack import Changes
from tfslim.ui import Step, Ui

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "LayerChange",
    "Rewriting",
    "Rewritten",
    "check_output",
    "checked_level",
    "deliver",
    "rewrite_image",
]

Result = TypeVar("Result")

_BASE_DIGEST = "org.opencontainers.image.base.digest"
_BASE_NAME = "org.opencontainers.image.base.name"
_GZIP_MAX_LEVEL, _ZSTD_MAX_LEVEL = 9, 22


class LayerChange(BaseModel):
    """One layer before and after; sizes are of the blob as stored, compressed or not.

    A new layer has an empty digest before, and no bytes.
    """

    model_config = ConfigDict(frozen=True)

    before_digest: str
    after_digest: str
    before_bytes: int
    after_bytes: int
    created_by: str

    @property
    def rewritten(self) -> bool:
        """False where a machine that has the old image need not pull the layer again."""
        return self.before_digest != self.after_digest


class Rewritten(BaseModel):
    """What became of an image.

    Attributes:
        source: What was read.
        source_digest: Digest of its manifest, or of its config where it has none.
        target: The name in the engine, or the archive's path.
        name: The image's full reference.
        manifest_digest: Of the new image, as an OCI tool or the containerd image store shows it.
        config_digest: The new image's ID in the classic image stores.
        disk_bytes_before: Content of the final file system, hard links once.
        disk_bytes_after: The same of the new image.
        replaced: Paths with new content.
        removed: Paths that are gone.
        added: Paths of new files, which are one more layer.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    source_digest: str
    target: str
    name: str
    manifest_digest: str
    config_digest: str
    disk_bytes_before: int
    disk_bytes_after: int
    layers: list[LayerChange]
    replaced: list[str]
    removed: list[str]
    added: list[str]


@dataclass(frozen=True)
class Rewriting:
    """How the new image is made and where it goes.

    Attributes:
        name: Its reference, such as "mymodel:slim".
        output: Archive file to write; without one it is loaded into the engine.
        labels: Added to the config's labels.
        annotations: Added to the manifest's; base name and digest are set in any case.
        created_by: The command as the image's history shows it.
        compression: Of rewritten layers.
        level: Of the compression; None takes 10 for zstd and 6 for gzip.
        scratch: Folder for the unpacked image; the system's temporary folder by default.
    """

    name: str
    output: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created_by: str = "tfslim"
    compression: Compression = "zstd"
    level: int | None = None
    scratch: Path | None = None

    def check_output(self) -> None:
        """Refuse a target that cannot be written before any work.

        Raises:
            InputError: The output is a folder, or lies in none.
        """
        if self.output:
            check_output(self.output)

    def checked_level(self) -> int:
        """Return the level to use.

        Raises:
            ConfigError: The compression has no such level.
        """
        return checked_level(self.compression, self.level)


def check_output(output: Path) -> None:
    """Refuse an archive that cannot be written before any work.

    Raises:
        InputError: It is a folder, or lies in none.
    """
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputError(
            f"{output} cannot be written",
            why="it is a folder" if output.is_dir() else "its folder does not exist",
            way_out="Give the new archive's file name in a folder that exists.",
        )


def checked_level(compression: Compression, level: int | None) -> int:
    """Return the level to use: by default 10 of zstd, 6 of gzip.

    Raises:
        ConfigError: The compression has no such level.
    """
    default, most = (10, _ZSTD_MAX_LEVEL) if compression == "zstd" else (6, _GZIP_MAX_LEVEL)
    level = default if level is None else level
    if not 1 <= level <= most:
        raise ConfigError(f"{compression} has no level {level}", way_out=f"Use 1 to {most}.")
    return level


def rewrite_image(
    source: str,
    edit: Callable[[Path], Result],
    how: Rewriting,
    *,
    labels: Callable[[Result], Mapping[str, str]] | None = None,
    client: Callable[[], DockerClient],
    ui: Ui | None = None,
) -> tuple[Rewritten, Result]:
    """Make an image in which the files that `edit` changes, removes or makes are so.

    Args:
        source: An OCI layout folder, a docker or OCI archive, or an image reference.
        edit: Called with the unpacked file system; what it returns is handed through. Of new
            paths only regular files are taken over, in folders that need not be there.
        how: The new image's name, place, labels and compression.
        labels: Gives more labels, from what the edit returned.
        client: Gives the engine, where one is needed.
        ui: Shows progress.

    Raises:
        InputError: See `opened.unpacked_image`.
        EngineError: The engine failed while it sent or took the image.
        DiskError: There is not enough room.
        ConfigError: The name or the compression level cannot be used.
    """
    ui = ui or Ui(quiet=True)
    name, level = image_name(how.name), how.checked_level()
    how.check_output()
    with unpacked_image(source, client=client, scratch=how.scratch, ui=ui) as opened:
        folder = how.output.absolute().parent if how.output else opened.tree.root.parent
        need_free(folder, _blob_bytes(opened.image), "the new archive")
        result = edit(opened.tree.root)
        if labels:
            how = replace(how, labels={**how.labels, **labels(result)})
        changes = opened.tree.changes()
        writer = _Writer(opened, changes, how, level, ui)
        parts = deliver(
            lambda file: writer.write(file, name), how.output, folder, client=client, ui=ui
        )
        rewritten = _rewritten(opened, changes, how, name, parts)
    return rewritten, result


def deliver(
    write: Callable[[BinaryIO], Result],
    output: Path | None,
    folder: Path,
    *,
    client: Callable[[], DockerClient],
    ui: Ui,
) -> Result:
    """Have an archive written aside, then give it its name, or hand it to the engine.

    Args:
        write: Writes it; what it returns is handed through.
        output: The archive's name; None loads it into the engine.
        folder: Where it is written meanwhile: the output's own.
        client: Gives the engine.
        ui: Shows progress.

    Raises:
        InputError: The folder cannot be written to.
        DiskError: There is not enough room.
        EngineError: The engine refused the image; nothing was named then.
    """
    with _partial(folder) as path:
        with full_disk_is_told(folder), path.open("w+b") as file:
            result = write(file)
            file.flush()
            if output:  # on disk before its name is; an engine keeps its own copy
                os.fsync(file.fileno())
        if output:
            path.replace(output)
        else:
            _load(client(), path, ui)
    return result


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """Give a temporary file beside the target; it is gone afterwards unless it was renamed."""
    try:
        number, name = tempfile.mkstemp(prefix=".tfslim-", suffix=".partial", dir=folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to", why=str(error), way_out="Give another --output."
        ) from None
    os.close(number)
    try:
        Path(name).chmod(0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


class _Writer:
    """Writes the new image into an archive file."""

    def __init__(
        self, opened: UnpackedImage, changes: Changes, how: Rewriting, level: int, ui: Ui
    ) -> None:
        self.opened = opened
        self.added = changes.added
        self.how = how
        self.level = level
        self.ui = ui
        self.edits = layer_edits(opened.merged, changes, opened.tree.root)

    def write(self, file: BinaryIO, name: str) -> tuple[list[Blob], Blob, Blob]:
        """Write everything; return the layers, the manifest and the config."""
        layers = self.opened.image.layers
        archive = OciArchive(file)
        total = sum(layer.unpacked_bytes for n, layer in enumerate(layers) if n in self.edits)
        title = f"Rewriting {len(self.edits)} of {len(layers)} layers"
        with self.ui.step(title, total=total) as step:
            blobs = [
                self._edited(archive, layer, self.edits[number], step)
                if number in self.edits
                else self._copied(archive, layer, number)
                for number, layer in enumerate(layers)
            ]
        if self.added:
            blobs.append(self._new(archive))
        annotations = self._annotations()
        config = self._config(blobs)
        manifest, config_blob = archive.finish(
            config=config, layers=blobs, annotations=annotations, name=name
        )
        return blobs, manifest, config_blob

    def _copied(self, archive: OciArchive, layer: Layer, number: int) -> Blob:
        diff_id = _diff_ids(self.opened.image)[number]
        pieces = self.opened.blobs.reader(layer).rest()
        return archive.layer_copy(pieces, layer.compression, diff_id)

    def _edited(self, archive: OciArchive, layer: Layer, edit: LayerEdit, step: Step) -> Blob:
        size = layer.unpacked_bytes
        with archive.layer(self.how.compression, self.level, size) as (sink, done):

            def write(data: bytes) -> None:
                sink.write(data)
                step.advance(len(data))

            rewrite_layer(unpacked(self.opened.blobs.reader(layer)), edit, write)
        return done[0]

    def _new(self, archive: OciArchive) -> Blob:
        size = sum(content.stat().st_size for content in self.added.values())
        with archive.layer(self.how.compression, self.level, size) as (sink, done):
            write_new_layer(self.added, sink.write)
        return done[0]

    def _annotations(self) -> dict[str, str]:
        image = self.opened.image
        return {
            **image.annotations,
            **self.how.annotations,
            _BASE_NAME: image.name,
            _BASE_DIGEST: _source_digest(image),
        }

    def _config(self, blobs: list[Blob]) -> dict[str, Any]:
        """Return the config with new diff_ids, labels and one more line of history."""
        config = copy.deepcopy(self.opened.image.config)
        created = _created(config)
        if created:
            config["created"] = created
        config["rootfs"] = {"type": "layers", "diff_ids": [blob.diff_id for blob in blobs]}
        step: dict[str, Any] = {"created_by": self.how.created_by, "comment": "tfslim"}
        if not self.added:
            step["empty_layer"] = True
        config["history"] = [
            *(config.get("history") or []),
            {"created": created, **step} if created else step,
        ]
        run = config["config"] = config.get("config") or {}
        run["Labels"] = {**(run.get("Labels") or {}), **self.how.labels}
        return config


def _created(config: dict[str, Any]) -> str | None:
    """Return SOURCE_DATE_EPOCH as a time stamp, else the source's own: equal runs, equal bytes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return cast("str | None", config.get("created"))
    try:
        moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"SOURCE_DATE_EPOCH is {epoch!r}", way_out="It must be seconds since 1970."
        ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _diff_ids(image: Image) -> list[str]:
    return cast("list[str]", image.config["rootfs"]["diff_ids"])


def _source_digest(image: Image) -> str:
    return image.manifest_digest or image.config_digest


def _load(client: DockerClient, path: Path, ui: Ui) -> None:
    """Hand the archive to the engine.

    Raises:
        EngineError: It refused; nothing was named then.
    """
    with ui.step("Loading into the engine"), path.open("rb") as file:
        try:
            client.images.load(file)
        except (DockerException, OSError) as error:
            raise EngineError(
                "the engine refused the new image",
                why=str(error),
                way_out="Write an archive with --output FILE and try docker load -i FILE; an old "
                "engine may need --compression gzip.",
            ) from None


def _rewritten(
    opened: UnpackedImage,
    changes: Changes,
    how: Rewriting,
    name: str,
    parts: tuple[list[Blob], Blob, Blob],
) -> Rewritten:
    blobs, manifest, config = parts
    layers = [
        LayerChange(
            before_digest=layer.digest,
            after_digest=blob.digest,
            before_bytes=layer.blob_bytes,
            after_bytes=blob.size_bytes,
            created_by=layer.created_by,
        )
        for layer, blob in zip(opened.image.layers, blobs, strict=False)
    ]
    layers += [
        LayerChange(
            before_digest="",
            after_digest=blob.digest,
            before_bytes=0,
            after_bytes=blob.size_bytes,
            created_by=how.created_by,
        )
        for blob in blobs[len(layers) :]
    ]
    return Rewritten(
        source=opened.source,
        source_digest=_source_digest(opened.image),
        target=str(how.output) if how.output else name,
        name=name,
        manifest_digest=manifest.digest,
        config_digest=config.digest,
        disk_bytes_before=sum(inode.member.size_bytes for inode in opened.merged.live),
        disk_bytes_after=_disk_bytes(opened, changes),
        layers=layers,
        replaced=sorted(changes.replaced),
        removed=sorted(changes.removed),
        added=sorted(changes.added),
    )


def _blob_bytes(image: Image) -> int:
    return sum({layer.digest: layer.blob_bytes for layer in image.layers}.values())


def _disk_bytes(opened: UnpackedImage, changes: Changes) -> int:
    """Return the content of the edited tree's files, hard links once."""
    sizes = {file.lstat().st_ino: file.lstat().st_size for file in changes.added.values()}
    for path, placed in opened.merged.files.items():
        file = opened.tree.root / path
        if placed.inode and os.path.lexists(file):
            status = file.lstat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())
