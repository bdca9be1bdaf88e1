"""The service as a process of its own, in front of a backend without TensorFlow.

Started by tests with `python fake_server.py`. A prediction whose first number is above 1000 takes
that many milliseconds less 1000, and is told in the log as it begins. `LOAD_SECONDS`: how long the
model takes to load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from fake_backend import FakeBackend

from tfserve_app import process
from tfserve_app.backend import Array
from tfserve_app.server import serve
from tfserve_app.settings import Settings


class SlowBackend(FakeBackend):
    """A fake backend that takes as long as a request asks."""

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        floats = [array for array in inputs.values() if array.dtype.kind == "f" and array.size]
        first = max((float(array.flat[0]) for array in floats), default=0)
        if first > 1000:
            process.log_event("predicting")
            time.sleep((first - 1000) / 1000)
        return super().predict(signature, inputs)


def open_backend() -> SlowBackend:
    time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
    return SlowBackend()


if __name__ == "__main__":
    process.handle_signals()
    now = time.monotonic()
    marks = {"process_start": process.process_start(), "first_line": now, "http_imported": now}
    serve(Settings.from_env(), "7", open_backend, marks)
