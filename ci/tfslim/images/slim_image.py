"""Slim an image: unpack it, plan and apply on its files, rewrite the layers they lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfslim import __version__
from tfslim.images.opened import unpacked_image
from tfslim.images.rewrite import Rewriting, Rewritten, rewrite_image
from tfslim.slim.apply import Outcome, apply_plan
from tfslim.slim.cold.apply import ColdCode
from tfslim.slim.plan import Plan
from tfslim.slim.planning import make_plan
from tfslim.slim.rules import Policy
from tfslim.ui import Ui

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["SlimmedImage", "plan_image", "slim_image"]

_ARCHS_LABEL = "io.tfslim.cuda-archs"
_PTX_LABEL = "io.tfslim.keep-ptx"
_PROFILE_LABEL = "io.tfslim.profile"
_VERSION_LABEL = "io.tfslim.version"


@dataclass(frozen=True)
class SlimmedImage:
    """What was planned, what came of it file by file, and the image it became.

    `host_code` is what became of libraries whose code was put aside.

    `outcome.error()` is what to end with: files that failed their proof are in the new image as
    they were in the old one.
    """

    plan: Plan
    outcome: Outcome
    rewritten: Rewritten
    host_code: tuple[ColdCode, ...] = ()


def plan_image(
    source: str,
    *,
    policy: Policy,
    client: Callable[[], DockerClient],
    scratch: Path | None = None,
    ui: Ui | None = None,
) -> Plan:
    """Say what slimming would take out of an image (a dry run); nothing is changed or kept.

    Args:
        source: An OCI layout folder, a docker or OCI archive, or an image reference.
        policy: What may go, and what must stay served.
        client: Gives the engine; called only for an image reference.
        scratch: Folder for the unpacked image.
        ui: Shows progress.

    Raises:
        TfslimError: See `rewrite.unpacked_image` and `slim.planning.make_plan`.
    """
    with unpacked_image(source, client=client, scratch=scratch, ui=ui) as opened:
        return make_plan(opened.tree.root, policy, ui=ui)


def slim_image(
    source: str,
    how: Rewriting,
    *,
    what: Policy | Plan,
    client: Callable[[], DockerClient],
    then: Callable[[Path], tuple[ColdCode, ...]] | None = None,
    ui: Ui | None = None,
) -> SlimmedImage:
    """Make a slim image from an image.

    Args:
        source: An OCI layout folder, a docker or OCI archive, or an image reference.
        how: Name, place and compression of the new image; labels that say what it serves are
            added to its own.
        what: What may go; or a plan saved earlier for the same image.
        client: Gives the engine, where one is needed.
        then: Puts host code of the slim tree aside.
        ui: Shows progress.

    Raises:
        TfslimError: See `rewrite.rewrite_image`, `planning.make_plan` and `apply.apply_plan`.
    """

    def edit(tree: Path) -> tuple[Plan, Outcome, tuple[ColdCode, ...]]:
        made = what if isinstance(what, Plan) else make_plan(tree, what, ui=ui)
        outcome = apply_plan(made, tree, ui=ui)
        return made, outcome, then(tree) if then else ()

    rewritten, (made, outcome, host_code) = rewrite_image(
        source, edit, how, labels=lambda done: _labels(done[0]), client=client, ui=ui
    )
    return SlimmedImage(made, outcome, rewritten, host_code)


def _labels(plan: Plan) -> dict[str, str]:
    """Return what the image says of itself."""
    labels = {_PROFILE_LABEL: plan.profile, _VERSION_LABEL: __version__}
    if plan.targets:
        labels[_ARCHS_LABEL] = ",".join(map(str, plan.targets))
        labels[_PTX_LABEL] = str(plan.keep_ptx).lower()
    return labels
