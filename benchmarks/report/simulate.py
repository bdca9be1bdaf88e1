"""How often comparing and the history are wrong, and what they find: simulated, no machine needed.

Usage: python benchmarks/report/simulate.py            (two minutes; the same figures each time)
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from run_records import make, starts
from tfslim.report.compare import BaselineInfo, compare
from tfslim.report.history import change_points
from tfslim.report.record import RunRecord

RUNS = 400
RANDOM = np.random.default_rng(5)
BASELINE = BaselineInfo(source="simulated", found=True)


def noisy(level: float, noise: float, n: int) -> list[float]:
    """Return launches around a level; `noise` is their relative standard deviation."""
    return [float(value) for value in level * (1 + noise * RANDOM.normal(size=n))]


def run(level: float, noise: float, n: int) -> RunRecord:
    """Return a run of an image, and of stock in turn with it."""
    return make(cold_starts=starts(inference=noisy(level, noise, n), stock=noisy(2, noise, n)))


def verdicts(slower: float, noise: float, n: int) -> Counter[str]:
    """Return the verdicts on an image that became slower by a factor."""
    found: Counter[str] = Counter()
    for _ in range(RUNS):
        comparison = compare(run(slower, noise, n), run(1, noise, n), BASELINE)
        items = [item for subject in comparison.subjects for item in subject.measures]
        found.update(
            item.verdict
            for item in items
            if item.subject == "inference" and item.measure.startswith("cold-start")
        )
    return found


def found_steps(step: float, n: int) -> tuple[float, float]:
    """Return how often a step in the middle is found, and how often anything else is."""
    right = wrong = 0
    for _ in range(RUNS):
        series = RANDOM.normal(size=n)
        series[n // 2 :] += step
        near = [abs(index - n // 2) <= 1 for index, _ in change_points(series)]
        right += any(near)
        wrong += not all(near)
    return right / RUNS, wrong / RUNS


def main() -> None:
    """Print both tables."""
    print("comparing, threshold 10 %, against stock of the same run")
    print("noise  launches  slower    worse  inconclusive  same  better")
    for noise, n in ((0.02, 7), (0.04, 7), (0.04, 15)):
        for slower in (1.0, 1.15, 1.2, 1.3):
            seen = verdicts(slower, noise, n)
            shares = [seen[key] / RUNS for key in ("worse", "inconclusive", "same", "better")]
            print(f"{noise:5.0%} {n:9} {slower:7} ", *(f"{share:10.1%}" for share in shares))
    print("history\nruns  step in noise  found  anything else")
    for n in (12, 20, 30):
        for step in (0, 1, 2, 3):
            right, wrong = found_steps(step, n)
            print(f"{n:4} {step:14} {right:6.1%} {wrong:14.1%}")


if __name__ == "__main__":
    main()
