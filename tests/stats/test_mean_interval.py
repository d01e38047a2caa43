"""The gate's interval against exact binomial bounds, drawn weights, and simulated truths of awkward shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from aftertune.stats import MeanInterval, mean_interval

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def names(count: int) -> list[str]:
    return [f"prompt-{c}" for c in range(count)]


def interval(values: NDArray[np.float64] | list[float], extent: tuple[float, float] | None = None) -> MeanInterval:
    return mean_interval(list(values), names(len(values)), extent=extent)


# Zeros and ones


@pytest.mark.parametrize("count", [10, 24, 76, 150, 252])
@pytest.mark.parametrize("events", [0, 1, 2, 5, 9])
def test_on_zeros_and_ones_the_ends_are_the_exact_binomial_ones(count: int, events: int) -> None:
    found = interval([1.0] * events + [0.0] * (count - events), (0.0, 1.0))
    exact = stats.binomtest(events, count).proportion_ci(0.95, "exact")
    assert found.low == pytest.approx(exact.low, abs=1e-8)
    assert found.high == pytest.approx(exact.high, rel=1e-6)


@pytest.mark.parametrize("count", [10, 24, 76, 252])
def test_differences_are_never_tighter_than_the_exact_bound_and_grow_with_each_event(count: int) -> None:
    events = sorted({*range(min(count, 12)), count // 2, count - 1, count})
    highs = [interval([1.0] * k + [0.0] * (count - k), (-1.0, 1.0)).high for k in events]
    exact = [stats.binomtest(k, count).proportion_ci(0.95, "exact").high for k in events]
    assert all(ours >= theirs * (1 - 1e-6) for ours, theirs in zip(highs, exact, strict=True))
    assert all(a < b for a, b in itertools.pairwise(highs))


@pytest.mark.parametrize("value", [0.0, 0.125, -0.5, 1.0])
def test_equal_differences_of_a_bounded_metric_have_the_width_of_an_event_never_seen(value: float) -> None:
    found = interval([value] * 12, (-1.0, 1.0))
    unseen = 1 - 0.025 ** (1 / 12)
    assert found.high == pytest.approx(value + (1 - value) * unseen, rel=1e-6)
    assert found.low == pytest.approx(value - (1 + value) * unseen, rel=1e-6)


def test_a_tremor_does_not_make_a_bounded_metric_sure() -> None:
    tremor = 1e-4 * np.random.default_rng(1).normal(size=12)
    assert interval(tremor, (-1.0, 1.0)).high >= 1 - 0.025 ** (1 / 12) - 1e-3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=30), st.data())
def test_a_worse_item_never_lowers_an_end_of_a_bounded_metric(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    worse = [*values]
    worse[place] = data.draw(st.floats(values[place], 1))
    before, after = interval(values, (-1.0, 1.0)), interval(worse, (-1.0, 1.0))
    assert after.high >= before.high - 1e-8
    assert after.low >= before.low - 1e-8


def test_clusters_not_items_are_counted() -> None:
    """Ten equal answers to each of twelve questions say no more than one answer to each."""
    many = mean_interval([0.0] * 120, [f"q{i // 10}" for i in range(120)], extent=(0.0, 1.0))
    assert many.high == pytest.approx(1 - 0.025 ** (1 / 12), rel=1e-6)
    assert (many.items, many.clusters) == (120, 12)


# Independent implementations


def test_the_ends_are_quantiles_of_randomly_weighted_means() -> None:
    """The Bayesian bootstrap with one more prompt, drawn."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 5, 40)
    owner = np.repeat(np.arange(40), sizes)
    values = rng.gamma(1.0, 0.3, len(owner))
    found = mean_interval(list(values), [str(o) for o in owner], extent=(-10.0, 10.0))
    sums = np.bincount(owner, weights=values)
    weights = rng.exponential(size=(100_000, 41))
    below = weights[:, :40] @ sizes + weights[:, 40] * sizes.mean()
    for end, guard, quantile in ((found.low, -10.0, 0.025), (found.high, 10.0, 0.975)):
        drawn = (weights[:, :40] @ sums + weights[:, 40] * sizes.mean() * guard) / below
        assert end == pytest.approx(np.quantile(drawn, quantile), abs=0.02 * (found.high - found.low))


