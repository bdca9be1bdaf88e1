"""`python -m tfserve_app`: check what can be checked at once, then serve."""

from __future__ import annotations

import gc
import os
import time

FIRST_LINE = time.monotonic()
# Next to nothing that a start makes is garbage; `server` turns it on again once the model is warm.
if os.environ.get("TFSLIM_GC", "on").strip().lower() != "off":
    gc.disable()

# The clock is read, and the collector rests, before anything else is imported.
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from tfserve_app import process  # noqa: E402
from tfserve_app.errors import ModelLoadError, SettingsError  # noqa: E402
from tfserve_app.savedmodel import locate  # noqa: E402
from tfserve_app.settings import Settings  # noqa: E402

if TYPE_CHECKING:  # it would import NumPy before a wrong setting is told
    from tfserve_app.backend import Backend


def main() -> None:
    """Read the settings, find the model, serve it; exit codes are those of `process`."""
    process.handle_signals()
    marks = {"process_start": process.process_start(), "first_line": FIRST_LINE}
    try:
        settings = Settings.from_env()
        location = locate(settings.model_path)
        open_backend = _opener(settings.backend, location.path)
    except SettingsError as error:
        process.fail(str(error), process.EXIT_SETTINGS)
    except ModelLoadError as error:
        process.fail(f"model cannot be served: {error}", process.EXIT_MODEL)
    # Not at the top: a wrong setting or path is told before these are imported.
    from tfserve_app.server import serve  # noqa: PLC0415

    marks["http_imported"] = time.monotonic()

    serve(settings, location.version, open_backend, marks)


def _opener(backend: str, model: Path) -> Callable[[], Backend]:
    """Return what opens the model; it is called in a thread when the HTTP server answers already.

    The native backend has begun by then: opening libraries and loading is TensorFlow's work alone,
    so it goes on beside the imports. Python's TensorFlow would take turns with them.

    Raises:
        SettingsError: A value is not what its variable takes.
    """
    if backend == "tensorflow":
        return lambda: _open_tensorflow(model)
    # Before the thread begins: it is to wait for TensorFlow alone, not for its turn in Python.
    from tfserve_app.capi.backend import CapiBackend  # noqa: PLC0415
    from tfserve_app.capi.options import SessionOptions  # noqa: PLC0415

    options = SessionOptions.from_env()
    # Without it NumPy starts a thread for every core, for matrices that nobody multiplies here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return process.begin(lambda: CapiBackend(model, _note, options))


def _open_tensorflow(model: Path) -> Backend:
    from tfserve_app.tensorflow_backend import TensorFlowBackend  # noqa: PLC0415

    return TensorFlowBackend(model, _note)


def _note(line: str) -> None:
    process.log_event("note", message=line)


if __name__ == "__main__":
    main()
