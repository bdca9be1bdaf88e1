"""Small images for tests: layers as tars, wrapped as docker archives, OCI archives or layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard


@dataclass
class Entry:
    path: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644
    pax: dict[str, str] = field(default_factory=dict)


def directory(path: str) -> Entry:
    return Entry(path, type=tarfile.DIRTYPE, mode=0o755)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, type=tarfile.SYMTYPE, link=target, mode=0o777)


def hardlink(path: str, target: str) -> Entry:
    return Entry(path, type=tarfile.LNKTYPE, link=target)


def tar_of(entries: Sequence[Entry], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.type, info.linkname, info.mode = entry.type, entry.link, entry.mode
            info.size, info.mtime = len(entry.data), 1_700_000_000
            info.pax_headers = entry.pax
            tar.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def layer(*entries: Entry) -> bytes:
    return tar_of(entries)


def packed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, mtime=0)
    if compression == "zstd":
        return zstandard.compress(data)
    return data


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Built:
    """An image as blobs by digest, with what leads to them."""

    blobs: dict[str, bytes]
    index: dict[str, Any]
    config: bytes
    layers: list[bytes]
    diff_ids: list[str]
    manifest: bytes

    @property
    def pull_bytes(self) -> int:
        return len(self.config) + sum(map(len, {sha256(b): b for b in self.layers}.values()))


def build(
    layers: Sequence[bytes],
    *,
    compression: str = "none",
    architecture: str = "amd64",
    name: str | None = "demo:1",
    run: dict[str, Any] | None = None,
    commands: Sequence[str] | None = None,
) -> Built:
    commands = commands or [f"RUN step {number}" for number in range(len(layers))]
    diff_ids = [sha256(data) for data in layers]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": run or {"Env": ["PATH=/usr/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [
                {"created_by": "ENV A=1", "empty_layer": True},
                *({"created_by": command} for command in commands),
            ],
        }
    ).encode()
    blobs = [packed(data, compression) for data in layers]
    suffix = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}[compression]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [
                _descriptor(blob, f"application/vnd.oci.image.layer.v1.tar{suffix}")
                for blob in blobs
            ],
        }
    ).encode()
    entry = _descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["platform"] = {"os": "linux", "architecture": architecture}
    if name:
        entry["annotations"] = {"io.containerd.image.name": name}
    everything = {sha256(data): data for data in (config, manifest, *blobs)}
    index = {"schemaVersion": 2, "manifests": [entry]}
    return Built(everything, index, config, blobs, diff_ids, manifest)


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def attested(image: Built, *, platforms_without_content: Sequence[str] = ()) -> Built:
    """Wrap an image as buildx does: an index in the index, with an attestation manifest."""
    statement = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
    config = b'{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}'
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_descriptor(statement, "application/vnd.in-toto+json")],
        }
    ).encode()
    attestation = _descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")
    attestation["platform"] = {"os": "unknown", "architecture": "unknown"}
    attestation["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    absent = [
        _descriptor(name.encode(), "application/vnd.oci.image.manifest.v1+json")
        | {"platform": {"os": "linux", "architecture": name}}
        for name in platforms_without_content
    ]
    inner = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [*absent, *image.index["manifests"], attestation],
        }
    ).encode()
    outer = _descriptor(inner, "application/vnd.oci.image.index.v1+json")
    blobs = image.blobs | {sha256(data): data for data in (statement, config, manifest, inner)}
    return Built(
        blobs,
        {"schemaVersion": 2, "manifests": [outer]},
        image.config,
        image.layers,
        image.diff_ids,
        image.manifest,
    )


def oci_files(image: Built, *, layers_first: bool = True) -> list[Entry]:
    blobs = [
        Entry("blobs/sha256/" + digest.removeprefix("sha256:"), data)
        for digest, data in image.blobs.items()
    ]
    blobs.sort(key=lambda entry: entry.data.startswith(b"{") == layers_first)
    return [
        directory("blobs"),
        directory("blobs/sha256"),
        *blobs,
        Entry("index.json", json.dumps(image.index).encode()),
        Entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ]


def oci_archive(path: Path, image: Built) -> Path:
    path.write_bytes(tar_of(oci_files(image)))
    return path


def oci_layout(folder: Path, image: Built) -> Path:
    for entry in oci_files(image):
        if entry.type == tarfile.REGTYPE:
            target = folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.data)
    return folder


def docker_archive(path: Path, image: Built, *, name: str = "demo:1") -> Path:
    """Write what `docker save` of an older engine writes; equal layers become links."""
    config_name = sha256(image.config).removeprefix("sha256:") + ".json"
    entries: list[Entry] = []
    keys: list[str] = []
    seen: dict[str, str] = {}
    for number, data in enumerate(image.layers):
        key = f"{number:064d}/layer.tar"
        digest = sha256(data)
        if digest in seen:
            entries.append(symlink(key, f"../{seen[digest]}"))
        else:
            entries.append(Entry(key, data))
            seen[digest] = key
        keys.append(key)
    item = {"Config": config_name, "RepoTags": [name], "Layers": keys}
    entries += [
        Entry(config_name, image.config),
        Entry("manifest.json", json.dumps([item]).encode()),
    ]
    path.write_bytes(tar_of(entries, tarfile.USTAR_FORMAT))
    return path
