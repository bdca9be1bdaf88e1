"""Statistics that say no more than the sample supports.

Percentiles of latencies follow MLPerf's rules (`inference_rules.adoc` in
https://github.com/mlcommons/inference_policies, "Minimum Query Count" and appendix "Early Stopping
Criterion"). Comparisons are made over process launches, because a process as a whole may be fast or
slow; requests within one are not independent of each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

__all__ = [
    "MARGIN",
    "MIN_LAUNCHES",
    "Comparison",
    "Quantile",
    "Ratio",
    "Summary",
    "Verdict",
    "compare_sides",
    "percentile",
    "quantile",
    "ratio_of_medians",
    "samples_needed",
    "settled",
    "summarize",
    "two_modes",
]

MARGIN = 0.03
"""Differences of up to 3 % count as none."""
MIN_LAUNCHES = 5
"""Launches a side below which nothing is said but "inconclusive"."""

Verdict = Literal["faster", "slower", "same", "inconclusive"]

_CONFIDENCE = 0.99  # of percentiles, as in MLPerf's rules
_Z_99 = 2.5758293035489004  # two-sided 99 % of the normal distribution
_MARGIN_SHARE = 20  # MLPerf's margin of error: a twentieth of what lies beyond the percentile
_BEYOND = 10  # observations that must lie beyond a percentile before it is quoted
_RESAMPLES = 2000
_SEED = 7
_WINDOWS, _WINDOW_SPREAD = 3, 1.10  # perf_analyzer's rule


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True)


class Summary(_Figure):
    """Median and range of repeated measurements.

    Attributes:
        n: How many.
        median: Middle value, in the measure's own unit.
        low: Smallest.
        high: Largest.
    """

    n: int
    median: float
    low: float
    high: float


class Ratio(_Figure):
    """Median of A over median of B with a 95 % bootstrap interval over launches."""

    value: float
    low: float
    high: float


class Quantile(_Figure):
    """What a sample says of a percentile.

    Attributes:
        share: Which one, in 0…1.
        kind: "value": the sample is as large as MLPerf asks for, and `value` is the percentile of
            the sample; "bound": smaller, and the true percentile is at most `value` with 99 %
            confidence (early stopping); "none": too small for either.
        value: In the measure's own unit; None for "none".
        n: Size of the sample.
        needed: Size from which `kind` would be a step better; `n` for "value".
    """

    share: float
    kind: Literal["value", "bound", "none"]
    value: float | None
    n: int
    needed: int


class Comparison(_Figure):
    """One measure of two sides whose launches took turns.

    Attributes:
        verdict: "faster" or "slower": the interval leaves 1 out, and the ratio is beyond the
            margin; "same": the whole interval is within the margin; else "inconclusive". Slower is
            more seconds, or fewer samples per second.
        ratio: Median of A over median of B; None where a side is empty.
        margin: Share by which sides may differ and still be the same.
        launches: How many of A and of B.
        notes: What a reader has to know, as sentences.
    """

    verdict: Verdict
    ratio: Ratio | None
    margin: float
    launches: tuple[int, int]
    notes: tuple[str, ...] = ()


def summarize(values: Sequence[float]) -> Summary | None:
    """Return median and range; None for nothing."""
    if not values:
        return None
    return Summary(
        n=len(values), median=float(np.median(values)), low=min(values), high=max(values)
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile (`share` in 0…1), or None where fewer than ten values lie beyond it."""
    beyond = round(len(values) * (1 - share), 6)  # 1 - 0.9 is a little less than 0.1
    if math.floor(beyond) < _BEYOND:
        return None
    return float(np.quantile(values, share))


def samples_needed(share: float) -> int:
    """Return how many samples MLPerf asks for: 23,886 for p90, 262,742 for p99.

    That many keep the share within a twentieth of (1 - share) with 99 % confidence.
    """
    margin = (1 - share) / _MARGIN_SHARE
    return round(_Z_99**2 * share * (1 - share) / margin**2)


def quantile(values: Sequence[float], share: float) -> Quantile:
    """Return a percentile as far as the sample supports one: a value, an upper bound, or nothing.

    The bound is MLPerf's early stopping estimate with tolerance 0 and confidence 0.99: with `t` the
    most values that could lie above a percentile just missed, the `t`-th largest value.
    """
    n, needed = len(values), samples_needed(share)
    if n >= needed:
        value = float(np.quantile(values, share))
        return Quantile(share=share, kind="value", value=value, n=n, needed=n)
    beyond = _allowed_beyond(n, share)
    if beyond < 1:
        least = _least_for_bound(share)
        return Quantile(share=share, kind="none", value=None, n=n, needed=least)
    bound = float(np.partition(np.asarray(values, dtype=float), n - beyond)[n - beyond])
    return Quantile(share=share, kind="bound", value=bound, n=n, needed=needed)


