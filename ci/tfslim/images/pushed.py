"""What a registry holds under a name: index, image, attestations; read with Docker's own login.

Only documents are fetched, never layers. The formats are those of the OCI image-spec 1.1, and of
BuildKit's attestations (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tfslim.engine.engine import Engine
from tfslim.errors import NetworkError, PushError

__all__ = ["Stored", "read_stored"]

_SECONDS = 60.0
_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
_PREDICATE = "in-toto.io/predicate-type"


class Stored(BaseModel):
    """An image in a registry.

    Attributes:
        reference: The name it was read by.
        image_digest: Digest of the image's own manifest, for linux/amd64.
        layers: Media types of its layers, from the base up.
        diff_ids: Digests of the layers' unpacked tars.
        pull_bytes: Compressed bytes of all layers.
        attestations: Types of the predicates that are attested of the image.
        index_annotations: Annotations of the index; empty where the name leads to a bare manifest.
        annotations: Annotations of the image's manifest.
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    image_digest: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    pull_bytes: int
    attestations: tuple[str, ...]
    index_annotations: dict[str, str]
    annotations: dict[str, str]

    @property
    def all_zstd(self) -> bool:
        """True when every layer is compressed with zstd."""
        return all(layer.endswith("+zstd") for layer in self.layers)


class _Descriptor(BaseModel):
    mediaType: str = ""  # noqa: N815 (as the specification writes it)
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: dict[str, Any] = {}


class _Index(BaseModel):
    manifests: list[_Descriptor]
    annotations: dict[str, str] = {}


class _Manifest(BaseModel):
    layers: list[_Descriptor]
    annotations: dict[str, str] = {}


def read_stored(engine: Engine, repository: str, digest: str) -> Stored:
    """Read back what a registry holds.

    Args:
        engine: Its buildx asks the registry.
        repository: Name without tag.
        digest: Digest of an index with one image, or of an image's manifest.

    Raises:
        NetworkError: The registry does not give it.
        PushError: What it gives is no image.
    """
    reference = f"{repository}@{digest}"
    top = _raw(engine, reference)
    try:
        if "manifests" not in top:
            return _image(engine, repository, digest, top, None)
        index = _Index.model_validate(top)
        image = next(
            entry
            for entry in index.manifests
            if _REFERENCE_TYPE not in entry.annotations and _fits(entry.platform)
        )
        manifest = _raw(engine, f"{repository}@{image.digest}")
        return _image(engine, repository, image.digest, manifest, index)
    except (StopIteration, ValidationError, KeyError) as error:
        raise PushError(
            f"the registry gives no image for linux/amd64 as {reference}",
            why=str(error) or json.dumps(top)[:2000],
        ) from error


def _fits(platform: dict[str, Any]) -> bool:
    return (platform.get("os"), platform.get("architecture")) == ("linux", "amd64")


def _image(
    engine: Engine, repository: str, digest: str, found: dict[str, Any], index: _Index | None
) -> Stored:
    manifest = _Manifest.model_validate(found)
    reference = f"{repository}@{digest}"
    config = _asked(engine, reference, "--format", "{{json .Image}}")
    return Stored(
        reference=reference,
        image_digest=digest,
        layers=tuple(layer.mediaType for layer in manifest.layers),
        diff_ids=tuple(config.get("rootfs", {}).get("diff_ids", [])),
        pull_bytes=sum(layer.size for layer in manifest.layers),
        attestations=_attestations(engine, repository, digest, index) if index else (),
        index_annotations=index.annotations if index else {},
        annotations=manifest.annotations,
    )


def _attestations(engine: Engine, repository: str, digest: str, index: _Index) -> tuple[str, ...]:
    """Return the types of what is attested of an image."""
    found = [
        _Manifest.model_validate(_raw(engine, f"{repository}@{entry.digest}"))
        for entry in index.manifests
        if entry.annotations.get(_REFERENCE_DIGEST) == digest
    ]
    return tuple(
        layer.annotations[_PREDICATE]
        for manifest in found
        for layer in manifest.layers
        if _PREDICATE in layer.annotations
    )


def _raw(engine: Engine, reference: str) -> dict[str, Any]:
    return _asked(engine, reference, "--raw")


def _asked(engine: Engine, reference: str, *options: str) -> dict[str, Any]:
    done = engine.buildx(["imagetools", "inspect", reference, *options], timeout=_SECONDS)
    if not done.ok:
        raise NetworkError(
            f"{reference} cannot be read back from its registry",
            why=done.tail,
            way_out="Try by hand: docker buildx imagetools inspect " + reference,
        )
    try:
        return dict(json.loads(done.stdout))
    except ValueError as error:
        raise PushError(
            f"what the registry gives for {reference} is no document", why=done.stdout[:2000]
        ) from error
