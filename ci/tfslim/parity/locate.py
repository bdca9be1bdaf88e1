"""From a command line argument to a target."""

from __future__ import annotations

from collections.abc import Callable

from docker import DockerClient

from tfslim.errors import InputError
from tfslim.images.inspect import source_kind
from tfslim.parity.containers import ImageTarget
from tfslim.parity.target import Target
from tfslim.parity.trees import tree_target

__all__ = ["find_target"]


def find_target(source: str, client: Callable[[], DockerClient]) -> Target:
    """Return what a command line argument names.

    Args:
        source: A virtual environment, an unpacked root file system, or an image of the engine.
        client: Gives the engine; called only for an image.

    Raises:
        InputError: It is none of these, or nothing in it can run.
        EngineError: It is no folder, and there is no engine to ask for an image.
    """
    match source_kind(source):
        case "engine" if source.startswith(("/", ".", "~")):
            raise InputError(
                f"there is no {source}", way_out="Name a folder, or an image as NAME:TAG."
            )
        case "directory":
            return tree_target(source)
        case "engine":
            image = ImageTarget(source, client)
            image.check()
            return image
        case _:
            raise InputError(
                f"{source} is an archive: nothing can run in it",
                way_out="Load it into the engine (docker load -i FILE) and name the image.",
            )