def test_prompts_of_very_unequal_size_weigh_by_their_items() -> None:
    rng = np.random.default_rng(4)
    sizes = np.array([30, 20, 12, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    means = np.r_[0.9, 0.8, -0.7, np.zeros(9)]
    owner = np.repeat(np.arange(12), sizes)
    found = mean_interval(list(means[owner]), [str(o) for o in owner], extent=(-1.0, 1.0))
    weights = rng.exponential(size=(200_000, 13))
    items = np.r_[sizes, sizes.mean()]
    for end, guard, quantile in ((found.low, -1.0, 0.025), (found.high, 1.0, 0.975)):
        drawn = (weights @ (items * np.r_[means, guard])) / (weights @ items)
        assert end == pytest.approx(np.quantile(drawn, quantile), abs=0.01)


def test_many_prompts_come_close_to_students_t() -> None:
    values = np.random.default_rng(3).normal(0.1, 0.4, 2000)
    found = interval(values)
    half = stats.t.ppf(0.975, 1999) * values.std(ddof=1) / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(2000))
    assert found.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_the_standard_error_is_the_sandwich_of_clusters() -> None:
    rng = np.random.default_rng(5)
    values = np.repeat(rng.normal(0, 1, 120), 4) + rng.normal(0, 0.5, 480)
    residuals = (values - values.mean()).reshape(120, 4).sum(axis=1)
    sandwich = math.sqrt(float((residuals**2).sum()) * 120 / 119) / 480
    found = mean_interval(list(values), [f"c{i // 4}" for i in range(480)])
    assert found.error == pytest.approx(sandwich, rel=1e-9)


def test_strata_weigh_the_same_and_their_difference_is_no_error() -> None:
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 0.1, 60)
    values = np.r_[noise[:40] + 5.0, noise[40:]]
    strata = ["yes"] * 40 + ["no"] * 20
    found = mean_interval(list(values), names(60), strata)
    assert found.value == pytest.approx((values[:40].mean() + values[40:].mean()) / 2)
    within = values[:40].var(ddof=1) / 40 + values[40:].var(ddof=1) / 20
    assert found.error == pytest.approx(math.sqrt(within) / 2, rel=0.02)
    assert found.high - found.low < 0.3


def test_a_stratum_of_one_prompt_widens_the_interval_to_both_sides() -> None:
    values = [*np.random.default_rng(7).normal(0, 0.1, 30), 2.0]
    found = mean_interval(values, names(31), ["many"] * 30 + ["one"])
    assert found.low < found.value - 0.2
    assert found.high > found.value + 0.2


# The p-value and its interval


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=30, unique=True), st.sampled_from([None, (-1.0, 1.0)]))
def test_the_p_value_agrees_with_the_interval(values: list[float], extent: tuple[float, float] | None) -> None:
    found = interval(values, extent)
    if found.degenerate:
        return
    step = 1e-6 + 1e-3 * (found.high - found.low)
    assert found.low <= found.value <= found.high
    assert found.tail(found.low - step) <= 0.025 <= found.tail(found.low + step)
    turned = found.turned()
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert turned.tail(-found.high - step) <= 0.025 <= turned.tail(-found.high + step)


def test_values_without_bounds_that_are_all_equal_say_nothing_of_their_error() -> None:
    assert interval([0.3] * 40).degenerate
    assert interval([0.1 + 0.2, 0.3, 0.3, 0.3]).degenerate
    assert not interval([0.3] * 40, (-1.0, 1.0)).degenerate
    assert not interval([0.3, 0.31, 0.3, 0.3]).degenerate


def test_values_beyond_the_extent_are_refused() -> None:
    with pytest.raises(ValueError, match="do not lie within"):
        interval([0.0, 2.0], (-1.0, 1.0))
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


