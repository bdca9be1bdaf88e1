"""Read an image as a stream: `docker save`, a docker or OCI archive, or an OCI layout folder.

One pass, nothing unpacked to disk: the blobs of an archive come in any order, so every layer is
turned into a table of its files as it passes, small JSON blobs are kept, and index → manifest →
config → layers is resolved at the end. Formats: the OCI image-spec 1.1 (image-layout, image-index,
manifest, layer) and moby's image spec v1.2 (`manifest.json` of `docker save`).
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfslim.errors import InputError
from tfslim.images.disk import full_disk_is_told
from tfslim.images.tarstream import (
    Forward,
    compression_of,
    from_chunks,
    safe_path,
    tar_members,
    unpacked,
)

__all__ = ["Image", "Layer", "Limits", "Look", "Member", "open_raw", "read_archive", "read_layout"]

Kind = Literal["file", "dir", "symlink", "hardlink", "whiteout", "opaque", "other"]

HEAD_BYTES = 64
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_JSON_BYTES = 16 << 20
_MAX_JSON_TOTAL_BYTES = 128 << 20
_MAX_KEPT_BYTES = 32 << 20
_MAX_INDEX_DEPTH = 8
_ESTIMATE_LEVEL = 3
_ATTESTATION = "vnd.docker.reference.type"
_REF_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a layer.

    Attributes:
        path: Without leading slash; for a whiteout what it removes, for an opaque mark the folder.
        kind: What it is; `hardlink` and `symlink` have a `target`.
        size_bytes: Content of a file; 0 for everything else.
        mode: Permission bits.
        target: Of a hard link the path in the image; of a symbolic link as written.
        head: The first 64 bytes of a file.
        sha256: Digest of a file's content; empty where it was not asked for.
        finding: What the look's probe said of the file.
    """

    path: str
    kind: Kind
    size_bytes: int
    mode: int
    target: str = ""
    head: bytes = b""
    sha256: bytes = b""
    finding: object = None


@dataclass(frozen=True)
class Layer:
    """One layer of an image with the table of its entries, in the order of the tar.

    Attributes:
        digest: Of the blob as stored ("sha256:…").
        compression: "none", "gzip" or "zstd".
        blob_bytes: Size of the blob as stored.
        unpacked_bytes: Size of the tar.
        estimate_bytes: Size under zstd 3 where the blob is not compressed and it was asked for.
        members: Its entries.
        kept: Content of the small files the look asked for, by path.
        created_by: The history's command; empty when there is none.
        key: Name of the blob's file in the archive or layout.
        offset: Where the blob starts in an uncompressed archive; 0 in a layout.
    """

    digest: str
    compression: str
    blob_bytes: int
    unpacked_bytes: int
    estimate_bytes: int | None
    members: tuple[Member, ...]
    kept: dict[str, bytes]
    created_by: str = ""
    key: str = ""
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Image:
    """An image: its config as it stands in the archive, and its layers from the base up.

    Attributes:
        name: Its reference where the archive tells one, else the archive's name.
        manifest_digest: None in a docker archive without OCI manifest.
        platform: Such as "linux/amd64".
        config: The image config, parsed; `config_digest` is of its exact bytes.
        config_bytes: Size of the config blob.
        annotations: Of the manifest.
    """

    name: str
    manifest_digest: str | None
    platform: str
    config: dict[str, Any]
    config_digest: str
    config_bytes: int
    layers: tuple[Layer, ...]
    annotations: dict[str, str]


@dataclass(frozen=True)
class Limits:
    """What no honest image exceeds; more is refused instead of filling memory or running on."""

    layer_unpacked_bytes: int = 128 * 10**9
    layer_members: int = 4_000_000


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True)
class Look:
    """What to learn of each file while it passes, beyond its header.

    Attributes:
        keep: By path: files whose content is kept (up to 32 MiB each).
        probe_wanted: By path, size and first bytes: files that are spooled to a temporary file,
            one at a time, and given to `probe`.
        probe: Its answer becomes `Member.finding`.
        checksums: Take the SHA-256 of every file.
        estimate: Compress uncompressed layers (zstd 3) to learn what a pull would take.
        scratch: Folder for the one spooled file; the system's temporary folder by default.
        on_bytes: Called with the number of archive bytes as they are read.
    """

    keep: Callable[[str], bool] = _never
    probe_wanted: Callable[[str, int, bytes], bool] = _never
    probe: Callable[[Path], object] | None = None
    checksums: bool = False
    estimate: bool = False
    scratch: Path | None = None
    limits: Limits = field(default_factory=Limits)
    on_bytes: Callable[[int], None] | None = None


