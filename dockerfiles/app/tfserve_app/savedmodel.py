"""Find a SavedModel on disk and say clearly when there is none. No TensorFlow needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tfserve_app.errors import ModelLoadError

__all__ = ["FROZEN_FILE", "Location", "locate", "wants_lean"]

FROZEN_FILE = "freeze.json"  # what `python -m tfserve_app.freeze` writes beside its graph
_GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt", FROZEN_FILE)
_OTHER_FORMATS = {
    ".keras": "a Keras file",
    ".h5": "a Keras HDF5 file",
    ".tflite": "a TensorFlow Lite file",
    ".onnx": "an ONNX file",
}
_EXPORT_HINT = "export it with model.export('/path/to/folder') in Keras"


@dataclass(frozen=True)
class Location:
    """A SavedModel folder and its version number as text ("1" where the folder has none)."""

    path: Path
    version: str


def wants_lean() -> bool:
    """True unless TFSLIM_LEAN=off: models are loaded without functions that no signature needs."""
    return os.environ.get("TFSLIM_LEAN", "on").strip().lower() != "off"


def locate(path: Path) -> Location:
    """Return the SavedModel at `path`, or its highest version as TensorFlow Serving lays it out.

    Raises:
        ModelLoadError: There is none; the message says what is there instead.
    """
    try:
        return _locate(path)
    except PermissionError as error:
        raise ModelLoadError(
            f"{error.filename}: cannot be read by user {os.getuid()}; allow it "
            "(chmod -R a+rX), or run the container with --user"
        ) from error


def _locate(path: Path) -> Location:
    if not path.exists():
        raise ModelLoadError(
            f"{path}: does not exist; mount a SavedModel folder there "
            "(docker run -v /my/model:/model:ro …) or set TFSLIM_MODEL_PATH"
        )
    if path.is_file():
        kind = _OTHER_FORMATS.get(path.suffix, "a file")
        raise ModelLoadError(
            f"{path}: is {kind}, and this service serves SavedModel folders; {_EXPORT_HINT}"
        )
    found = Location(path, "1") if _is_saved_model(path) else _highest_version(path)
    if found is None:
        raise ModelLoadError(
            f"{path}: is not a SavedModel (no saved_model.pb in it; found: {_listing(path)}); "
            f"{_EXPORT_HINT}"
        )
    return found


def _is_saved_model(path: Path) -> bool:
    return any((path / name).is_file() for name in _GRAPH_FILES)


def _highest_version(path: Path) -> Location | None:
    versions = [
        entry
        for entry in path.iterdir()
        if entry.name.isdecimal() and entry.is_dir() and _is_saved_model(entry)
    ]
    best = max(versions, key=lambda entry: int(entry.name), default=None)
    return None if best is None else Location(best, best.name)


def _listing(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
