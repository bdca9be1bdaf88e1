"""The zoo: models that the stock target makes once, kept for every later comparison."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tfslim.errors import ServiceError
from tfslim.parity.job import staged
from tfslim.parity.target import Script, Target
from tfslim.ui import Ui

__all__ = ["zoo_models"]

_ZOO = Path(__file__).with_name("zoo.py")
_SAYS = "zoo: "
_SECONDS = 900.0
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}  # making models needs no GPU


def zoo_models(target: Target, cache_dir: Path, ui: Ui) -> list[str]:
    """Return the paths of the zoo's models, made by a target's own TensorFlow.

    Args:
        target: Makes them where they are not there yet.
        cache_dir: Keeps them, in a folder for each version of TensorFlow, Keras and zoo.py.
        ui: Shows progress.

    Raises:
        ServiceError: The target cannot make them; with what it said.
    """
    digest = hashlib.sha256(_ZOO.read_bytes()).hexdigest()[:12]
    with staged() as job:
        said: list[str] = []
        _run(target, job.folder, ["zoo.py", "--version"], said.append)
        version = re.sub(r"[^\w.+-]", "", "".join(said)) or "unknown"
        place = cache_dir / f"{version}-{digest}"
        if not place.is_dir():
            with ui.step(f"zoo: {target.name} makes models for {version}") as step:
                _run(target, job.folder, ["zoo.py", "out/zoo"], step.update)
                _keep(job.folder / "out" / "zoo", place)
    return [str(path) for path in sorted(place.iterdir())]


def _run(target: Target, job: Path, argv: list[str], tell: Callable[[str], object]) -> None:
    def line(text: str) -> None:
        if text.startswith(_SAYS):
            tell(text.removeprefix(_SAYS))

    ended = target.run(job, Script(argv, _SECONDS, _HIDDEN), line)
    if not ended.ok:
        raise ServiceError(
            f"{target.name} cannot make the zoo of models ({ended.how})",
            why=ended.tail,
            way_out="Name models of your own instead: --model PATH",
        )


def _keep(made: Path, place: Path) -> None:
    """Put a finished zoo into the cache in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for entry in made.iterdir():
            shutil.move(entry, aside / entry.name)
        aside.chmod(0o755)
        aside.rename(place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
