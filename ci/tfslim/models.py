"""The model that is served: find it, check that it is one SavedModel, hand it to a build.

Or a frozen model: the folder that `python -m tfserve_app.freeze` writes. Only the service's native
backend serves it (`backend: capi`); `tfslim.plan` refuses it elsewhere.

One format is kept. Models often come with duplicates for other runtimes beside the SavedModel
(.tflite, .onnx, Core ML); they are reported, and left out when a model is baked into an image.
Nothing is fetched at run time: the demonstration model comes from the Python package index while
the images are built, with its digest pinned.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn

from tfslim import proc
from tfslim.errors import ModelError, NetworkError
from tfslim.ui import Ui, human_bytes

__all__ = [
    "FROZEN_FILE",
    "Leftover",
    "Model",
    "ModelFormat",
    "bake_context",
    "is_frozen",
    "mobilenet_command",
    "names_frozen",
    "resolve_model",
]

ModelFormat = Literal["SavedModel", "frozen model"]
FROZEN_FILE = "freeze.json"
"""Describes a frozen model; a folder that has it is one, whatever else is in it."""

_GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
# https://www.tensorflow.org/guide/saved_model#the_savedmodel_format_on_disk
_SAVED_MODEL_ENTRIES = frozenset(
    {*_GRAPH_FILES, "variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb"}
)
# What `python -m tfserve_app.freeze` writes (a test keeps names and number equal).
_FROZEN_GRAPH = "frozen_graph.pb"
_FROZEN_FORMAT = 1
_ENTRIES: dict[ModelFormat, frozenset[str]] = {
    "SavedModel": _SAVED_MODEL_ENTRIES,
    "frozen model": frozenset({FROZEN_FILE, _FROZEN_GRAPH}),
}
_FORMATS = {
    ".h5": "Keras HDF5",
    ".hdf5": "Keras HDF5",
    ".keras": "Keras",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".onnx": "ONNX",
    ".pb": "frozen graph",
    ".tflite": "TensorFlow Lite",
}
_EXPORT = (
    "The service serves SavedModel folders. From Keras, export one with:\n"
    "  keras.models.load_model('model.keras').export('saved_model_folder')\n"
    "or try a demonstration model: demo:basic-pitch, demo:mobilenet"
)

_BASIC_PITCH = "basic-pitch==0.4.0"
_BASIC_PITCH_WHEEL = "basic_pitch-0.4.0-py2.py3-none-any.whl"
_BASIC_PITCH_SHA256 = "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"
_BASIC_PITCH_FOLDER = PurePosixPath("basic_pitch/saved_models/icassp_2022")
_BASIC_PITCH_MODEL = "nmp"
_MOBILENET_FOLDER = "mobilenet-v2-seed0-normalised"


@dataclass(frozen=True)
class Leftover:
    """Something beside a model that serving it does not need.

    Attributes:
        name: File or folder name.
        format: What it is ("ONNX"), or "other".
        bytes: Its size.
    """

    name: str
    format: str
    bytes: int


@dataclass(frozen=True)
class Model:
    """A SavedModel, or a frozen model, on disk.

    Attributes:
        name: Name it is served under, where the configuration gives none.
        source: What the user asked for.
        path: Its folder.
        format: Which of the two it is.
        bytes: Size of what belongs to it.
        duplicates: The same model in other formats, found beside it or inside its folder.
    """

    name: str
    source: str
    path: Path
    format: ModelFormat
    bytes: int
    duplicates: tuple[Leftover, ...]


def resolve_model(source: str, cache_dir: Path, ui: Ui) -> Model:
    """Return the model that `source` names.

    Args:
        source: The folder of a SavedModel or of a frozen model (or a folder of numbered versions),
            `demo:basic-pitch` or `demo:mobilenet`.
        cache_dir: Folder in which demonstration models are kept.
        ui: Where notes go.

    Raises:
        ModelError: There is no model there; the message says what is.
        NetworkError: The demonstration model cannot be fetched.
    """
    match source:
        case "demo:basic-pitch":
            model = _basic_pitch(cache_dir, ui)
        case "demo:mobilenet":
            model = _mobilenet(cache_dir)
        case _ if source.startswith("demo:"):
            raise ModelError(
                f"unknown demonstration model {source!r}",
                way_out="There are demo:basic-pitch and demo:mobilenet.",
            )
        case _:
            model = _at_path(source, ui)
    if model.duplicates:
        others = _say(model.duplicates)
        ui.note(f"model {model.name}: not needed beside the {model.format}: {others}")
    return model


def bake_context(model: Model, dest: Path) -> tuple[Leftover, ...]:
    """Copy a model, and only it, into a build context; return what was left out.

    `dest` is replaced as a whole once the copy is complete. Files become readable by everyone,
    because images run the service as a user of their own.
    """
    kept = _ENTRIES[model.format]
    with _written_aside(dest) as fresh:
        for entry in sorted(model.path.iterdir()):
            if entry.name in kept:
                _copy(entry, fresh / entry.name)
    inside = [entry for entry in model.path.iterdir() if entry.name not in kept]
    dropped = {item.name: item for item in (*map(_leftover, inside), *model.duplicates)}
    return tuple(dropped[name] for name in sorted(dropped))


def is_frozen(folder: Path) -> bool:
    """Return whether a folder holds a frozen model; the service tells them apart the same way."""
    return (folder / FROZEN_FILE).is_file()


def names_frozen(source: str) -> bool:
    """Return whether `source` names a frozen model; False for what cannot be read or is none."""
    path = Path(source)
    with suppress(OSError):
        return is_frozen(path if _is_model(path) else _highest_version(path) or path)
    return False


def mobilenet_command(out: str) -> list[str]:
    """Return the command that writes `demo:mobilenet`, for a container of any of our images.

    Args:
        out: Where the model cache folder of `resolve_model` is mounted in the container,
            writable for the user it runs as.
    """
    return ["python", "/app/make_mobilenet.py", f"{out}/{_MOBILENET_FOLDER}"]


def _mobilenet(cache_dir: Path) -> Model:
    path = cache_dir / _MOBILENET_FOLDER
    if not _is_model(path):
        command = " ".join(mobilenet_command("/out"))
        raise ModelError(
            "the demonstration model demo:mobilenet has not been generated yet",
            why=f"{path} does not exist. TensorFlow generates it, inside one of the images.",
            way_out="Build an image, then:\n"
            f"  docker run --rm --user 0 -v {cache_dir}:/out IMAGE {command}",
        )
    return _model("mobilenet", "demo:mobilenet", path, ())


def _basic_pitch(cache_dir: Path, ui: Ui) -> Model:
    """Return Spotify's basic-pitch (Apache-2.0), a small real model, from PyPI."""
    folder = cache_dir / "basic-pitch-0.4.0"
    path = folder / _BASIC_PITCH_MODEL
    wheel = folder / _BASIC_PITCH_WHEEL
    if not (wheel.is_file() and _is_model(path)):
        with _written_aside(folder) as fresh:
            _download(fresh, ui)
            _extract(fresh / _BASIC_PITCH_WHEEL, fresh / _BASIC_PITCH_MODEL)
    return _model("basic-pitch", "demo:basic-pitch", path, _duplicates_in(wheel))


