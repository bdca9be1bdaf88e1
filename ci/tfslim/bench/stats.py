"""Statistics that say no more than the sample supports."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

__all__ = ["Ratio", "Summary", "percentile", "ratio_of_medians", "summarize"]

_BEYOND = 10  # observations that must lie beyond a percentile before it is quoted
_RESAMPLES = 2000
_SEED = 7


class Summary(BaseModel):
    """Median and range of repeated measurements.

    Attributes:
        n: How many.
        median: Middle value, in the measure's own unit.
        low: Smallest.
        high: Largest.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    median: float
    low: float
    high: float


class Ratio(BaseModel):
    """Median of A over median of B with a 95 % bootstrap interval over launches."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


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
