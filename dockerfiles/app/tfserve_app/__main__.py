"""`python -m tfserve_app`: check what can be checked at once, then serve."""

from __future__ import annotations

import time

FIRST_LINE = time.monotonic()

from tfserve_app import process  # noqa: E402 (the clock is read before anything else)
from tfserve_app.errors import ModelLoadError, SettingsError  # noqa: E402
from tfserve_app.savedmodel import locate  # noqa: E402
from tfserve_app.settings import Settings  # noqa: E402


def main() -> None:
    """Read the settings, find the model, serve it; exit codes are those of `process`."""
    process.handle_signals()
    marks = {"process_start": process.process_start(), "first_line": FIRST_LINE}
    try:
        settings = Settings.from_env()
        location = locate(settings.model_path)
    except SettingsError as error:
        process.fail(str(error), process.EXIT_SETTINGS)
    except ModelLoadError as error:
        process.fail(f"model cannot be served: {error}", process.EXIT_MODEL)
    # Not at the top: a wrong setting or path is told before these are imported.
    from tfserve_app.server import serve  # noqa: PLC0415
    from tfserve_app.tensorflow_backend import TensorFlowBackend  # noqa: PLC0415

    marks["http_imported"] = time.monotonic()

    def log(line: str) -> None:
        process.log_event("note", message=line)

    serve(settings, location.version, lambda: TensorFlowBackend(location.path, log), marks)


if __name__ == "__main__":
    main()