class _Platform(BaseModel):
    os: str = ""
    architecture: str = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class _Descriptor(BaseModel):
    digest: str
    size: int = 0
    platform: _Platform | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class _Manifest(BaseModel):
    config: _Descriptor
    layers: list[_Descriptor]
    annotations: dict[str, str] = Field(default_factory=dict)


class _Index(BaseModel):
    manifests: list[_Descriptor]


class _Kind(BaseModel):
    """Tells an index from a manifest: only an index has `manifests`."""

    manifests: object = None


class _Links(BaseModel):
    """What an index or a manifest leads to."""

    manifests: list[_Descriptor] = Field(default_factory=list)
    config: _Descriptor | None = None


class _DockerItem(BaseModel):
    config: str = Field(alias="Config")
    layers: list[str] = Field(alias="Layers")
    repo_tags: list[str] | None = Field(default=None, alias="RepoTags")


class _History(BaseModel):
    created_by: str = ""
    empty_layer: bool = False


class _Run(BaseModel):
    """How a container is started, as far as it is shown or added to."""

    user: str | None = Field(default=None, alias="User")
    entrypoint: list[str] | None = Field(default=None, alias="Entrypoint")
    command: list[str] | None = Field(default=None, alias="Cmd")
    labels: dict[str, str] | None = Field(default=None, alias="Labels")


class _RootFs(BaseModel):
    diff_ids: list[str] = Field(default_factory=list)


_Model = TypeVar("_Model", bound=BaseModel)


class _Config(BaseModel):
    """The parts of an image config that reading needs."""

    model_config = ConfigDict(extra="allow")
    os: str
    architecture: str
    created: str | None = None
    config: _Run | None = None
    history: list[_History] | None = None
    rootfs: _RootFs = Field(default_factory=_RootFs)


@dataclass(frozen=True)
class _Found:
    """An image that the archive describes, before its blobs are looked up."""

    names: tuple[str, ...]
    manifest_digest: str | None
    platform: str | None
    config: str
    layers: tuple[str, ...]
    attestation: bool = False
    annotations: dict[str, str] = field(default_factory=dict)


class _Shelf:
    """The blobs of an archive by name: layers as tables, JSON as bytes, links between names."""

    def __init__(self, name: str, look: Look) -> None:
        self.name = name
        self.look = look
        self.jsons: dict[str, bytes] = {}
        self.layers: dict[str, Layer] = {}
        self.problems: dict[str, InputError] = {}
        self.links: dict[str, str] = {}

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
        if blob.peek(1) in (b"{", b"[") and size <= _MAX_JSON_BYTES:
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
        if key in self.problems:
            raise self.problems[key]
        if key not in self.layers:
            raise InputError(
                f"{self.name} lacks the layer {_digest_of(key)}",
                why="the archive names it but does not hold it (another platform's, or cut off)",
                way_out="docker pull --platform linux/amd64 IMAGE, then save it again.",
            )
        return self.layers[key]

    def _put_json(self, key: str, blob: Forward) -> None:
        self.jsons[key] = b"".join(blob.rest())
        if sum(map(len, self.jsons.values())) > _MAX_JSON_TOTAL_BYTES:
            raise blob.damaged("it holds more JSON than any image has")

    def _put_layer(self, key: str, size: int, offset: int, blob: Forward) -> None:
        try:
            layer = _table(_digest_of(key), size, blob, self.look)
            self.layers[key] = replace(layer, key=key, offset=offset)
        except InputError as error:
            # Only fatal when the image needs it: attestations and foreign blobs lie here too.
            self.problems[key] = error

    def _check(self, key: str, blob: Forward, sha256: str) -> None:
        if key.startswith("blobs/sha256/") and key.rsplit("/", 1)[1] != sha256:
            self.problems[key] = blob.damaged("its content does not match its digest")
            self.jsons.pop(key, None)
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
    return _image(shelf, only)


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
        shelf.jsons["index.json"] = json.dumps({"manifests": [{"digest": digest}]}).encode()
    else:
        _put_file(shelf, folder, "index.json")
    _put_linked(shelf, folder)
    found = _choose(shelf, only)
    for key in dict.fromkeys(found.layers):
        _put_file(shelf, folder, key)
    return _assemble(shelf, found)


