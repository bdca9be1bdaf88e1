"""Open an image for editing: wherever it comes from, its layers at hand and its files on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfslim.errors import InputError
from tfslim.images.archive import Image, open_raw, read_archive, read_layout
from tfslim.images.disk import full_disk_is_told, need_free
from tfslim.images.inspect import source_kind
from tfslim.images.layer_table import Look
from tfslim.images.layers import Merged, merge
from tfslim.images.store import find_stored, saved_chunks
from tfslim.images.tarstream import Forward, compression_of, unpacked
from tfslim.images.unpack import Blobs, Tree, unpack
from tfslim.ui import Ui, human_bytes

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["PackedImage", "UnpackedImage", "stored_image", "unpacked_image"]


@dataclass(frozen=True)
class PackedImage:
    """An image as it is stored.

    Attributes:
        blobs: Its layers as stored.
        image: Config and layers.
        folder: A temporary folder, to work in.
    """

    blobs: Blobs
    image: Image
    folder: Path


@dataclass(frozen=True)
class UnpackedImage:
    """An image with its final file system on disk, ready to be looked at or edited.

    Attributes:
        source: What was read.
        blobs: Its layers as stored.
        image: Config and layers.
        merged: The final file system as a table.
        tree: The same on disk.
    """

    source: str
    blobs: Blobs
    image: Image
    merged: Merged
    tree: Tree


@contextmanager
def unpacked_image(
    source: str,
    *,
    client: Callable[[], DockerClient],
    scratch: Path | None = None,
    ui: Ui | None = None,
) -> Iterator[UnpackedImage]:
    """Unpack an image into a temporary folder, which is removed afterwards whatever happens.

    Args:
        source: An OCI layout folder, a docker or OCI archive, or an image reference.
        client: Gives the engine; called only for an image reference.
        scratch: Where the folder is made; it needs room for the image, packed and unpacked.
        ui: Shows progress.

    Raises:
        InputError: It is none of these, or damaged.
        EngineError: The engine failed while it sent the image.
        DiskError: There is not enough room.
    """
    ui = ui or Ui(quiet=True)
    with stored_image(source, checksums=True, client=client, scratch=scratch, ui=ui) as stored:
        image, blobs = stored.image, stored.blobs
        merged = merge(image.layers)
        root = stored.folder / "root"
        root.mkdir()
        size = sum(inode.member.size_bytes for inode in merged.live)
        with ui.step(f"Unpacking {human_bytes(size)}", total=size) as step:
            tree = unpack(blobs, image.layers, merged, root, on_bytes=step.advance)
        yield UnpackedImage(source, blobs, image, merged, tree)


@contextmanager
def stored_image(
    source: str,
    *,
    checksums: bool = False,
    client: Callable[[], DockerClient],
    scratch: Path | None = None,
    ui: Ui,
) -> Iterator[PackedImage]:
    """Open an image without unpacking it; arguments and errors are those of `unpacked_image`.

    Args:
        source: See there.
        checksums: Whether a checksum of each file is needed.
        client: See there.
        scratch: Where the temporary folder is made; it needs room for the image, packed.
        ui: Shows progress.
    """
    with ExitStack() as held:
        folder = held.enter_context(_temporary_folder(scratch, ui))
        place = _place(source, client, folder, ui)
        with ui.step(f"Reading {source}") as step:
            image = _read(place, source, Look(checksums=checksums, on_bytes=step.advance))
        blobs = Blobs(place.path, image.layers)
        held.callback(blobs.close)
        yield PackedImage(blobs, image, folder)


@contextmanager
def _temporary_folder(parent: Path | None, ui: Ui) -> Iterator[Path]:
    folder = tempfile.TemporaryDirectory(prefix="tfslim-", dir=parent)
    try:
        yield Path(folder.name)
    finally:
        with ui.step("Removing temporary files"):  # seconds, with a whole TensorFlow in it
            folder.cleanup()


@dataclass(frozen=True)
class _Place:
    """Where the source's blobs can be read again and again: a plain tar, a layout, a store.

    Attributes:
        path: The archive's file, or the folder with the blobs.
        digest: Where to start in an engine's content store, which has no index of its own.
    """

    path: Path
    digest: str | None = None


def _place(source: str, client: Callable[[], DockerClient], scratch: Path, ui: Ui) -> _Place:
    kind = source_kind(source)
    if kind == "directory":
        raise InputError(
            f"{source} is a folder, not an image",
            why="it has no oci-layout file",
            way_out="Slim a folder with --output or --in-place.",
        )
    if kind == "layout":
        return _Place(Path(source))
    if kind == "engine":
        return _engine_place(client(), source, scratch / "source.tar", ui)
    return _Place(_plain_archive(Path(source), scratch / "source.tar"))


def _plain_archive(archive: Path, copy_to: Path) -> Path:
    """Return the archive, or an unpacked copy of one that is compressed as a whole."""
    with open_raw(archive) as file:
        plain = Forward(file.read, str(archive))
        if compression_of(plain.peek(4)) == "none":
            return archive
        with full_disk_is_told(copy_to.parent), copy_to.open("wb") as out:
            out.writelines(unpacked(plain).rest())
    return copy_to


def _engine_place(client: DockerClient, reference: str, copy_to: Path, ui: Ui) -> _Place:
    stored = find_stored(client, reference)
    if stored.content:
        return _Place(stored.content, stored.digest)
    need_free(copy_to.parent, stored.size_bytes, "saving the image")
    with (
        ui.step(f"Saving {reference} from the engine") as step,
        full_disk_is_told(copy_to.parent),
        copy_to.open("wb") as out,
    ):
        for chunk in saved_chunks(client, reference):
            out.write(chunk)
            step.update(human_bytes(out.tell()))
    return _Place(copy_to)


def _read(place: _Place, source: str, look: Look) -> Image:
    if place.path.is_dir():
        return read_layout(place.path, look, name=source, digest=place.digest)
    return read_archive(place.path, look, name=source)