def test_more_prompts_of_the_same_spread_are_foreseen() -> None:
    """The ends that are foreseen for four times the prompts are those that four times the prompts have."""
    base = stats.norm.ppf((np.arange(60) + 0.5) / 60) * 0.4
    few, many = interval(base, (-9.0, 9.0)), interval(np.tile(base, 4), (-9.0, 9.0))
    for clusters, ends in ((240, many), (60, few)):
        for side, end in ((few, ends.high), (few.turned(), -ends.low)):
            assert side.ends_below(end + 1e-5, clusters)
            assert not side.ends_below(end - 1e-5, clusters)
            assert not side.ends_below(side.value - 1e-5, 10**6)


# Simulated truths: how often is the truth beyond an end? Nominally 2.5 %.

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "t with 3 degrees": lambda rng, n: rng.standard_t(3, n),
    "lognormal": lambda rng, n: np.exp(rng.normal(0, 1, n)) - math.exp(0.5),
    "lognormal, turned": lambda rng, n: math.exp(0.5) - np.exp(rng.normal(0, 1, n)),
    "one in fifty ten times as bad": lambda rng, n: rng.normal(0, 1, n) + 10 * ((rng.random(n) < 0.02) - 0.02),
    "one in fifty ten times as good": lambda rng, n: rng.normal(0, 1, n) - 10 * ((rng.random(n) < 0.02) - 0.02),
}
RUNS = 250
SURELY = 0.07  # of 250, more than 17 (6.8 %) are surely (97.5 %) more than 4 %


def missed(draw: Callable[[np.random.Generator], MeanInterval], truth: float, side: int) -> float:
    """Share of simulations in which the truth lies beyond the upper (1) or lower (-1) end."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(RUNS):
        found = draw(rng)
        wrong += (found if side < 0 else found.turned()).tail(-side * truth) <= 0.025
    return wrong / RUNS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [24, 76])
@pytest.mark.parametrize("side", [1, -1])
def test_the_truth_is_rarely_beyond_an_end(shape: str, count: int, side: int) -> None:
    assert missed(lambda rng: interval(SHAPES[shape](rng, count)), 0.0, side) < SURELY


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("count", [24, 76, 150])
def test_the_truth_is_rarely_beyond_an_end_for_shares(rate: float, count: int) -> None:
    def draw(rng: np.random.Generator) -> MeanInterval:
        return interval((rng.random(count) < rate).astype(float), (-1.0, 1.0))

    assert missed(draw, rate, 1) < 0.048  # an exact bound: more than that is surely more than 2.5 %
    assert missed(draw, rate, -1) < 0.048


def test_the_truth_is_rarely_beyond_an_end_for_few_questions_asked_often() -> None:
    owner = [f"q{i // 10}" for i in range(120)]

    def draw(rng: np.random.Generator) -> MeanInterval:
        rates = rng.beta(0.3, 0.3 * 19, 12)
        return mean_interval(list((rng.random((12, 10)) < rates[:, None]).astype(float).ravel()), owner, extent=(-1, 1))

    assert missed(draw, 0.05, 1) < 0.048


@pytest.mark.parametrize("side", [1, -1])
def test_the_truth_is_rarely_beyond_an_end_for_unequal_clusters(side: int) -> None:
    def draw(rng: np.random.Generator) -> MeanInterval:
        sizes = np.minimum(rng.geometric(0.3, 40), 15)
        values = np.repeat(rng.normal(0, 1, 40), sizes) + rng.normal(0, 1, sizes.sum())
        return mean_interval(list(values), [f"c{c}" for c in np.repeat(np.arange(40), sizes)])

    assert missed(draw, 0.0, side) < SURELY


def test_items_taken_for_clusters_would_be_wrong_far_too_often() -> None:
    """The simulation above can fail."""

    def draw(rng: np.random.Generator) -> MeanInterval:
        return interval(np.repeat(rng.normal(0, 1, 24), 8) + rng.normal(0, 0.5, 192))

    assert missed(draw, 0.0, 1) > 0.1
