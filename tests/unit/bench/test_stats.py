from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from tfslim.bench.stats import (
    compare_sides,
    percentile,
    quantile,
    ratio_of_medians,
    samples_needed,
    settled,
    summarize,
    two_modes,
)


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


# ---- percentiles: MLPerf's own numbers, and coverage by simulation ----


@pytest.mark.parametrize(
    ("share", "count"), [(0.9, 23_886), (0.95, 50_425), (0.97, 85_811), (0.99, 262_742)]
)
def test_the_samples_that_mlperf_asks_for(share: float, count: int) -> None:
    assert samples_needed(share) == count


@pytest.mark.parametrize(("share", "least"), [(0.9, 64), (0.99, 662)])
def test_early_stopping_begins_where_loadgen_lets_it(share: float, least: int) -> None:
    values = [float(i) for i in range(least)]
    few = quantile(values[:-1], share)
    assert (few.kind, few.value, few.needed) == ("none", None, least)
    enough = quantile(values, share)
    assert (enough.kind, enough.value) == ("bound", least - 1.0)


def test_a_large_sample_has_a_percentile_and_a_smaller_one_a_bound_above_it() -> None:
    values = np.random.default_rng(1).exponential(1.0, 23_886)
    whole, part = quantile(list(values), 0.9), quantile(list(values[:2000]), 0.9)
    assert (whole.kind, part.kind) == ("value", "bound")
    assert whole.value == pytest.approx(np.log(10), rel=0.03)
    assert part.value is not None
    assert part.value > np.quantile(values[:2000], 0.9)
    assert part.needed == 23_886


@pytest.mark.parametrize(("n", "share"), [(64, 0.9), (300, 0.9), (700, 0.99), (2000, 0.99)])
@pytest.mark.parametrize("draw", ["exponential", "standard_cauchy", "normal"])
def test_a_bound_is_above_the_true_percentile_in_99_of_100_samples(
    n: int, share: float, draw: str
) -> None:
    random = np.random.default_rng(3)
    truth = {
        "exponential": -np.log(1 - share),
        "standard_cauchy": np.tan(np.pi * (share - 0.5)),
        "normal": statistics.NormalDist().inv_cdf(share),
    }[draw]
    samples = getattr(random, draw)(size=(1000, n))
    bounds = [quantile(sample, share).value for sample in samples]
    covered = sum(bound is not None and bound >= truth for bound in bounds)
    assert covered >= 980  # 990 are expected at least; four standard deviations below that


# ---- windows ----


def test_windows_have_settled_when_the_last_three_agree() -> None:
    assert settled([50, 100, 104, 109], [9, 1.0, 1.0, 1.0])
    assert not settled([50, 100, 104, 111], [9, 1.0, 1.0, 1.0])
    assert not settled([100, 100, 100], [1.0, 1.0, 1.2])
    assert not settled([100, 100], [1.0, 1.0])


# ---- side by side ----

NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "quiet": lambda r, n: r.lognormal(0, 0.01, (2, n)),
    "noisy": lambda r, n: r.lognormal(0, 0.05, (2, n)),
    "drift": lambda r, n: r.lognormal(0, 0.02, (2, n)) * np.linspace(1, 1.3, n),
    "random walk": lambda r, n: (
        r.lognormal(0, 0.01, (2, n)) * np.exp(np.cumsum(r.normal(0, 0.03, n)))
    ),
    "bimodal": lambda r, n: r.lognormal(0, 0.01, (2, n)) * r.choice([1, 1.25], (2, n)),
    "seldom slow": lambda r, n: r.lognormal(0, 0.01, (2, n)) * r.choice([1, 1, 1, 1.5], (2, n)),
    "heavy tails": lambda r, n: np.exp(0.05 * r.standard_t(1.2, (2, n))),
}


def verdicts(kind: str, launches: int, effect: float = 1.0, runs: int = 400) -> dict[str, float]:
    """Return the share of each verdict over simulated comparisons; A takes `effect` as long."""
    random = np.random.default_rng(11)
    counts: dict[str, float] = dict.fromkeys(("faster", "slower", "same", "inconclusive"), 0.0)
    for _ in range(runs):
        a, b = NOISE[kind](random, launches)
        counts[compare_sides(list(a * effect), list(b), better="lower").verdict] += 1 / runs
    return counts


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("launches", [5, 10])
def test_an_image_against_itself_is_called_different_in_at_most_about_5_of_100(
    kind: str, launches: int
) -> None:
    found = verdicts(kind, launches)
    assert found["faster"] + found["slower"] <= 0.075  # 5 % and two standard deviations of 400 runs


def test_a_quiet_machine_finds_an_image_the_same_as_itself() -> None:
    assert verdicts("quiet", 5)["same"] > 0.8


@pytest.mark.parametrize(
    ("kind", "effect", "power"),
    [("quiet", 0.9, 0.99), ("noisy", 0.8, 0.95), ("drift", 0.7, 0.8), ("heavy tails", 0.5, 0.8)],
)
def test_a_real_difference_is_found(kind: str, effect: float, power: float) -> None:
    assert verdicts(kind, 5, effect)["faster"] >= power
    assert verdicts(kind, 5, 1 / effect)["slower"] >= power


@pytest.mark.parametrize("kind", ["quiet", "noisy", "bimodal", "heavy tails"])
def test_the_interval_of_the_ratio_covers_the_truth(kind: str) -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        a, b = NOISE[kind](random, 7)
        ratio = ratio_of_medians(list(a * 1.5), list(b))
        assert ratio is not None
        covered += ratio.low <= 1.5 <= ratio.high
    assert covered >= 366  # 95 % of 400, less three standard deviations


def test_more_samples_per_second_is_faster() -> None:
    fast, slow = [200.0, 201, 199, 202, 200], [100.0, 101, 99, 100, 100]
    assert compare_sides(fast, slow, better="higher").verdict == "faster"
    assert compare_sides(fast, slow, better="lower").verdict == "slower"


def test_fewer_than_five_launches_a_side_decide_nothing() -> None:
    found = compare_sides([1.0] * 4, [9.0] * 9, better="lower")
    assert found.verdict == "inconclusive"
    assert "4 launches a side; at least 5" in found.notes[0]


def test_a_real_but_small_difference_is_not_called_slower() -> None:
    found = compare_sides([1.02, 1.021, 1.02, 1.019, 1.02], [1.0] * 5, better="lower")
    assert found.verdict == "same"
    assert found.ratio is not None
    assert found.ratio.low > 1


def test_launches_in_two_groups_are_noted() -> None:
    found = compare_sides([1.0, 1.01, 1.3, 1.31, 1.0], [1.0] * 5, better="lower")
    assert found.notes == ("launches of this side fall into two groups, around 1 and 1.305",)
    assert two_modes([1.0, 1.1, 1.2, 1.3, 1.4]) is None
    assert two_modes([1.0, 1.0, 1.0, 1.0, 9.0]) is None  # one straggler is no group
