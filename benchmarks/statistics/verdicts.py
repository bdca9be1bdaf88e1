"""How often a verdict is wrong, and how large a difference has to be to be found: by simulation.

    python benchmarks/statistics/verdicts.py > benchmarks/statistics/README.md

Two sides of so many launches each, taking turns; side A takes `effect` times as long as side B.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfslim.bench.stats import MARGIN, compare_sides

RUNS = 2000
LAUNCHES = (5, 10)
EFFECTS = (1.0, 0.95, 0.9, 0.8, 0.5)
NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "quiet: 1 % between launches": lambda r, n: r.lognormal(0, 0.01, (2, n)),
    "noisy: 5 % between launches": lambda r, n: r.lognormal(0, 0.05, (2, n)),
    "2 %, and the machine slows down by 30 %": lambda r, n: (
        r.lognormal(0, 0.02, (2, n)) * np.linspace(1, 1.3, n)
    ),
    "1 %, and a random walk of 3 % a turn": lambda r, n: (
        r.lognormal(0, 0.01, (2, n)) * np.exp(np.cumsum(r.normal(0, 0.03, n)))
    ),
    "1 %, every second launch 25 % slower": lambda r, n: (
        r.lognormal(0, 0.01, (2, n)) * r.choice([1, 1.25], (2, n))
    ),
    "1 %, every fourth launch 50 % slower": lambda r, n: (
        r.lognormal(0, 0.01, (2, n)) * r.choice([1, 1, 1, 1.5], (2, n))
    ),
    "heavy tails: Student's t with 1.2 degrees": lambda r, n: np.exp(
        0.05 * r.standard_t(1.2, (2, n))
    ),
}


def shares(kind: str, launches: int, effect: float) -> dict[str, float]:
    """Return the share of each verdict."""
    random = np.random.default_rng(20211)
    found = dict.fromkeys(("faster", "slower", "same", "inconclusive"), 0.0)
    for _ in range(RUNS):
        a, b = NOISE[kind](random, launches)
        found[compare_sides(list(a * effect), list(b), better="lower").verdict] += 1 / RUNS
    return found


def main() -> None:
    """Print the tables as Markdown."""
    print("# How often verdicts are right\n")
    print(
        f"Made by `python benchmarks/statistics/verdicts.py`: {RUNS} simulated comparisons for "
        f"each figure, margin {MARGIN:.0%}.\n"
    )
    print("## The same image twice: false alarms, and how often it is found to be the same\n")
    print("| noise | launches a side | faster or slower | same | inconclusive |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in NOISE:
        for launches in LAUNCHES:
            found = shares(kind, launches, 1.0)
            alarms = found["faster"] + found["slower"]
            print(
                f"| {kind} | {launches} | {alarms:.1%} | {found['same']:.1%} | "
                f"{found['inconclusive']:.1%} |"
            )
    print("\n## A real difference: how often it is found\n")
    columns = [f"{1 - effect:.0%} less time" for effect in EFFECTS[1:]]
    print(f"| noise | launches a side | {' | '.join(columns)} |")
    print(f"| --- | ---: |{' ---: |' * len(columns)}")
    for kind in NOISE:
        for launches in LAUNCHES:
            found = [shares(kind, launches, effect)["faster"] for effect in EFFECTS[1:]]
            print(f"| {kind} | {launches} | {' | '.join(f'{share:.0%}' for share in found)} |")


if __name__ == "__main__":
    main()
