"""From an archive's JSON to one image: index → manifest → config, or docker's own manifest.json.

The documents are those of the OCI image-spec 1.1 and of moby's image spec v1.2. Values of other
types than the specifications give are refused with the place named.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfslim.errors import InputError

__all__ = ["Config", "Documents", "Found", "Links", "blob_key"]

_MAX_INDEX_DEPTH = 8
_ATTESTATION = "vnd.docker.reference.type"
_REF_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Platform(BaseModel):
    os: str = ""
    architecture: str = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class Descriptor(BaseModel):
    digest: str
    size: int = 0
    platform: _Platform | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class _Manifest(BaseModel):
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] = Field(default_factory=dict)


class _Index(BaseModel):
    manifests: list[Descriptor]


class _Kind(BaseModel):
    """Tells an index from a manifest: only an index has `manifests`."""

    manifests: object = None


class Links(BaseModel):
    """What an index or a manifest leads to."""

    manifests: list[Descriptor] = Field(default_factory=list)
    config: Descriptor | None = None


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


class Config(BaseModel):
    """The parts of an image config that reading needs."""

    model_config = ConfigDict(extra="allow")
    os: str
    architecture: str
    created: str | None = None
    config: _Run | None = None
    history: list[_History] | None = None
    rootfs: _RootFs = Field(default_factory=_RootFs)


@dataclass(frozen=True)
class Found:
    """An image that an archive describes; config and layers are names of blobs in it."""

    names: tuple[str, ...]
    manifest_digest: str | None
    platform: str | None
    config: str
    layers: tuple[str, ...]
    attestation: bool = False
    annotations: dict[str, str] = field(default_factory=dict)


def blob_key(digest: str) -> str:
    """Return the name of a blob's file in an archive or layout."""
    return "blobs/" + digest.replace(":", "/", 1)


class Documents:
    """The JSON files of an archive by name.

    Attributes:
        name: What the archive is called in messages.
        jsons: Their content.
        problems: Why a file cannot be used, for those that cannot.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.jsons: dict[str, bytes] = {}
        self.problems: dict[str, InputError] = {}

    def choose(self, only: str | None) -> Found:
        """Return the image that is meant: no attestation, for linux/amd64 if there is one.

        Args:
            only: Its reference, where the archive holds several.

        Raises:
            InputError: There is none, or there are several; names them.
        """
        images = [found for found in self._described() if not found.attestation]
        if only is not None:
            images = [found for found in images if only in found.names]
        present = [found for found in images if found.config in self.jsons]
        if not present:
            raise self._nothing(images, only)
        fitting = [found for found in present if self._platform(found) == "linux/amd64"] or present
        if len({found.config for found in fitting}) > 1:
            names = sorted({name for found in fitting for name in found.names})
            raise InputError(
                f"{self.name} holds {len(fitting)} images",
                why="they are: " + (", ".join(names) or "without names"),
                way_out="Save one image into an archive of its own: docker save NAME -o FILE",
            )
        return fitting[0]

    def _nothing(self, images: list[Found], only: str | None) -> InputError:
        platforms = sorted({found.platform or "unknown" for found in images})
        return InputError(
            f"{self.name} holds no image" + (f" named {only}" if only else ""),
            why=f"only without content, for {', '.join(platforms)}"
            if images
            else "it has neither index.json nor manifest.json that lead to one",
            way_out="Give a file from docker save, skopeo or buildx (type=oci or type=docker), "
            "or an OCI layout folder.",
        )

    def _platform(self, found: Found) -> str:
        if found.platform:
            return found.platform
        config = self.parsed(Config, found.config)
        return f"{config.os}/{config.architecture}"

    def _described(self) -> Iterator[Found]:
        if "index.json" in self.jsons:
            yield from self._from_index("index.json", (), 0)
        elif "manifest.json" in self.jsons:
            for item in self._docker_items():
                layers = tuple(posixpath.normpath(key) for key in item.layers)
                names = tuple(item.repo_tags or ())
                yield Found(names, None, None, posixpath.normpath(item.config), layers)

    def _docker_items(self) -> list[_DockerItem]:
        try:
            items = json.loads(self.jsons["manifest.json"])
            return [_DockerItem.model_validate(item) for item in items]
        except (ValueError, TypeError, RecursionError) as error:
            raise self._bad("manifest.json", error) from None

    def _from_index(self, key: str, names: tuple[str, ...], depth: int) -> Iterator[Found]:
        if depth > _MAX_INDEX_DEPTH:
            raise self._bad(key, ValueError("indexes within indexes without end"))
        for entry in self.parsed(_Index, key).manifests:
            child = blob_key(entry.digest)
            own = tuple(entry.annotations[name] for name in _REF_NAMES if name in entry.annotations)
            if child in self.problems:
                raise self.problems[child]
            if child not in self.jsons:  # another platform's, never pulled
                continue
            if "manifests" in self.parsed(_Kind, child).model_fields_set:
                yield from self._from_index(child, own or names, depth + 1)
                continue
            manifest = self.parsed(_Manifest, child)
            yield Found(
                names=own or names,
                manifest_digest=entry.digest,
                platform=str(entry.platform) if entry.platform else None,
                config=blob_key(manifest.config.digest),
                layers=tuple(blob_key(layer.digest) for layer in manifest.layers),
                attestation=_ATTESTATION in entry.annotations
                or str(entry.platform) == "unknown/unknown",
                annotations=manifest.annotations,
            )

    def parsed(self, model: type[_Model], key: str) -> _Model:
        """Return a document as a model.

        Raises:
            InputError: It is something else.
        """
        try:
            return model.model_validate_json(self.jsons[key])
        except ValidationError as error:
            raise self._bad(key, error) from None

    def _bad(self, key: str, error: Exception) -> InputError:
        return InputError(
            f"{self.name}: {key} is not what an image archive has there",
            why=str(error),
            way_out="Save the image again.",
        )
