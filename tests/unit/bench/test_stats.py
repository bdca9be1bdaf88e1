from __future__ import annotations

import random

import pytest

from tfslim.bench.stats import percentile, ratio_of_medians, summarize


def test_a_summary_is_median_and_range() -> None:
    found = summarize([3.0, 1.0, 2.0, 10.0])
    assert found is not None
    assert (found.n, found.median, found.low, found.high) == (4, 2.5, 1.0, 10.0)


def test_nothing_measured_is_no_summary() -> None:
    assert summarize([]) is None


@pytest.mark.parametrize(("count", "share"), [(19, 0.5), (99, 0.9), (999, 0.99)])
def test_a_percentile_is_quoted_only_where_ten_values_lie_beyond_it(
    count: int, share: float
) -> None:
    assert percentile([1.0] * count, share) is None
    assert percentile([1.0] * (count + 1), share) == 1.0


def test_the_same_distribution_twice_has_a_ratio_around_one() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(60):
        a = [rng.lognormvariate(0, 0.2) for _ in range(9)]
        b = [rng.lognormvariate(0, 0.2) for _ in range(9)]
        ratio = ratio_of_medians(a, b)
        assert ratio is not None
        covered += ratio.low <= 1 <= ratio.high
    assert covered >= 51  # a 95 % interval that covers less than 85 % would be a lie


def test_a_clear_difference_is_outside_of_the_interval() -> None:
    ratio = ratio_of_medians([0.50, 0.52, 0.49, 0.51, 0.50], [1.0, 1.02, 0.99, 1.01, 1.0])
    assert ratio is not None
    assert ratio.high < 0.6
    assert ratio.value == 0.5


def test_no_ratio_without_two_sides() -> None:
    assert ratio_of_medians([], [1.0]) is None
    assert ratio_of_medians([1.0], [0.0]) is None