def _download(folder: Path, ui: Ui) -> None:
    """Fetch the wheel with pip, so that the user's own index and CA settings count."""
    argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    # Only files are taken from it; it is never installed, so its Python versions do not matter.
    argv += ["--ignore-requires-python", "--dest", str(folder), _BASIC_PITCH]
    with ui.step(f"fetching the demonstration model ({_BASIC_PITCH})") as step:
        done = proc.stream(argv, step.update)
    wheel = folder / _BASIC_PITCH_WHEEL
    if not done.ok or not wheel.is_file():
        raise NetworkError(
            f"the demonstration model {_BASIC_PITCH} cannot be fetched",
            why=done.tail,
            way_out="Check pip's index and certificate settings (pip config list), or serve a "
            "model of your own:\n  model.source: path/to/saved_model",
        )
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != _BASIC_PITCH_SHA256:
        raise ModelError(
            f"{_BASIC_PITCH_WHEEL} is not the file that is pinned",
            why=f"sha256 expected {_BASIC_PITCH_SHA256}\n         received {found}",
            way_out="Check the package index that pip uses (pip config list).",
        )


def _extract(wheel: Path, dest: Path) -> None:
    """Unpack the SavedModel, and nothing else, from the (verified) wheel."""
    prefix = f"{_BASIC_PITCH_FOLDER / _BASIC_PITCH_MODEL}/"
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix) and not entry.is_dir():
                target = dest / entry.filename.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))


def _duplicates_in(wheel: Path) -> tuple[Leftover, ...]:
    """Return what the wheel has beside its SavedModel."""
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_relative_to(_BASIC_PITCH_FOLDER):
                sizes[path.relative_to(_BASIC_PITCH_FOLDER).parts[0]] += entry.file_size
    del sizes[_BASIC_PITCH_MODEL]
    return tuple(Leftover(name, _format(name), sizes[name]) for name in sorted(sizes))


def _at_path(source: str, ui: Ui) -> Model:
    """Return the model in a folder of the user's."""
    try:
        path = _model_at(Path(source), ui)
        return _model(_name(path), source, path, _duplicates_of(path))
    except OSError as error:
        raise ModelError(
            f"the model at {source} cannot be read",
            why=f"{error.filename}: {error.strerror}",
            way_out=f"chmod -R a+rX {source}",
        ) from error


