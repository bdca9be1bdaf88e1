"""Build a Dockerfile of the user's own, as its author would, with the local cache beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tfslim.build.bake import bake_cached, build_failure, engine_output
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
    digest, _ = bake_cached(
        engine,
        build.name,
        {"target": {build.name: bake_target(build, config)}},
        title=f"build {build.dockerfile}",
        cache=LocalCache(config.cache),
        logs=logs,
        ui=ui,
        variables={},
        ours=False,
        failure=_failure(build),
    )
    return digest


def bake_target(build: OwnBuild, config: Config) -> dict[str, Any]:
    """Return the build as a target of bake."""
    target: dict[str, Any] = {
        "context": str(build.context.resolve()),
        "dockerfile": str(build.dockerfile.resolve()),
        "args": dict(build.args),
        "tags": [build.tag],
        "output": [engine_output(config)],
    }
    return {**target, "target": build.target} if build.target else target


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
