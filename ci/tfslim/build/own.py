"""Build a Dockerfile of the user's own, as its author would, with the local cache beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tfslim.build.bake import BuildLog, build_failure, run_bake
from tfslim.build.cache import LocalCache
from tfslim.config import Config
from tfslim.engine.engine import Engine
from tfslim.errors import BuildFailedError, TfslimError
from tfslim.ui import Ui

__all__ = ["OwnBuild", "bake_target", "build_own"]

_LOGS: Final = Path(".tfslim/logs")


@dataclass(frozen=True)
class OwnBuild:
    """What is built.

    Attributes:
        name: What it is called, in the log and as its cache's folder: letters, digits, - and _.
        tag: Reference that the image gets in the engine.
        dockerfile: The Dockerfile.
        context: The folder that it copies from.
        target: A stage; None for the last one.
        args: Build arguments.
    """

    name: str
    tag: str
    dockerfile: Path
    context: Path
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)


def build_own(
    engine: Engine, build: OwnBuild, config: Config, ui: Ui, *, logs: Path = _LOGS
) -> str:
    """Build it, leave the image in the engine, and return its digest.

    Args:
        engine: What to build with.
        build: What is built.
        config: For image and cache settings.
        ui: Shows progress.
        logs: Folder for the whole log; outside of what the Dockerfile copies, or the log is.

    Raises:
        BuildFailedError: A step failed; with the end of the log.
        DiskError: The engine ran out of disk.
        NetworkError: A registry or package index could not be reached.
    """
    cache = LocalCache(config.cache)
    usable = cache.usable(engine, ui)
    target = bake_target(build, config)
    if usable:
        target["cache-from"] = cache.sources(build.name)
    definition = {"target": {build.name: target}}
    with ui.step(f"build {build.dockerfile}") as step:
        log = BuildLog(step, logs / f"{build.name}.log")
        digest = _bake(engine, build, definition, log)
    ui.note(f"{build.tag}: {len(log.cached & log.steps)} of {len(log.steps)} steps from the cache")
    # A second, fully cached run exports the cache, so that an unchanged image exports nothing.
    if usable and not cache.holds(build.name, digest):
        with (
            ui.step(f"export the cache of {build.name}") as step,
            cache.export(build.name, digest) as destination,
        ):
            target["cache-to"], target["output"] = [destination], ["type=cacheonly"]
            _bake(engine, build, definition, BuildLog(step, logs / f"{build.name}-cache.log"))
    return digest


def bake_target(build: OwnBuild, config: Config) -> dict[str, Any]:
    """Return the build as a target of bake."""
    image = config.image
    target: dict[str, Any] = {
        "context": str(build.context.resolve()),
        "dockerfile": str(build.dockerfile.resolve()),
        "args": dict(build.args),
        "tags": [build.tag],
        "output": [
            f"type=docker,oci-mediatypes=true,compression={image.compression},"
            f"compression-level={image.compression_level}"
        ],
    }
    return {**target, "target": build.target} if build.target else target


def _bake(engine: Engine, build: OwnBuild, definition: dict[str, Any], log: BuildLog) -> str:
    made = run_bake(
        engine, build.name, definition, log, variables={}, ours=False, failure=_failure(build)
    )
    return str(made.get("containerimage.digest", ""))


def _failure(build: OwnBuild) -> Any:
    """Return what makes an error of a failed build: ours, with the way out of another's file."""

    def failure(name: str, said: str, log: Path) -> TfslimError:
        error = build_failure(name, said, log)
        if not isinstance(error, BuildFailedError):
            return error
        return BuildFailedError(
            f"the build of {build.dockerfile} failed",
            why=error.why,
            way_out="The end of its log is above. Builds that need secrets or special settings: "
            "build the image yourself\nin a step before this one, and name it with `image`.",
        )

    return failure