def _model_at(path: Path, ui: Ui) -> Path:
    """Return the model's folder at a path a user gave."""
    if not path.exists():
        raise ModelError(f"the model path {path} does not exist", way_out=_EXPORT)
    if path.is_file():
        raise ModelError(
            f"{path} is not a SavedModel folder",
            why=f"It is a file ({_FORMATS.get(path.suffix, 'unknown format')}).",
            way_out=_EXPORT,
        )
    if not _is_model(path):
        path = _highest_version(path) or _refuse(path)
        ui.note(f"serving version {path.name} of {path.parent}")
    _check_complete(path, ui)
    return path


def _highest_version(path: Path) -> Path | None:
    """Return the newest of the numbered versions that TensorFlow Serving's layout has."""
    versions = [entry for entry in path.iterdir() if entry.name.isdecimal()]
    return max(filter(_is_model, versions), key=lambda entry: int(entry.name), default=None)


def _refuse(path: Path) -> NoReturn:
    """Say what a folder that is no SavedModel holds instead."""
    entries = sorted(path.iterdir())
    inside = [entry for entry in entries if _is_model(entry)]
    others = [_leftover(entry) for entry in entries if entry.suffix in _FORMATS]
    names = ", ".join(entry.name for entry in entries[:8]) or "nothing"
    why = [f"It has no saved_model.pb. In it: {names}{', …' if len(entries) > 8 else ''}"]
    if others:
        why.append(f"Other formats, which the service does not serve: {_say(others)}")
    raise ModelError(
        f"{path} is not a SavedModel folder",
        why="\n".join(why),
        way_out=f"Did you mean {inside[0]}?" if inside else _EXPORT,
    )


def _check_complete(path: Path, ui: Ui) -> None:
    """Refuse a copy that has lost a part; warn where a part may be missing on purpose."""
    if is_frozen(path):
        _check_frozen(path)
        return
    variables = path / "variables"
    if not variables.is_dir():
        ui.warn(f"{path} has no variables folder; right only for a model without weights")
        return
    has_index = (variables / "variables.index").is_file()
    if has_index != any(variables.glob("variables.data-*")):
        missing = "variables.data-…" if has_index else "variables.index"
        raise ModelError(
            f"{path} is not a complete SavedModel",
            why=f"{variables} has no {missing}.",
            way_out="Copy the whole folder again, or export the model again.",
        )


def _check_frozen(path: Path) -> None:
    """Refuse a frozen model that the service would not load."""
    again = "Copy the whole folder again, or freeze the model again: docs/native-backend.md."
    if not (path / _FROZEN_GRAPH).is_file():
        raise ModelError(
            f"{path} is not a complete frozen model",
            why=f"It has a {FROZEN_FILE} and no {_FROZEN_GRAPH}.",
            way_out=again,
        )
    try:
        found = json.loads((path / FROZEN_FILE).read_text(encoding="utf-8"))["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != _FROZEN_FORMAT:
        raise ModelError(
            f"{path} is not a frozen model that the service reads",
            why=f"{FROZEN_FILE} has format {found!r}, expected {_FROZEN_FORMAT}.",
            way_out=again,
        )


def _duplicates_of(path: Path) -> tuple[Leftover, ...]:
    """Return other formats of the same model: inside its folder, or beside it by the same name."""
    kept = _ENTRIES[_format_of(path)]
    inside = [entry for entry in path.iterdir() if entry.name not in kept]
    beside = [entry for entry in path.absolute().parent.iterdir() if entry.stem == path.name]
    return tuple(
        _leftover(entry) for entry in sorted((*inside, *beside)) if entry.suffix in _FORMATS
    )


def _model(name: str, source: str, path: Path, duplicates: tuple[Leftover, ...]) -> Model:
    found = _format_of(path)
    kept = [entry for entry in path.iterdir() if entry.name in _ENTRIES[found]]
    return Model(name, source, path, found, sum(map(_size, kept)), duplicates)


def _name(path: Path) -> str:
    """Return a name fit for a URL; a version's number is not one."""
    path = path.absolute()
    text = path.parent.name if path.name.isdecimal() else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"


def _is_model(path: Path) -> bool:
    return any((path / name).is_file() for name in (*_GRAPH_FILES, FROZEN_FILE))


def _format_of(path: Path) -> ModelFormat:
    return "frozen model" if is_frozen(path) else "SavedModel"


def _leftover(path: Path) -> Leftover:
    return Leftover(path.name, _format(path.name), _size(path))


def _format(name: str) -> str:
    return _FORMATS.get(PurePosixPath(name).suffix, "other")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _say(items: Iterable[Leftover]) -> str:
    return ", ".join(f"{item.name} ({item.format}, {human_bytes(item.bytes)})" for item in items)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, following links (mounted models are often made of them)."""
    if source.is_dir():
        target.mkdir()
        for entry in source.iterdir():
            _copy(entry, target / entry.name)
        target.chmod(0o755)
    else:
        shutil.copyfile(source, target)
        target.chmod(0o644)


@contextmanager
def _written_aside(dest: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `dest` at the end, or vanishes on an error."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        if dest.exists():
            shutil.rmtree(dest)
        fresh.rename(dest)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