def _put_linked(shelf: _Shelf, folder: Path) -> None:
    """Take the JSON blobs that lead from the index to manifests and configs."""
    pending = ["index.json"] if "index.json" in shelf.jsons else []
    while pending:
        links = _parsed(_Links, shelf, pending.pop())
        for link in (*links.manifests, *((links.config,) if links.config else ())):
            key = _blob_key(link.digest)
            if key not in shelf.jsons:
                _put_file(shelf, folder, key)
                if key in shelf.jsons and link is not links.config:
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


def _is_blob(key: str) -> bool:
    return key.startswith("blobs/") or key.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst"))


def _digest_of(key: str) -> str:
    return f"sha256:{key.rsplit('/', 1)[1]}" if key.startswith("blobs/sha256/") else key


def _blob_key(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _table(digest: str, size: int, blob: Forward, look: Look) -> Layer:
    """Turn a layer blob into the table of its entries."""
    compression = compression_of(blob.peek(4))
    counter = zstandard.ZstdCompressor(level=_ESTIMATE_LEVEL).compressobj()
    estimate = 0
    measured = compression == "none" and look.estimate
    if measured:

        def count(piece: bytes) -> None:
            nonlocal estimate
            estimate += len(counter.compress(piece))

        blob = blob.section(size, count)
    reader = _LayerReader(unpacked(blob, limit_bytes=look.limits.layer_unpacked_bytes), look)
    members = reader.members()
    return Layer(
        digest=digest,
        compression=compression,
        blob_bytes=size,
        unpacked_bytes=reader.tar.tell(),
        estimate_bytes=estimate + len(counter.flush()) if measured else None,
        members=members,
        kept=reader.kept,
    )


class _LayerReader:
    """One pass over a layer's tar."""

    def __init__(self, tar: Forward, look: Look) -> None:
        self.tar = tar
        self.look = look
        self.kept: dict[str, bytes] = {}

    def members(self) -> tuple[Member, ...]:
        """Read the tar to its end."""
        members = []
        for info, _ in tar_members(self.tar):
            members.append(self._member(info))
            if len(members) > self.look.limits.layer_members:
                raise self.tar.damaged(f"it holds more than {len(members) - 1} entries")
        for _ in self.tar.rest():
            pass
        return tuple(members)

    def _member(self, info: tarfile.TarInfo) -> Member:
        path = safe_path(info.name, self.tar)
        folder, _, base = path.rpartition("/")
        if base == _OPAQUE:
            return Member(folder, "opaque", 0, 0)
        if base.startswith(_WHITEOUT):
            return Member(posixpath.join(folder, base.removeprefix(_WHITEOUT)), "whiteout", 0, 0)
        if info.isreg():
            return self._file(path, info)
        if info.islnk():
            return Member(path, "hardlink", 0, info.mode, safe_path(info.linkname, self.tar))
        if info.issym():
            return Member(path, "symlink", 0, info.mode, info.linkname)
        return Member(path, "dir" if info.isdir() else "other", 0, info.mode)

    def _file(self, path: str, info: tarfile.TarInfo) -> Member:
        """Read a file's content as far as the look asks for it."""
        if info.sparse is not None:  # stored without its holes: what follows is not the content
            return Member(path, "file", info.size, info.mode)
        look, size = self.look, info.size
        head = self.tar.peek(min(size, HEAD_BYTES))
        finding: object = None
        hasher = hashlib.sha256()
        if look.probe and look.probe_wanted(path, size, head):
            finding = self._probed(size, look.probe, hasher.update)
        elif look.keep(path) and size <= _MAX_KEPT_BYTES:
            self.kept[path] = b"".join(self.tar.pieces(size))
            hasher.update(self.kept[path])
        elif look.checksums:
            for piece in self.tar.pieces(size):
                hasher.update(piece)
        sha256 = hasher.digest() if look.checksums else b""
        return Member(path, "file", size, info.mode, head=head, sha256=sha256, finding=finding)

    def _probed(
        self, size: int, probe: Callable[[Path], object], seen: Callable[[bytes], None]
    ) -> object:
        folder = self.look.scratch
        with tempfile.NamedTemporaryFile(prefix="tfslim-", dir=folder) as spool:
            with full_disk_is_told(folder or Path(tempfile.gettempdir())):
                for piece in self.tar.pieces(size):
                    spool.write(piece)
                    seen(piece)
                spool.flush()
            return probe(Path(spool.name))


def _image(shelf: _Shelf, only: str | None) -> Image:
    return _assemble(shelf, _choose(shelf, only))


def _choose(shelf: _Shelf, only: str | None) -> _Found:
    """Return the one image that is meant: not an attestation, for linux/amd64 if there is one."""
    images = [found for found in _described(shelf) if not found.attestation]
    if only is not None:
        images = [found for found in images if only in found.names]
    present = [found for found in images if found.config in shelf.jsons]
    if not present:
        raise _nothing(shelf, images, only)
    fitting = [found for found in present if _platform(shelf, found) == "linux/amd64"] or present
    if len({found.config for found in fitting}) > 1:
        names = sorted({name for found in fitting for name in found.names})
        raise InputError(
            f"{shelf.name} holds {len(fitting)} images",
            why="they are: " + (", ".join(names) or "without names"),
            way_out="Save one image into an archive of its own: docker save NAME -o FILE",
        )
    return fitting[0]


def _nothing(shelf: _Shelf, images: list[_Found], only: str | None) -> InputError:
    platforms = sorted({found.platform or "unknown" for found in images})
    return InputError(
        f"{shelf.name} holds no image" + (f" named {only}" if only else ""),
        why=f"only without content, for {', '.join(platforms)}"
        if images
        else "it has neither index.json nor manifest.json that lead to one",
        way_out="Give a file from docker save, skopeo or buildx (type=oci or type=docker), "
        "or an OCI layout folder.",
    )


def _platform(shelf: _Shelf, found: _Found) -> str:
    if found.platform:
        return found.platform
    config = _parsed(_Config, shelf, found.config)
    return f"{config.os}/{config.architecture}"


def _described(shelf: _Shelf) -> Iterator[_Found]:
    if "index.json" in shelf.jsons:
        yield from _from_index(shelf, "index.json", (), 0)
    elif "manifest.json" in shelf.jsons:
        for item in _docker_items(shelf):
            layers = tuple(posixpath.normpath(key) for key in item.layers)
            names = tuple(item.repo_tags or ())
            yield _Found(names, None, None, posixpath.normpath(item.config), layers)


def _docker_items(shelf: _Shelf) -> list[_DockerItem]:
    try:
        items = json.loads(shelf.jsons["manifest.json"])
        return [_DockerItem.model_validate(item) for item in items]
    except (ValueError, TypeError, RecursionError) as error:
        raise _bad_json(shelf, "manifest.json", error) from None


def _from_index(shelf: _Shelf, key: str, names: tuple[str, ...], depth: int) -> Iterator[_Found]:
    if depth > _MAX_INDEX_DEPTH:
        raise _bad_json(shelf, key, ValueError("indexes within indexes without end"))
    for entry in _parsed(_Index, shelf, key).manifests:
        child = _blob_key(entry.digest)
        own = tuple(entry.annotations[name] for name in _REF_NAMES if name in entry.annotations)
        if child in shelf.problems:
            raise shelf.problems[child]
        if child not in shelf.jsons:  # another platform's, never pulled
            continue
        if "manifests" in _parsed(_Kind, shelf, child).model_fields_set:
            yield from _from_index(shelf, child, own or names, depth + 1)
            continue
        manifest = _parsed(_Manifest, shelf, child)
        yield _Found(
            names=own or names,
            manifest_digest=entry.digest,
            platform=str(entry.platform) if entry.platform else None,
            config=_blob_key(manifest.config.digest),
            layers=tuple(_blob_key(layer.digest) for layer in manifest.layers),
            attestation=_ATTESTATION in entry.annotations
            or str(entry.platform) == "unknown/unknown",
            annotations=manifest.annotations,
        )


def _parsed(model: type[_Model], shelf: _Shelf, key: str) -> _Model:
    try:
        return model.model_validate_json(shelf.jsons[key])
    except ValidationError as error:
        raise _bad_json(shelf, key, error) from None


def _bad_json(shelf: _Shelf, key: str, error: Exception) -> InputError:
    return InputError(
        f"{shelf.name}: {key} is not what an image archive has there",
        why=str(error),
        way_out="Save the image again.",
    )


def _assemble(shelf: _Shelf, found: _Found) -> Image:
    config = _parsed(_Config, shelf, found.config)
    raw = shelf.jsons[found.config]
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
        config_bytes=len(raw),
        layers=tuple(
            replace(layer, created_by=command)
            for layer, command in zip(layers, commands, strict=True)
        ),
        annotations=found.annotations,
    )


def _check_diff_ids(shelf: _Shelf, config: _Config, layers: list[Layer]) -> None:
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
