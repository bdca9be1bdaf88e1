"""What `tfslim slim` took out of this environment is refused here, as the Python backend does.

A slim environment brings `_tfslim`, which checks the GPU when Python imports tensorflow and refuses
models that need what is gone. Nothing imports tensorflow here, so both are asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfserve_app.capi.metagraph import MetaGraph
from tfserve_app.errors import ModelLoadError

__all__ = ["refuse_gpu", "refuse_removed_ops"]

# What the guard calls by a name of its own, and what a graph has in its place. Keras, which Python
# needs to load a model with its optimizer, nobody needs here.
_MARKS = {"@xla": "_XlaMustCompile", "@keras-rnn": "api_implements"}


def refuse_gpu() -> None:
    """End the process with status 78 where no GPU of this machine can run what is left."""
    guard = _guard()
    if guard is None:
        return
    try:
        problem: str = guard.check()
    except Exception:  # noqa: BLE001 (a guard must not break what it guards)
        return
    if problem:
        guard.leave(problem)


def refuse_removed_ops(path: Path, graph: MetaGraph) -> None:
    """Refuse a model with ops whose libraries are gone.

    Raises:
        ModelLoadError: It has one; the line names op, rule and way out.
        WireError: Its graph cannot be read.
    """
    guard = _guard()
    patterns = [] if guard is None else [p for one in guard.data()["ops"].values() for p in one]
    # The whole graph is read only where there is something to find.
    if not graph.mentions(map(_part, patterns)):
        return
    import _tfslim  # type: ignore[import-not-found]  # noqa: PLC0415

    try:
        _tfslim.check_model(graph.op_types())
    except RuntimeError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def _part(pattern: str) -> str:
    """Return what a graph has somewhere in it if it has an op that a pattern fits."""
    return _MARKS.get(pattern) or max(re.split(r"[*?\[\]]", pattern), key=len)


def _guard() -> Any:
    """Return tfslim's guard; None outside of a slim environment."""
    try:
        import _tfslim_guard  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        return None
    return _tfslim_guard
