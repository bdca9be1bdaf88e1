"""Find out which host code models run: run them where all of it is brought back on touch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tfslim.errors import ServiceError
from tfslim.models import is_frozen
from tfslim.parity.job import Job, find_model, staged
from tfslim.parity.probing import Probed, Settings, probe_target
from tfslim.parity.target import Target
from tfslim.parity.trees import tree_target
from tfslim.parity.zoos import zoo_models
from tfslim.ui import Ui

__all__ = ["touched_pages"]

_LOG = "out/touched.txt"
_SETTINGS = Settings(seeds=1, backend="auto", env=(("TFSLIM_COLD_LOG", _LOG),))
_NATIVE = replace(_SETTINGS, backend="capi")


def touched_pages(tree: Path, models: Sequence[str], state: Path, ui: Ui, *, zoo: bool) -> set[int]:
    """Return the addresses of pages that are touched by starting and by running models.

    Args:
        tree: Where they run, prepared by `slim.cold.apply`.
        models: As `tfslim verify` takes them.
        state: Folder that keeps the zoo and demonstration models.
        ui: Shows progress.
        zoo: Run the zoo, too, where the tree can make it.

    Raises:
        ServiceError: TensorFlow does not run in the tree any more.
        ModelError: A model cannot be used.
    """
    target = tree_target(str(tree))
    sources = [*models, *(_zoo(target, state, ui) if zoo else [])]
    if not sources:
        ui.note("there is no model to look at: all host code starts cold")
        return set()
    found = [find_model(source, state / "models", ui) for source in sources]
    with staged(found) as job:
        with ui.step("Looking which code models run") as step:
            for part, settings, label in _parts(job):
                _check(tree, probe_target(target, part, settings, step.update, label=label))
        log = job.folder / _LOG
        lines = log.read_text(encoding="ascii").split() if log.is_file() else []
    if not lines:
        raise _broken(tree, "No code was touched.")
    return {int(line, 16) for line in lines}


def _parts(job: Job) -> Iterator[tuple[Job, Settings, str]]:
    """Yield what is run together, how, and a label: frozen models through the C API alone."""
    frozen = {path for path in job.models if is_frozen(job.folder / path)}
    for chosen, settings, label in (
        (tuple(path for path in job.models if path not in frozen), _SETTINGS, "touch"),
        (tuple(path for path in job.models if path in frozen), _NATIVE, "touch-frozen"),
    ):
        if chosen:
            yield replace(job, models=chosen), settings, label


def _check(tree: Path, probed: Probed) -> None:
    """Refuse a tree in which a model's process ended before it was done."""
    died = [why for why in probed.answers.values() if isinstance(why, str)]
    if died or probed.environment is None:
        raise _broken(tree, died[0] if died else probed.tail)


def _broken(tree: Path, why: str) -> ServiceError:
    return ServiceError(
        f"{tree} does not run models with its code put aside",
        why=why,
        way_out="Leave out --host-code cold, and please report this.",
    )


def _zoo(target: Target, state: Path, ui: Ui) -> list[str]:
    """Return the zoo, or nothing where the tree has no Python TensorFlow to make it with."""
    try:
        return zoo_models(target, state / "zoo", ui)
    except ServiceError:
        return []
