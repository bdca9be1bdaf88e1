"""`tfslim build`: its options, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import click

from tfslim.build.bake import BuiltImage
from tfslim.build.push import PushedImage, with_push
from tfslim.cli_options import gathered
from tfslim.config import Config
from tfslim.pipeline import Line

__all__ = ["Result", "Wish", "options", "perform"]


@dataclass(frozen=True)
class Wish:
    """What the options say.

    Attributes:
        push: Send the images to a registry.
        repository: Where to, in place of `push.repository`.
        tags: In place of `push.tags`.
        builder: In place of `builder`.
    """

    push: bool = False
    repository: str | None = None
    tags: tuple[str, ...] = ()
    builder: str | None = None

    def over(self, config: Config) -> Config:
        """Return the configuration with these values put over its own.

        Raises:
            ConfigError: The destination of a push cannot be used, or there is none.
        """
        if self.builder:
            config = config.model_copy(update={"builder": self.builder})
        return with_push(config, self.repository, self.tags) if self.push else config


@dataclass(frozen=True)
class Result:
    """What was built, and what was pushed of it."""

    built: list[BuiltImage]
    pushed: list[PushedImage] = field(default_factory=list)

    def as_data(self) -> list[dict[str, Any]]:
        """Return it as --json prints it: an image has `pushed` where it was."""
        data = [image.model_dump(mode="json") for image in self.built]
        for item, pushed in zip(data, self.pushed, strict=False):
            item["pushed"] = {**pushed.model_dump(mode="json"), "pinned": pushed.pinned}
        return data

    def lines(self) -> list[str]:
        """Return it for a person."""
        return [
            *(
                f"{image.build.tag}  {image.seconds:.1f} s, "
                f"{image.cached_steps} of {image.steps} steps from the cache"
                for image in self.built
            ),
            *(line for pushed in self.pushed for line in _pushed_lines(pushed)),
        ]


def perform(line: Line, wish: Wish) -> Result:
    """Build, and push where that is wanted.

    Raises:
        TfslimError: See the rooms this passes through.
    """
    if wish.push:
        line.check_push()
    built = line.build()
    return Result(built, line.push(built) if wish.push else [])


def _pushed_lines(pushed: PushedImage) -> list[str]:
    return [
        *(f"pushed {reference}" for reference in pushed.references),
        f"       {pushed.pinned}",
        f"       attested: {', '.join(pushed.attestations) or 'nothing'}; for "
        f"{pushed.annotations.get('io.tfslim.compute-capabilities', 'all')}",
        *(f"       {note}" for note in pushed.notes),
    ]


_OPTIONS = (
    click.option(
        "--push",
        is_flag=True,
        help="Push what was built to push.repository, with zstd layers and attestations.",
    ),
    click.option(
        "--push-to",
        "repository",
        metavar="REPOSITORY",
        help="The same, to REPOSITORY/VARIANT; {variant} in it puts the name elsewhere.",
    ),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="Tag in the registry, in place of push.tags; repeat it for more. -sm90 is added "
        "where an image is for these GPUs alone.",
    ),
    click.option(
        "--builder",
        metavar="NAME|ADDRESS",
        help="In place of builder: a builder of buildx, or tcp://…, unix://…, kubernetes://…",
    ),
)


def _wish(
    *, push: bool, repository: str | None, tags: tuple[str, ...], builder: str | None
) -> Wish:
    return Wish(push or repository is not None, repository, tags, builder)


options = gathered("wish", _wish, _OPTIONS)
"""Give the verb `build` these options; it gets them as `wish`."""
