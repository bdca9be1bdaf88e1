"""Base images: where each FROM name of a Dockerfile comes from in this run, and at which version.

The Dockerfiles keep the names of the registry's images. Here each name becomes a build context:
the registry's image by digest, or an equivalent built from Debian packages and kept in the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docker.errors import DockerException, ImageNotFound

from tfslim.build import debian
from tfslim.engine.engine import Engine
from tfslim.errors import ConfigError, EngineError, NetworkError, TfslimError
from tfslim.ui import Ui, human_bytes

__all__ = ["Base", "Source", "ensure_bases", "image_context", "image_labels"]

Source = Literal["auto", "registry", "debian"]

_REGISTRY_SECONDS = 15.0
_REPOSITORY = "tfslim/base"
_LABEL = "tfslim.base"


@dataclass(frozen=True)
class Base:
    """A base image as one run uses it.

    Attributes:
        name: The name in FROM.
        origin: Where it comes from.
        context: What to give buildx as `--build-context NAME=CONTEXT`.
        pin: The registry's digest, or the SHA-256 of the list of packages and versions.
        packages: "name=version" of everything installed; empty for the registry's images.
        pull_bytes: Compressed bytes of its layers; None where the registry does not tell.
    """

    name: str
    origin: Literal["registry", "debian"]
    context: str
    pin: str
    packages: tuple[str, ...]
    pull_bytes: int | None


def ensure_bases(
    engine: Engine, names: Sequence[str], source: Source, ui: Ui, *, refresh: bool = False
) -> dict[str, Base]:
    """Find or make every base image that a run needs.

    Args:
        engine: Where Debian-built bases are kept.
        names: FROM names; duplicates are resolved once.
        source: `registry`, `debian`, or `auto`: the registry as long as it answers.
        ui: Where progress and a fallback are told.
        refresh: Build Debian bases again, for newer packages.

    Raises:
        ConfigError: A name that has no recipe is wanted from Debian packages.
        NetworkError: The registry, or the Debian mirror, cannot be reached.
    """
    wanted = list(dict.fromkeys(names))
    if source != "debian":
        try:
            return {name: _from_registry(engine, name) for name in wanted}
        except NetworkError as error:
            if source == "registry":
                raise
            _tell_fallback(error, wanted, ui)
    recipes = [_recipe(name) for name in wanted]  # all of them before the first is built
    return {recipe.name: _from_debian(engine, recipe, ui, refresh) for recipe in recipes}


def _tell_fallback(error: NetworkError, wanted: Sequence[str], ui: Ui) -> None:
    if not all(name in debian.recipes() for name in wanted):
        raise error
    ui.warn(f"{error.what}: {error.why.splitlines()[-1]}")
    ui.note("base-source is auto: building the base images from Debian packages instead.")


def _recipe(name: str) -> debian.Recipe:
    known = debian.recipes()
    if name in known:
        return known[name]
    raise ConfigError(
        f"{name} cannot be built from Debian packages",
        why="Debian releases carry one Python and one CUDA each. What can be built:\n"
        + "\n".join(f"  {other}" for other in known),
        way_out="Use `base-source: registry`, or versions from this list.",
    )


# The registry.


def _from_registry(engine: Engine, name: str) -> Base:
    index = _inspect(engine, name, "--format", "{{json .Manifest}}")
    digest = str(index["digest"])
    pinned = f"{name}@{digest}"
    return Base(
        name=name,
        origin="registry",
        context=f"docker-image://{pinned}",
        pin=digest,
        packages=(),
        pull_bytes=_pull_bytes(engine, name, index),
    )


def _pull_bytes(engine: Engine, name: str, index: dict[str, Any]) -> int | None:
    """Return the compressed bytes of the layers for linux on this engine's architecture."""
    arch = _architecture(engine)
    digests = [
        child["digest"]
        for child in index.get("manifests", [])
        if child.get("platform", {}).get("os") == "linux"
        and child["platform"].get("architecture") == arch
    ]
    repository = name.rpartition(":")[0] or name
    reference = f"{repository}@{digests[0]}" if digests else name
    manifest = _inspect(engine, reference, "--raw")
    if "layers" not in manifest:
        return None
    return sum(int(layer["size"]) for layer in manifest["layers"])


def _architecture(engine: Engine) -> str:
    """Return the engine's architecture as image indexes spell it."""
    with contextlib.closing(engine.client()) as client:
        return str(client.version()["Arch"])


def _inspect(engine: Engine, reference: str, *options: str) -> dict[str, Any]:
    done = engine.buildx(["imagetools", "inspect", reference, *options], timeout=_REGISTRY_SECONDS)
    if done.ok:
        return dict(json.loads(done.stdout))
    if any(sign in done.stderr for sign in ("not found", "manifest unknown", "MANIFEST_UNKNOWN")):
        raise ConfigError(
            f"the registry has no image {reference}",
            why=done.tail,
            way_out="Check the versions in tfslim.yaml; the registry's web page lists its tags.",
        )
    raise NetworkError(
        f"the registry of {reference} cannot be used",
        why=done.tail or "no answer",
        way_out="Set `base-source: debian` to build the bases from Debian packages, or a registry "
        'mirror ("registry-mirrors" in /etc/docker/daemon.json) or a proxy for docker;\n'
        "`docker login` lifts anonymous pull limits.",
    )


