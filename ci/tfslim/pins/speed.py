"""Is a set of versions slower than the newest one? Launches take turns; medians with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tfslim.bench.stats import ratio_of_medians

__all__ = ["PROBE", "compare", "measure"]

PROBE: Final = Path(__file__).with_name("speed_probe.py")
# More than this many times the newest versions' time, certainly, is too slow.
_SLOWER: Final = 1.05

Times = Mapping[str, Sequence[float]]


def measure(
    launch: Callable[[Path], str], trees: Sequence[Path], launches: int
) -> list[dict[str, list[float]]]:
    """Time the workloads in each tree; a launch of one follows a launch of the other.

    Args:
        launch: Runs the probe with a tree's Python and returns what it printed.
        trees: Environments.
        launches: Per tree.

    Returns:
        For each tree, seconds per step by workload and launch.
    """
    times: list[dict[str, list[float]]] = [{} for _ in trees]
    for _ in range(launches):
        for tree, found in zip(trees, times, strict=True):
            for name, seconds in json.loads(launch(tree)).items():
                found.setdefault(name, []).append(seconds)
    return times


def compare(ours: Times, reference: Times) -> tuple[list[str], list[str]]:
    """Return what is certainly slower than the reference, and all figures, as text."""
    slower, figures = [], []
    for name in sorted(ours.keys() & reference.keys()):
        ratio = ratio_of_medians(ours[name], reference[name])
        if ratio is None:
            continue
        text = f"{name} {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        figures.append(text)
        if ratio.low > _SLOWER:
            slower.append(text)
    return slower, figures
