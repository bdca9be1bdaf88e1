"""A job: one folder with all that a script of the gate needs, the same for every target."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfslim.errors import InputError, ModelError
from tfslim.models import Model, bake_context, resolve_model
from tfslim.ui import Ui

__all__ = ["Job", "ModelFile", "find_model", "frozen_among", "staged"]

_HERE = Path(__file__).parent
_SCRIPTS = ("probe.py", "native.py", "recorder.py", "zoo.py")
# The service, whose native backend native.py asks: packed beside it, or in the checkout.
_SERVICE = "tfserve_app"
_KERAS_SUFFIX = ".keras"


@dataclass(frozen=True)
class ModelFile:
    """A .keras file."""

    name: str
    path: Path


@dataclass(frozen=True)
class Job:
    """A staged job.

    Attributes:
        folder: Where it lies; scripts are in it, and write into its folder `out`.
        models: Their paths, relative to the folder; the last part is unique.
        inputs: Paths of files with real inputs, likewise.
    """

    folder: Path
    models: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


def find_model(source: str, cache_dir: Path, ui: Ui) -> Model | ModelFile:
    """Return the model that `source` names: as `resolve_model` does, or a .keras file.

    Raises:
        ModelError: There is no model there.
        NetworkError: A demonstration model cannot be fetched.
    """
    path = Path(source)
    if path.suffix == _KERAS_SUFFIX and path.is_file():
        return ModelFile(path.name, path)
    return resolve_model(source, cache_dir, ui)


def frozen_among(models: Sequence[Model | ModelFile]) -> tuple[str, ...]:
    """Return the names of frozen models, which only TensorFlow's C API loads."""
    return tuple(
        model.name
        for model in models
        if isinstance(model, Model) and model.format == "frozen model"
    )


@contextmanager
def staged(models: Sequence[Model | ModelFile] = (), inputs: Sequence[Path] = ()) -> Iterator[Job]:
    """Give a job with copies of models and inputs; it vanishes at the end.

    Raises:
        ModelError: A model cannot be read.
        InputError: An input file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="tfslim-parity-") as name:
        folder = Path(name)
        for script in _SCRIPTS:
            if (_HERE / script).is_file():
                shutil.copyfile(_HERE / script, folder / script)
        shutil.copytree(_service(), folder / _SERVICE, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("models", "inputs", "out"):
            (folder / part).mkdir()
        yield Job(
            folder,
            tuple(_stage_model(model, folder / "models") for model in models),
            tuple(_stage_input(path, folder / "inputs") for path in inputs),
        )


def _service() -> Path:
    packed = _HERE / _SERVICE
    return packed if packed.is_dir() else _HERE.parents[2] / "dockerfiles" / "app" / _SERVICE


def _stage_model(model: Model | ModelFile, into: Path) -> str:
    place = _free(into, model.name)
    try:
        if isinstance(model, ModelFile):
            shutil.copyfile(model.path, place)
        else:
            bake_context(model, place)
    except PermissionError as error:
        raise ModelError(
            f"the model at {model.path} cannot be read", why=str(error), way_out="chmod -R a+rX"
        ) from error
    return f"{into.name}/{place.name}"


def _stage_input(path: Path, into: Path) -> str:
    place = _free(into, path.name)
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                file[name]  # reading is the test: objects would have to be unpickled
        shutil.copyfile(path, place)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"the inputs {path} cannot be read",
            why=str(error),
            way_out="Write them with numpy.savez(FILE, input_name=array, …), without objects.",
        ) from error
    return f"{into.name}/{place.name}"


def _free(folder: Path, name: str) -> Path:
    """Return a path in a folder that nothing has yet, as near to a name as can be."""
    stem, suffix = Path(name).stem, Path(name).suffix
    names = (name, *(f"{stem}-{number}{suffix}" for number in range(2, 1000)))
    return next(folder / each for each in names if not (folder / each).exists())
