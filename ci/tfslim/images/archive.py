"""Read an image as a stream: `docker save`, a docker or OCI archive, or an OCI layout folder.

One pass, nothing unpacked to disk: the blobs of an archive come in any order, so every layer is
turned into a table of its files as it passes, small JSON blobs are kept, and which of them make up
the image is resolved at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfslim.errors import InputError
from tfslim.images.layer_table import Layer, Look, read_layer
from tfslim.images.manifests import Config, Documents, Found, Links, blob_key
from tfslim.images.tarstream import Forward, from_chunks, safe_path, tar_members, unpacked

__all__ = ["Image", "open_raw", "read_archive", "read_layout"]

_MAX_JSON_BYTES = 16 << 20
_MAX_JSON_TOTAL_BYTES = 128 << 20
_TAR_MAGIC, _TAR_MAGIC_END = b"ustar", 262


@dataclass(frozen=True)
class Image:
    """An image: its config as it stands in the archive, and its layers from the base up.

    Attributes:
        name: Its reference where the archive tells one, else the archive's name.
        manifest_digest: None in a docker archive without OCI manifest.
        platform: Such as "linux/amd64".
        config: The image config, parsed; `config_digest` is of its exact bytes.
        config_json: These bytes.
        annotations: Of the manifest.
    """

    name: str
    manifest_digest: str | None
    platform: str
    config: dict[str, Any]
    config_digest: str
    config_json: bytes
    layers: tuple[Layer, ...]
    annotations: dict[str, str]

    @property
    def config_bytes(self) -> int:
        """Size of the config blob."""
        return len(self.config_json)


class _Shelf:
    """The blobs of an archive by name: layers as tables, JSON as bytes, links between names."""

    def __init__(self, name: str, look: Look) -> None:
        self.name = name
        self.look = look
        self.documents = Documents(name)
        self.layers: dict[str, Layer] = {}
        self.links: dict[str, str] = {}
        self._json_bytes = 0

    def put(self, key: str, size: int, source: Forward) -> None:
        """Take one file of the archive from `source`, which stands at its first byte."""
        hasher = hashlib.sha256()

        def seen(piece: bytes) -> None:
            hasher.update(piece)
            if self.look.on_bytes:
                self.look.on_bytes(len(piece))

        offset = source.tell()
        blob = source.section(size, seen)
        blob.name = f"{self.name}: {key}"
        if size <= _MAX_JSON_BYTES and _is_json(blob.peek(_TAR_MAGIC_END)):
            self._put_json(key, blob)
        elif _is_blob(key) and size:
            self._put_layer(key, size, offset, blob)
        for _ in blob.rest():
            pass
        self._check(key, blob, hasher.hexdigest())

    def find(self, key: str) -> str:
        """Follow links of old `docker save` files, where equal layers are stored once."""
        return self.links.get(key, key)

    def layer(self, key: str) -> Layer:
        """Return a layer's table.

        Raises:
            InputError: It is missing, damaged or no tar.
        """
        key = self.find(key)
        if key in self.documents.problems:
            raise self.documents.problems[key]
        if key not in self.layers:
            raise InputError(
                f"{self.name} lacks the layer {_digest_of(key)}",
                why="the archive names it but does not hold it (another platform's, or cut off)",
                way_out="docker pull --platform linux/amd64 IMAGE, then save it again.",
            )
        return self.layers[key]

    def _put_json(self, key: str, blob: Forward) -> None:
        self.documents.jsons[key] = b"".join(blob.rest())
        self._json_bytes += len(self.documents.jsons[key])
        if self._json_bytes > _MAX_JSON_TOTAL_BYTES:
            raise blob.damaged("it holds more JSON than any image has")

    def _put_layer(self, key: str, size: int, offset: int, blob: Forward) -> None:
        try:
            layer = read_layer(_digest_of(key), size, blob, self.look)
            self.layers[key] = replace(layer, key=key, offset=offset)
        except InputError as error:
            # Only fatal when the image needs it: attestations and foreign blobs lie here too.
            self.documents.problems[key] = error

    def _check(self, key: str, blob: Forward, sha256: str) -> None:
        if key.startswith("blobs/sha256/") and key.rsplit("/", 1)[1] != sha256:
            self.documents.problems[key] = blob.damaged("its content does not match its digest")
            self.documents.jsons.pop(key, None)
        elif key in self.layers and not key.startswith("blobs/"):
            self.layers[key] = replace(self.layers[key], digest=f"sha256:{sha256}")


def read_archive(
    source: Path | Iterable[bytes], look: Look, *, name: str, only: str | None = None
) -> Image:
    """Read an image from a docker or OCI archive in one pass.

    Args:
        source: The archive's file, or its bytes in chunks (docker-py's `Image.save()`).
        look: What to learn of each file.
        name: What to call it in messages.
        only: The reference to take when the archive holds several images.

    Raises:
        InputError: It is no image archive, damaged, cut off, or holds no image for linux/amd64.
    """
    shelf = _Shelf(name, look)
    if isinstance(source, Path):
        with open_raw(source) as file:
            _fill(shelf, Forward(file.read, name))
    else:
        _fill(shelf, from_chunks(source, name))
    return _assemble(shelf, shelf.documents.choose(only))


def read_layout(
    folder: Path,
    look: Look,
    *,
    name: str | None = None,
    only: str | None = None,
    digest: str | None = None,
) -> Image:
    """Read an image from an OCI layout folder; only the blobs of that image are opened.

    Args:
        folder: Has `blobs/sha256`, and `index.json` unless a digest is given.
        look: What to learn of each file.
        name: What to call it; the folder's path by default.
        only: The reference to take when the layout holds several images.
        digest: The index or manifest to start from, in a content store without `index.json`.

    Raises:
        InputError: The folder is no layout, is damaged, or holds no image for linux/amd64.
    """
    shelf = _Shelf(name or str(folder), look)
    if digest:
        shelf.documents.jsons["index.json"] = json.dumps(
            {"manifests": [{"digest": digest}]}
        ).encode()
    else:
        _put_file(shelf, folder, "index.json")
    _put_linked(shelf, folder)
    found = shelf.documents.choose(only)
    for key in dict.fromkeys(found.layers):
        _put_file(shelf, folder, key)
    return _assemble(shelf, found)


def _put_linked(shelf: _Shelf, folder: Path) -> None:
    """Take the JSON blobs that lead from the index to manifests and configs."""
    pending = ["index.json"] if "index.json" in shelf.documents.jsons else []
    while pending:
        links = shelf.documents.parsed(Links, pending.pop())
        for link in (*links.manifests, *((links.config,) if links.config else ())):
            key = blob_key(link.digest)
            if key not in shelf.documents.jsons:
                _put_file(shelf, folder, key)
                if key in shelf.documents.jsons and link is not links.config:
                    pending.append(key)


def _put_file(shelf: _Shelf, folder: Path, key: str) -> None:
    path = folder / safe_path(key, Forward(lambda _: b"", shelf.name))
    if path.is_file():
        with open_raw(path) as file:
            shelf.put(key, path.stat().st_size, Forward(file.read, shelf.name))


def open_raw(path: Path) -> io.FileIO:
    """Open a file for reading.

    Raises:
        InputError: It cannot be opened.
    """
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read", why=str(error), way_out="Check the path and its permissions."
        ) from None


def _fill(shelf: _Shelf, source: Forward) -> None:
    source = unpacked(source)
    if not source.peek(1):
        raise source.ended()
    for info, _ in tar_members(source):
        key = safe_path(info.name, source)
        if info.isreg():
            shelf.put(key, info.size, source)
        elif info.issym() or info.islnk():
            # Old docker saves store equal layers once and link to them: ../<id>/layer.tar
            base = posixpath.dirname(key) if info.issym() else ""
            shelf.links[key] = posixpath.normpath(posixpath.join(base, info.linkname))


def _is_json(head: bytes) -> bool:
    # A layer's first path may start with a bracket too; a tar has its magic behind the header.
    return head[:1] in (b"{", b"[") and not head.endswith(_TAR_MAGIC)


def _is_blob(key: str) -> bool:
    return key.startswith("blobs/") or key.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst"))


def _digest_of(key: str) -> str:
    return f"sha256:{key.rsplit('/', 1)[1]}" if key.startswith("blobs/sha256/") else key


def _assemble(shelf: _Shelf, found: Found) -> Image:
    config = shelf.documents.parsed(Config, found.config)
    raw = shelf.documents.jsons[found.config]
    layers = [shelf.layer(key) for key in found.layers]
    _check_diff_ids(shelf, config, layers)
    commands = [step.created_by for step in config.history or () if not step.empty_layer]
    if len(commands) != len(layers):
        commands = [""] * len(layers)
    return Image(
        name=found.names[0] if found.names else shelf.name,
        manifest_digest=found.manifest_digest,
        platform=f"{config.os}/{config.architecture}",
        config=json.loads(raw),
        config_digest=f"sha256:{hashlib.sha256(raw).hexdigest()}",
        config_json=raw,
        layers=tuple(
            replace(layer, created_by=command)
            for layer, command in zip(layers, commands, strict=True)
        ),
        annotations=found.annotations,
    )


def _check_diff_ids(shelf: _Shelf, config: Config, layers: list[Layer]) -> None:
    """Refuse layers that are not the config's, where that is known without unpacking again."""
    wanted = config.rootfs.diff_ids
    plain = [layer.digest if layer.compression == "none" else None for layer in layers]
    same = len(wanted) == len(plain) and all(
        have in (None, want) for have, want in zip(plain, wanted, strict=True)
    )
    if not same:
        raise InputError(
            f"{shelf.name}: the layers are not those that the image's config names",
            why=f"the config lists {len(wanted)} layers, the archive {len(plain)}, "
            "or a checksum differs",
            way_out="Save the image again.",
        )