# Debian packages.


def _from_debian(engine: Engine, recipe: debian.Recipe, ui: Ui, refresh: bool) -> Base:
    tag = f"{_REPOSITORY}/{recipe.name}"
    labels = None if refresh else image_labels(engine, tag)
    if labels is None or labels.get(f"{_LABEL}.recipe") != recipe.key:
        labels = _build(engine, recipe, tag, ui)
    packages = tuple(labels[f"{_LABEL}.packages"].split())
    return Base(
        name=recipe.name,
        origin="debian",
        context=image_context(engine, tag, ui),
        pin=_pin(packages),
        packages=packages,
        pull_bytes=int(labels[f"{_LABEL}.bytes"]),
    )


def _pin(packages: Sequence[str]) -> str:
    return "sha256:" + hashlib.sha256("\n".join(packages).encode()).hexdigest()


def image_labels(engine: Engine, tag: str) -> dict[str, str] | None:
    """Return an image's labels; None where the engine has no such image."""
    with contextlib.closing(engine.client()) as client:
        try:
            return dict(client.images.get(tag).labels)
        except ImageNotFound:
            return None


def _build(engine: Engine, recipe: debian.Recipe, tag: str, ui: Ui) -> dict[str, str]:
    """Build a base, put it into the engine and return its labels."""
    with tempfile.TemporaryDirectory(prefix="tfslim-base-", dir=_scratch()) as folder:
        rootfs = debian.build(recipe, Path(folder), ui)
        size = rootfs.archive.stat().st_size
        labels = {
            f"{_LABEL}.recipe": recipe.key,
            f"{_LABEL}.packages": " ".join(rootfs.packages),
            f"{_LABEL}.bytes": str(size),
        }
        with ui.step(f"Import {recipe.name} ({human_bytes(size)})"):
            _import(engine, rootfs.archive, tag, _changes(recipe, labels))
    ui.note(f"{recipe.name}: {recipe.differs}")
    return labels


def _scratch() -> str | None:
    """Return where bases are put together: TMPDIR, or /var/tmp, as /tmp is often in memory."""
    return None if tempfile.gettempdir() != "/tmp" else "/var/tmp"  # noqa: S108


def _changes(recipe: debian.Recipe, labels: dict[str, str]) -> list[str]:
    """Return the image's settings as Dockerfile instructions."""
    env = [f'ENV {name}="{value}"' for name, value in recipe.env.items()]
    marks = [f'LABEL {name}="{value}"' for name, value in labels.items()]
    return [*env, *marks, f"CMD {json.dumps(list(recipe.cmd))}"]


def _import(engine: Engine, archive: Path, tag: str, changes: list[str]) -> None:
    repository, _, version = tag.rpartition(":")
    with contextlib.closing(engine.client()) as client:
        try:
            said = client.api.import_image_from_file(
                str(archive), repository=repository, tag=version, changes=changes
            )
        except DockerException as error:
            raise _not_imported(tag, str(error)) from error
    if '"error"' in said:
        raise _not_imported(tag, said)


def _not_imported(tag: str, why: str) -> TfslimError:
    return EngineError(
        f"the engine cannot import {tag}",
        why=why[-2000:],
        way_out="Check the engine's free disk: tfslim doctor.",
    )


def image_context(engine: Engine, tag: str, ui: Ui) -> str:
    """Return the build context for an image of the engine.

    A container builder does not see the engine's images: it gets the image as an OCI layout.
    """
    if engine.driver == "docker":
        return f"docker-image://{tag}"
    folder = Path.home() / ".cache/tfslim/bases" / tag.replace("/", "_").replace(":", "_")
    with ui.step(f"Hand {tag} to the container builder"):
        digest = _export_layout(engine, tag, folder)
    return f"oci-layout://{folder}@{digest}"


def _export_layout(engine: Engine, tag: str, folder: Path) -> str:
    """Write an image as an OCI layout, which `docker save` does since Docker 25.

    Returns:
        The digest of its manifest.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        packed, aside = Path(scratch) / "image.tar", Path(scratch) / "layout"
        _save(engine, tag, packed)
        with tarfile.open(packed) as tar:
            # Debian 12's Python 3.11.2 has no filters yet; the archive is this engine's own.
            safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(aside, **safe)  # noqa: S202
        packed.unlink()
        if not (aside / "index.json").exists():
            raise EngineError(
                f"Docker {engine.server_version} cannot hand {tag} to a container builder",
                why="`docker save` writes an OCI layout since Docker 25.",
                way_out="Update Docker, or use `base-source: registry`.",
            )
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    index = json.loads((folder / "index.json").read_text())
    return str(index["manifests"][0]["digest"])


def _save(engine: Engine, tag: str, target: Path) -> None:
    with contextlib.closing(engine.client()) as client, target.open("wb") as out:
        out.writelines(client.images.get(tag).save(named=True))
