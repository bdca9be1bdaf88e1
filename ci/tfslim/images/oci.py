"""Write an image archive that both `docker load` and every OCI tool read.

It is an OCI layout in a tar (image-spec 1.1) with docker's own `manifest.json` beside it, which
the classic graph drivers need. Layers are compressed straight into it: the header is written once
the size and digest are known. Times and owners are zero, so equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import zstandard

from tfslim.errors import ConfigError

__all__ = ["WINDOW_LOG", "Blob", "Compression", "LayerSink", "OciArchive", "image_name"]

Compression = Literal["zstd", "gzip"]

# 128 MB, the largest window that zstd's own tools unpack unasked; containerd, Docker, Podman and
# CRI-O go to 512 MB (github.com/klauspost/compress/zstd, WithDecoderMaxWindow).
WINDOW_LOG = 27
_LEAST_WINDOW_LOG = 17

_BLOCK_BYTES = 512
_GZIP_WBITS = 31
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True)
class Blob:
    """A blob in the archive: what a manifest says of it, and for layers the tar's own digest."""

    media_type: str
    digest: str
    size_bytes: int
    diff_id: str = ""

    def descriptor(self) -> dict[str, Any]:
        """Return it as the OCI image-spec writes it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class LayerSink:
    """Takes a layer's tar and writes it compressed."""

    def __init__(self, out: _Hashed, compressor: _Compressor) -> None:
        self._out = out
        self._compressor = compressor
        self._plain = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tar."""
        self._plain.update(data)
        self._out.write(self._compressor.compress(data))

    def close(self) -> str:
        """Write what is pending; return the tar's digest, the layer's `diff_id`."""
        self._out.write(self._compressor.flush())
        return f"sha256:{self._plain.hexdigest()}"


class _Hashed:
    """A file whose appended bytes are counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


class OciArchive:
    """An archive being written to a seekable file, blob by blob."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written: set[str] = set()

    def layer_copy(self, pieces: Iterable[bytes], compression: str, diff_id: str) -> Blob:
        """Add a layer's blob byte for byte."""
        with self._entry() as out:
            for piece in pieces:
                out.write(piece)
        return Blob(_LAYER + _SUFFIX[compression], out.digest, out.size, diff_id)

    @contextmanager
    def layer(
        self, compression: Compression, level: int, most_bytes: int
    ) -> Iterator[tuple[LayerSink, list[Blob]]]:
        """Add a layer from its tar; the list holds its blob after the block.

        Args:
            compression: How it is stored.
            level: Of the compression.
            most_bytes: What the tar will be at most, about: no larger window is announced, for
                whoever unpacks the layer sets that much memory aside.
        """
        done: list[Blob] = []
        with self._entry() as out:
            sink = LayerSink(out, _compressor(compression, level, most_bytes))
            yield sink, done
            diff_id = sink.close()
        done.append(Blob(_LAYER + _SUFFIX[compression], out.digest, out.size, diff_id))

    def finish(
        self,
        *,
        config: dict[str, Any] | bytes,
        layers: list[Blob],
        annotations: dict[str, str],
        name: str,
    ) -> tuple[Blob, Blob]:
        """Write config, manifest and indexes; return the manifest's and the config's blob.

        Args:
            config: The image config; bytes stay what they are, and with them the image's ID.
            layers: All layers from the base up, each already in the archive.
            annotations: Of the manifest.
            name: Full reference, from `image_name`.
        """
        encoded = config if isinstance(config, bytes) else _encoded(config)
        told = json.loads(encoded)
        config_blob = self._bytes(encoded, _CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config_blob.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
            "annotations": dict(sorted(annotations.items())),
        }
        blob = self._bytes(_encoded(manifest), _MANIFEST)
        entry = blob.descriptor() | {
            "platform": {"os": told["os"], "architecture": told["architecture"]},
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            },
        }
        self._file_of("index.json", {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]})
        self._file_of("oci-layout", {"imageLayoutVersion": "1.0.0"})
        item = {
            "Config": _path(config_blob.digest),
            "RepoTags": [name.removeprefix("docker.io/").removeprefix("library/")],
            "Layers": [_path(layer.digest) for layer in layers],
        }
        self._file_of("manifest.json", [item])
        self._file.write(bytes(2 * _BLOCK_BYTES))
        return blob, config_blob

    def _bytes(self, data: bytes, media_type: str) -> Blob:
        with self._entry() as out:
            out.write(data)
        return Blob(media_type, out.digest, out.size)

    def _file_of(self, name: str, value: Any) -> None:
        data = _encoded(value)
        self._file.write(_header(name, len(data)) + data + _padding(len(data)))

    @contextmanager
    def _entry(self) -> Iterator[_Hashed]:
        """Append a blob; its header is written last. A blob that is there already is dropped."""
        start = self._file.tell()
        self._file.write(bytes(_BLOCK_BYTES))
        out = _Hashed(self._file)
        yield out
        if out.digest in self._written:
            self._file.seek(start)
            self._file.truncate()
            return
        self._written.add(out.digest)
        self._file.write(_padding(out.size))
        self._file.seek(start)
        self._file.write(_header(_path(out.digest), out.size))
        self._file.seek(0, os.SEEK_END)


def image_name(reference: str) -> str:
    """Return a reference in full, as containerd keeps it: docker.io/library/NAME:TAG.

    Raises:
        ConfigError: It is no name that an image can be given.
    """
    first, slash, rest = reference.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    host, path = (first, rest) if has_host else ("docker.io", reference)
    if host == "docker.io" and "/" not in path:
        path = f"library/{path}"
    repository, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = path, "latest"
    if "@" in path or not _valid(repository, tag):
        raise ConfigError(
            f"{reference!r} is not a name for an image",
            why="names are lower-case letters, digits and . _ - /, then :TAG",
            way_out="For instance --tag mymodel:slim",
        )
    return f"{host}/{repository}:{tag}"


def _valid(repository: str, tag: str) -> bool:
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
    parts = repository.split("/")
    name_ok = set(repository) <= letters and all(part[:1].isalnum() for part in parts)
    tag_ok = tag.replace(".", "").replace("-", "").replace("_", "").isalnum() and tag.isascii()
    return name_ok and tag_ok and not tag.startswith((".", "-"))


def _compressor(compression: Compression, level: int, most_bytes: int) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WBITS)
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            level,
            # Kernels are alike across whole libraries; usual windows of 2 to 8 MB do not reach.
            window_log=min(max(most_bytes.bit_length(), _LEAST_WINDOW_LOG), WINDOW_LOG),
            enable_ldm=True,
            # With at least one worker zstd's output does not depend on how many there are.
            threads=max(1, os.cpu_count() or 1),
        )
    ).compressobj()


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK_BYTES)