def settled(rates: Sequence[float], medians: Sequence[float]) -> bool:
    """Return whether the last three windows agree: largest over smallest at most 1.10.

    That is perf_analyzer's rule; rates and latencies both have to meet it.

    Args:
        rates: Samples per second of each window.
        medians: Median seconds of a call in each window.
    """

    def agree(values: Sequence[float]) -> bool:
        last = values[-_WINDOWS:]
        return len(last) == _WINDOWS and 0 < max(last) <= _WINDOW_SPREAD * min(last)

    return agree(rates) and agree(medians)


def ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> Ratio | None:
    """Return median(a) / median(b); None where a side is empty or b's median is not positive.

    The interval resamples the launches of each side (percentile bootstrap, fixed seed). With fewer
    than five launches a side it is as wide as the data, not as wide as the truth.
    """
    if not a or not b or np.median(b) <= 0:
        return None
    random = np.random.default_rng(_SEED)
    top = np.median(random.choice(a, (_RESAMPLES, len(a))), axis=1)
    bottom = np.median(random.choice(b, (_RESAMPLES, len(b))), axis=1)
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    return Ratio(value=float(np.median(a) / np.median(b)), low=float(low), high=float(high))


def compare_sides(
    a: Sequence[float],
    b: Sequence[float],
    *,
    better: Literal["lower", "higher"],
    margin: float = MARGIN,
) -> Comparison:
    """Say whether A is faster or slower than B, the same, or that nobody can tell.

    Sides are resampled apart from each other. Launches that took turns share the machine's drift,
    so the interval is too wide then, never too narrow: the sides of an A/A comparison differ in at
    most about 5 of 100 cases (see docs/benchmarks.md).

    Args:
        a: One figure of each launch.
        b: The same of the side to compare with.
        better: What is faster: fewer seconds ("lower"), or more samples per second ("higher").
        margin: Share by which sides may differ and still be the same.
    """
    ratio = ratio_of_medians(a, b)
    notes = [*_few(len(a), len(b)), *_modes("this side", a), *_modes("the other side", b)]
    verdict: Verdict = "inconclusive"
    if ratio is not None and min(len(a), len(b)) >= MIN_LAUNCHES:
        verdict = _judged(ratio, better, margin)
    return Comparison(
        verdict=verdict,
        ratio=ratio,
        margin=margin,
        launches=(len(a), len(b)),
        notes=tuple(notes),
    )


def two_modes(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the medians of two groups that launches fall into; None where they do not.

    Two groups are a gap in the sorted values, more than 5 % wide and more than twice as wide as
    either group of at least two is.
    """
    found = np.sort(np.asarray(values, dtype=float))
    best: tuple[float, float] | None = None
    widest = 0.0
    for cut in range(2, len(found) - 1):
        low, high = found[:cut], found[cut:]
        gap = high[0] - low[-1]
        spread = max(low[-1] - low[0], high[-1] - high[0])
        if gap > max(2 * spread, 0.05 * low[-1], widest):
            widest = gap
            best = float(np.median(low)), float(np.median(high))
    return best


def _judged(ratio: Ratio, better: Literal["lower", "higher"], margin: float) -> Verdict:
    low, high = 1 / (1 + margin), 1 + margin
    if low <= ratio.low and ratio.high <= high:
        return "same"
    if ratio.high < 1 and ratio.value < low:
        return "faster" if better == "lower" else "slower"
    if ratio.low > 1 and ratio.value > high:
        return "slower" if better == "lower" else "faster"
    return "inconclusive"


def _few(a: int, b: int) -> list[str]:
    if min(a, b) >= MIN_LAUNCHES:
        return []
    return [f"{min(a, b)} launches a side; at least {MIN_LAUNCHES} are needed for a verdict"]


def _modes(side: str, values: Sequence[float]) -> list[str]:
    modes = two_modes(values)
    if modes is None:
        return []
    return [f"launches of {side} fall into two groups, around {modes[0]:.4g} and {modes[1]:.4g}"]


@functools.lru_cache(maxsize=256)
def _allowed_beyond(n: int, share: float) -> int:
    """Return the largest t for which t or fewer values beyond the percentile have a chance ≤ 1 %.

    -1 where there is none. It is F(t; n, 1 - share) ≤ 1 - c of MLPerf's rules, F the binomial
    distribution.
    """
    return int(np.searchsorted(_binomial(n, 1 - share), 1 - _CONFIDENCE, side="right")) - 1


def _binomial(n: int, chance: float) -> NDArray[np.float64]:
    """Return the cumulative binomial distribution for 0…n."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    mass = logs[n] - logs[k] - logs[n - k] + k * math.log(chance) + (n - k) * math.log1p(-chance)
    cumulative: NDArray[np.float64] = np.cumsum(np.exp(mass))
    return cumulative


def _least_for_bound(share: float) -> int:
    """Return the smallest sample that has an early stopping estimate: 64 for p90, 662 for p99."""
    # One value beyond at most: the chance is q^n + n (1 - q) q^(n - 1).
    n = 2
    while share**n + n * (1 - share) * share ** (n - 1) > 1 - _CONFIDENCE:
        n += 1
    return n
