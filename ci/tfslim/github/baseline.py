"""What a run is compared with: an earlier run's artifact, the merge base built here, a file.

A baseline that is missing is said, in the report and in the log; it is never an error.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tfslim import proc
from tfslim.config import Config
from tfslim.errors import ConfigError, TfslimError
from tfslim.github.event import Event
from tfslim.github.inputs import Inputs, configuration
from tfslim.github.measured import Made, Wanted
from tfslim.report.baseline import Found, find_baseline
from tfslim.report.compare import BaselineInfo
from tfslim.ui import Ui

__all__ = ["Search", "commit_before", "find", "worktree"]

_SECONDS: Final = 120.0
_DEEPER: Final = (
    "this clone has not the commits that say which it is; give actions/checkout `fetch-depth: 2` "
    "for pull requests, `fetch-depth: 0` for all else"
)


@dataclass(frozen=True)
class Search:
    """What a baseline is looked for with.

    Attributes:
        wanted: The job whose run is compared.
        event: What started it.
        measure: Measures the same elsewhere, for `build`.
        earlier: Fetches the record of an earlier run, for `auto`.
    """

    wanted: Wanted
    event: Event
    measure: Callable[[Wanted, Ui], Made]
    earlier: Callable[[], Found]


def find(search: Search, ui: Ui) -> Found | None:
    """Return the baseline that the inputs, or else the configuration, ask for; None for none."""
    place = search.wanted.inputs.baseline
    if place == "auto":
        place = search.wanted.config.baseline or place
    if place == "none":
        return None
    try:
        if place == "auto":
            found = search.earlier()
        elif place == "build":
            found = _built(search, ui)
        else:
            found = find_baseline(place)
    except TfslimError as error:
        why = " ".join(f"{error.what}. {error.why}".split())[:500]
        found = None, BaselineInfo(source=place, found=False, note=f"No baseline: {why}")
    if not found[1].found:
        ui.warn(found[1].note)
    return found


def commit_before(event: Event) -> tuple[str, str]:
    """Return the commit that a checkout is compared with, and what it is.

    A pull request is checked out as a merge that GitHub made: its other parent is the branch that
    the request is for. A push is compared with what was there before it.

    Raises:
        ConfigError: Nobody can tell, as a rule because the clone is too shallow.
    """
    request = event.pull_request
    if request is not None:
        parents = _git("rev-parse", "HEAD^@").split()
        others = [commit for commit in parents if commit != request.head_sha]
        if len(parents) == 2 and len(others) == 1:
            return others[0], f"{request.base_ref or 'the base'}"
        base = _git("merge-base", "HEAD", request.base_sha) if request.base_sha else ""
        name = f"the merge base with {request.base_ref or 'the base'}"
    else:
        known = "HEAD^" if event.before.startswith("-") else event.before or "HEAD^"
        base = _git("rev-parse", "--verify", f"{known}^{{commit}}")
        name = "the commit before"
    if not base:
        raise ConfigError("the commit to compare with is not known", why=_why_unknown())
    return base, name


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out beside this one, in a folder that vanishes at the end.

    Raises:
        ConfigError: Git refuses.
    """
    with tempfile.TemporaryDirectory(prefix="tfslim-base-") as scratch:
        folder = Path(scratch, "tree")
        made = proc.run(
            ["git", "worktree", "add", "--detach", str(folder), commit], timeout=_SECONDS
        )
        if not made.ok:
            raise ConfigError(f"{commit[:12]} cannot be checked out", why=made.tail)
        try:
            yield folder
        finally:
            proc.run(["git", "worktree", "remove", "--force", str(folder)], timeout=_SECONDS)


def _built(search: Search, ui: Ui) -> Found:
    """Measure the commit before, in the same way, on the same machine."""
    inputs = search.wanted.inputs
    if inputs.image:
        raise ConfigError(
            f"{inputs.image} is named, not built: at the commit before it is the same image"
        )
    commit, name = commit_before(search.event)
    shown = f"{name} ({commit[:12]}), built here"
    ui.note(f"baseline: {shown}")
    here, kept = Path.cwd(), _kept(search.wanted.config)
    with worktree(commit) as folder, contextlib.chdir(folder):
        there = _seen_from(inputs, here)
        config = configuration(there)
        config = config.model_copy(
            update={
                **kept,
                "image": config.image.model_copy(
                    update={"repository": f"{config.image.repository}-base"}
                ),
            }
        )
        wanted = replace(search.wanted, inputs=there, config=config, version="base")
        with tempfile.TemporaryDirectory(prefix="tfslim-") as scratch:
            made = search.measure(replace(wanted, folder=Path(scratch)), ui)
    where = made.record.environment
    info = BaselineInfo(
        source=shown,
        found=True,
        started=made.record.started,
        commit=commit,
        machine=where.machine_key,
        tfslim=where.tfslim,
    )
    return made.record, info


def _kept(config: Config) -> dict[str, Any]:
    """Return what of this checkout's configuration holds for another's: cache and secrets."""

    def at(path: Path | None) -> Path | None:
        return path.absolute() if path else None

    secrets = {"ca": at(config.secrets.ca), "pip_conf": at(config.secrets.pip_conf)}
    return {
        "cache": config.cache.model_copy(update={"dir": config.cache.dir.absolute()}),
        "secrets": config.secrets.model_copy(update=secrets),
    }


def _seen_from(inputs: Inputs, here: Path) -> Inputs:
    """Return inputs for another checkout: what is in no commit is taken from here.

    Raises:
        ConfigError: The Dockerfile or its context is not there yet.
    """
    if inputs.dockerfile and not (inputs.dockerfile.is_file() and inputs.context.is_dir()):
        raise ConfigError(f"{inputs.dockerfile} is new: the commit before does not build it")
    config = inputs.config if inputs.config and inputs.config.is_file() else None

    def at(path: Path) -> Path:
        return path if path.exists() else here / path

    return replace(
        inputs,
        config=config,
        model=str(at(Path(inputs.model)))
        if inputs.model and not inputs.model.startswith("demo:")
        else inputs.model,
        trace_input=tuple(map(at, inputs.trace_input)),
    )


def _why_unknown() -> str:
    """Return why git knows no commit before this one."""
    asked = proc.run(["git", "rev-parse", "--is-shallow-repository", "HEAD"], timeout=_SECONDS)
    if not asked.ok:
        return asked.tail  # no repository, or one of somebody else (safe.directory)
    return _DEEPER if asked.stdout.startswith("true") else "this is the first commit"


def _git(*arguments: str) -> str:
    """Return what git says; nothing where it fails."""
    done = proc.run(["git", *arguments], timeout=_SECONDS)
    return done.stdout.strip() if done.ok else ""
