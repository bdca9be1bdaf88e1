"""Build images with `docker buildx bake`: the bake file as a person would run it, plus one override.

What a run adds to `docker-bake.hcl` (tags, base contexts, secrets, caches) goes into a small JSON file
beside it, as bake's own merge rules allow; nothing is rewritten.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tfslim import proc
from tfslim.config import Config
from tfslim.errors import BuildFailedError, DiskError, NetworkError, TfslimError
from tfslim.images.bases import Base
from tfslim.images.cache import LocalCache
from tfslim.images.engine import Engine
from tfslim.plan import Build
from tfslim.ui import Ui

__all__ = ["BuiltImage", "build_images", "override"]

_CACHED = re.compile(r"^#(\d+) CACHED$")
_STEP = re.compile(r"^#(\d+) \[(?!internal)(.+)\]")
_NO_SPACE = re.compile(r"no space left on device", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"failed to resolve|name resolution|network is unreachable|connection (refused|reset|timed out)"
    r"|no such host|certificate verify failed|Max retries exceeded|i/o timeout",
    re.IGNORECASE,
)


class BuiltImage(BaseModel):
    """An image that a build left in the engine.

    Attributes:
        build: What was asked for.
        digest: The manifest's digest.
        seconds: Wall time of the build, export and unpack included.
        steps: Steps of the Dockerfile that ran or were found in the cache.
        cached_steps: Those found in the cache; equal to `steps` when nothing was done anew.
        bases: Where each base came from and what pins it.
    """

    model_config = ConfigDict(frozen=True)

    build: Build
    digest: str
    seconds: float
    steps: int
    cached_steps: int
    bases: dict[str, Base]


def build_images(
    engine: Engine,
    builds: Sequence[Build],
    *,
    config: Config,
    bases: Mapping[str, Base],
    model: Path | None,
    ui: Ui,
) -> list[BuiltImage]:
    """Build images one after the other, so that disk and log stay readable.

    Args:
        engine: The engine to build with.
        builds: What to build.
        config: For image, cache and secret settings.
        bases: Where each FROM name comes from.
        model: Folder to bake as /model; None leaves it to be mounted.
        ui: Shows progress.

    Raises:
        BuildFailedError: A step failed; with the end of the log.
        DiskError: The engine ran out of disk.
        NetworkError: A registry or package index could not be reached.
    """
    cache = LocalCache(config.cache, enabled=config.cache.local and engine.cache_export)
    if config.cache.local and not engine.cache_export:
        ui.warn(f"no local cache export: {engine.cache_reason}")
    return [_build_one(engine, build, config, bases, model, cache, ui) for build in builds]


def _build_one(
    engine: Engine,
    build: Build,
    config: Config,
    bases: Mapping[str, Base],
    model: Path | None,
    cache: LocalCache,
    ui: Ui,
) -> BuiltImage:
    steps: dict[str, str] = {}
    cached: set[str] = set()
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="tfslim-") as scratch,
        ui.step(f"build {build.variant}") as step,
        cache.export(build.variant) as export,
    ):
        definition = override(build, engine, config, bases, model)
        target = definition["target"][build.variant]
        target["cache-from"], target["cache-to"] = export.sources, export.destinations
        folder = Path(scratch)
        (folder / "override.json").write_text(json.dumps(definition), encoding="utf-8")

        def show(line: str) -> None:
            if match := _STEP.match(line):
                steps.setdefault(match[1], match[2])
            elif match := _CACHED.match(line):
                cached.add(match[1])
            step.update(line)

        done = engine.buildx(
            [
                "bake",
                *("-f", str(dockerfiles() / "docker-bake.hcl")),
                *("-f", str(folder / "override.json")),
                *("--metadata-file", str(folder / "metadata.json")),
                *("--progress", "plain"),
                build.variant,
            ],
            on_line=show,
            env={**build.variables, "BUILDX_BAKE_ENTITLEMENTS_FS": "0"},
            cwd=dockerfiles().parent,
        )
        if not done.ok:
            raise _failure(build.variant, done)
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    result = BuiltImage(
        build=build,
        digest=metadata[build.variant]["containerimage.digest"],
        seconds=time.monotonic() - start,
        steps=len(steps),
        cached_steps=len(cached & steps.keys()),
        bases={name: bases[name] for name in build.bases},
    )
    ui.note(f"{build.tag}: {result.cached_steps} of {result.steps} steps from the cache")
    return result


def override(
    build: Build,
    engine: Engine,
    config: Config,
    bases: Mapping[str, Base],
    model: Path | None,
) -> dict[str, Any]:
    """Return what this run adds to the target of `docker-bake.hcl`, as a bake file."""
    contexts = {base.name: base.context for base in bases.values() if base.context}
    contexts["app"] = str((config.app or dockerfiles() / "app").resolve())
    if model is not None:
        contexts["model"] = str(model.resolve())
    image = config.image
    return {
        "target": {
            build.variant: {
                "contexts": contexts,
                "tags": [build.tag],
                "labels": {
                    "io.tfslim.cuda-archs": ",".join(build.cuda_archs),
                    "io.tfslim.bases": ", ".join(
                        f"{name}@{bases[name].pin}" for name in build.bases
                    ),
                },
                "network": engine.build_network,
                "secret": _secrets(config),
                "output": [
                    f"type={engine.image_output},name={build.tag},oci-mediatypes=true,"
                    f"compression={image.compression},compression-level={image.compression_level}"
                ],
            }
        }
    }


def dockerfiles() -> Path:
    """Return the folder of the Dockerfiles: beside the package in a checkout."""
    return Path(__file__).resolve().parents[3] / "dockerfiles"


def _secrets(config: Config) -> list[str]:
    """Return the BuildKit secrets: a CA bundle (the machine's own by default) and a pip.conf."""
    ca = config.secrets.ca or next(
        (Path(os.environ[name]) for name in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(name)),
        None,
    )
    found = {"ca": ca, "pip_conf": config.secrets.pip_conf}
    return [f"id={name},src={path}" for name, path in found.items() if path is not None]


def _failure(variant: str, done: proc.Completed) -> TfslimError:
    """Tell from a failed build's log what kind of failure it was."""
    tail = "\n".join(done.tail.splitlines()[-25:])
    if _NO_SPACE.search(done.tail):
        return DiskError(
            f"the disk is full while building {variant}",
            why=tail,
            way_out="Free some: `docker buildx prune`, `docker image prune`, or build fewer\n"
            "variants at a time (`tfslim build VARIANT`); `tfslim doctor` shows the figures.",
        )
    if _NO_NETWORK.search(done.tail):
        return NetworkError(
            f"a registry or package index could not be reached while building {variant}",
            why=tail,
            way_out="Check the network and proxy. Behind a private index or CA: `secrets.pip-conf`\n"
            "and `secrets.ca` in tfslim.yaml. Without a registry: `base-source: debian`.",
        )
    return BuildFailedError(
        f"the build of {variant} failed",
        why=tail,
        way_out="The end of the log is above. Correct the Dockerfile or its inputs; finished "
        "steps are kept.",
    )
