"""Get at the bytes of an image that an engine has: from its content store, else by `docker save`.

With the containerd image store the compressed blobs lie in a folder by digest. Where this process
may read it, the image is read from there, because `docker save` sends the same bytes at only 35 to
50 MB/s. Every blob is checked against its digest, so nothing is taken on trust; anywhere else (a
remote engine, no rights, a classic graph driver) the engine is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import DockerException, ImageNotFound, NotFound

from tfslim.errors import EngineError, InputError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

__all__ = ["StoredImage", "find_stored", "saved_chunks"]

_SAVE_CHUNK_BYTES = 2 << 20
# Docker runs a containerd of its own under its root folder, or uses the machine's.
_OWN_CONTAINERD = "containerd/daemon/io.containerd.content.v1.content"
_MACHINE_CONTAINERD = "/var/lib/containerd/io.containerd.content.v1.content"


@dataclass(frozen=True)
class StoredImage:
    """An image in an engine.

    Attributes:
        digest: Of its index or manifest (containerd image store) or config (classic stores).
        size_bytes: What the engine says; compressed or unpacked, depending on its store.
        content: Folder whose `blobs/sha256` holds its blobs, where this process can read it.
    """

    digest: str
    size_bytes: int
    content: Path | None


def find_stored(client: DockerClient, reference: str) -> StoredImage:
    """Look an image up.

    Raises:
        InputError: The engine has no such image; names the nearest it has.
        EngineError: The engine failed.
    """
    try:
        image = client.images.get(reference)
        root = Path(str(client.info().get("DockerRootDir") or "/var/lib/docker"))
    except (ImageNotFound, NotFound):
        raise _no_such_image(client, reference) from None
    except (DockerException, OSError) as error:
        raise _failed(reference, error) from None
    digest = str(image.id)
    stores = (root / _OWN_CONTAINERD, Path(_MACHINE_CONTAINERD))
    content = next((store for store in stores if _has(store, digest)), None)
    return StoredImage(digest, int(image.attrs.get("Size") or 0), content)


def saved_chunks(client: DockerClient, reference: str) -> Iterator[bytes]:
    """Yield `docker save` of an image.

    Raises:
        EngineError: The engine failed.
    """
    try:
        yield from client.api.get_image(reference, chunk_size=_SAVE_CHUNK_BYTES)
    except (DockerException, OSError) as error:
        raise _failed(reference, error) from None


def _has(store: Path, digest: str) -> bool:
    try:
        return (store / "blobs" / digest.replace(":", "/", 1)).is_file()
    except OSError:  # not ours to read
        return False


def _failed(reference: str, error: Exception) -> EngineError:
    return EngineError(
        f"the engine failed to send {reference}",
        why=str(error),
        way_out="tfslim doctor shows what is wrong with the engine.",
    )


def _no_such_image(client: DockerClient, reference: str) -> InputError:
    images: list[Image] = client.images.list()
    local = sorted({tag for image in images for tag in image.tags})
    near = difflib.get_close_matches(reference, local, n=3, cutoff=0.4) or local[:5]
    return InputError(
        f"the engine has no image {reference}, and there is no such file or folder",
        why="it has: " + ", ".join(near) if near else "it has no images at all",
        way_out=f"docker pull {reference}, or give a folder or a file from docker save.",
    )
