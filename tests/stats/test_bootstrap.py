"""The cluster bootstrap against scipy, textbook formulas and simulated truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aftertune.stats import cluster_bootstrap, holm


def labels(clusters: int, size: int = 1) -> list[str]:
    return [f"prompt-{c}" for c in range(clusters) for _ in range(size)]


def test_many_independent_items_agree_with_scipys_percentile_interval() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 300)
    ours = cluster_bootstrap(list(values), labels(300), [""] * 300)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(2), batch=1000
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.05)
    assert (ours.items, ours.clusters) == (300, 300)


def test_clusters_of_unequal_size_agree_with_scipy_over_cluster_totals() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6, 200)
    owner = np.repeat(np.arange(200), sizes)
    values = rng.normal(0, 1, 200)[owner] + rng.normal(0, 1, len(owner))
    sums = np.bincount(owner, weights=values)
    ours = cluster_bootstrap(list(values), [str(c) for c in owner], [""] * len(owner))
    theirs = stats.bootstrap(
        (sums, sizes.astype(float)),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(4),
        batch=1000,
    )
    interval = theirs.confidence_interval
    width = interval.high - interval.low
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(interval.high, abs=0.05 * width)


def test_the_standard_error_agrees_with_the_sandwich_formula() -> None:
    rng = np.random.default_rng(5)
    values = np.repeat(rng.normal(0, 1, 120), 4) + rng.normal(0, 0.5, 480)
    residuals = (values - values.mean()).reshape(120, 4).sum(axis=1)
    sandwich = math.sqrt(float((residuals**2).sum())) / 480
    assert cluster_bootstrap(list(values), labels(120, 4), [""] * 480).error == pytest.approx(sandwich, rel=0.04)


@pytest.mark.parametrize("clusters", [8, 12, 30])
def test_few_independent_items_agree_with_students_t_interval(clusters: int) -> None:
    values = stats.norm.ppf((np.arange(clusters) + 0.5) / clusters)
    ours = cluster_bootstrap(list(values), labels(clusters), [""] * clusters)
    half = stats.t.ppf(0.975, clusters - 1) * values.std(ddof=1) / math.sqrt(clusters)
    assert ours.low == pytest.approx(-half, rel=0.12)
    assert ours.high == pytest.approx(half, rel=0.12)


def coverage(
    draw: Callable[[np.random.Generator], tuple[list[float], list[str], list[str]]], simulations: int
) -> float:
    """Share of simulations whose interval covers the truth, which is zero."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(simulations):
        estimate = cluster_bootstrap(*draw(rng), resamples=500)
        hits += estimate.low <= 0.0 <= estimate.high
    return hits / simulations


def correlated(rng: np.random.Generator, clusters: int, size: int = 4) -> list[float]:
    """Items that share two thirds of their variance with their cluster."""
    return list(np.repeat(rng.normal(0, 1, clusters), size) + rng.normal(0, math.sqrt(0.5), clusters * size))


@pytest.mark.parametrize("clusters", [8, 20, 100])
def test_nominal_95_percent_intervals_cover_about_95_percent(clusters: int) -> None:
    names = labels(clusters, 4)
    assert 0.92 <= coverage(lambda rng: (correlated(rng, clusters), names, [""] * len(names)), 500) <= 0.98


def test_ignoring_the_clusters_would_cover_far_too_little() -> None:
    separate = labels(20 * 4)
    assert coverage(lambda rng: (correlated(rng, 20), separate, [""] * 80), 300) < 0.85


def strata_of(*clusters: int) -> list[str]:
    return [f"stratum-{s}" for s, count in enumerate(clusters) for _ in range(count)]


@pytest.mark.parametrize("clusters", [(20, 20), (10, 30), (15, 5), (5, 5, 5, 5), (17, 3), (2, 2, 2, 2, 2)])
def test_nominal_95_percent_intervals_cover_about_95_percent_over_strata(clusters: tuple[int, ...]) -> None:
    strata = strata_of(*clusters)
    names = labels(len(strata))
    # A handful of clusters has too few resamples to fill the tails of its stratum.
    least = 0.92 if min(clusters) >= 10 else 0.88
    assert least <= coverage(lambda rng: (list(rng.normal(0, 1, len(strata))), names, strata), 500) <= 0.99


def test_strata_weigh_the_same_whatever_their_size() -> None:
    values = [1.0] * 30 + [0.0] * 10
    estimate = cluster_bootstrap(values, labels(40), ["many"] * 30 + ["few"] * 10)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.clusters == 40


def test_differences_between_strata_do_not_widen_the_interval() -> None:
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 0.1, 40)
    names, strata = labels(40), strata_of(20, 20)
    apart = cluster_bootstrap(list(noise + np.repeat([-50.0, 50.0], 20)), names, strata)
    together = cluster_bootstrap(list(noise), names, strata)
    assert apart.high - apart.low == pytest.approx(together.high - together.low, rel=1e-6)


def test_a_cluster_that_spans_strata_or_a_stratum_may_have_any_name() -> None:
    one = cluster_bootstrap([1.0, 2.0, 3.0, 5.0], ["a", "b", "c", "d"], ["x", "x", "y", "y"])
    other = cluster_bootstrap([1.0, 2.0, 3.0, 5.0], ["a", "b", "a", "b"], ["x", "x", "y", "y"])
    assert (one.value, one.low, one.high) == (other.value, other.low, other.high)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("clusters", [10, 40])
def test_equal_binary_items_get_the_exact_bound_for_an_event_never_seen(value: float, clusters: int) -> None:
    estimate = cluster_bootstrap([value] * clusters, labels(clusters), [""] * clusters, binary=True)
    never_seen = stats.binomtest(0, clusters).proportion_ci(0.95, method="exact").high
    assert estimate.value == value
    assert estimate.low == pytest.approx(value - never_seen)
    assert estimate.high == pytest.approx(value + never_seen)


def test_equal_items_that_are_not_binary_have_no_spread() -> None:
    estimate = cluster_bootstrap([0.25] * 20, labels(20), [""] * 20)
    assert (estimate.low, estimate.value, estimate.high, estimate.error) == pytest.approx((0.25, 0.25, 0.25, 0.0))


def test_binary_items_with_spread_are_not_widened() -> None:
    values = [0.0, 1.0] * 15
    plain = cluster_bootstrap(values, labels(30), [""] * 30)
    binary = cluster_bootstrap(values, labels(30), [""] * 30, binary=True)
    assert (plain.low, plain.high) == (binary.low, binary.high)


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly() -> None:
    values = list(np.random.default_rng(8).normal(0, 1, 50))
    one, two, other = (cluster_bootstrap(values, labels(50), [""] * 50, seed=seed) for seed in (0, 0, 1))
    assert (one.low, one.high, one.error) == (two.low, two.high, two.error)
    assert np.array_equal(one.draws, two.draws)
    assert one.low != other.low
    assert one.low == pytest.approx(other.low, abs=0.05 * (one.high - one.low))


def test_the_order_of_items_does_not_matter() -> None:
    rng = np.random.default_rng(9)
    values, names = correlated(rng, 15), labels(15, 4)
    order = rng.permutation(60)
    one = cluster_bootstrap(values, names, [""] * 60)
    other = cluster_bootstrap([values[i] for i in order], [names[i] for i in order], [""] * 60)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_more_confidence_gives_a_wider_interval_within() -> None:
    values = list(np.random.default_rng(10).normal(0, 1, 40))
    narrow, middle, wide = (cluster_bootstrap(values, labels(40), [""] * 40, confidence=c) for c in (0.8, 0.95, 0.99))
    assert wide.low < middle.low < narrow.low < narrow.value < narrow.high < middle.high < wide.high


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("clusters", [(8,), (30,), (100,), (20, 20), (10, 10, 10, 10), (4, 4)])
def test_the_tail_at_the_ends_of_the_interval_is_what_the_interval_leaves_out(
    clusters: tuple[int, ...], confidence: float
) -> None:
    strata = strata_of(*clusters)
    values = list(np.random.default_rng(12).normal(3, 1, len(strata)))
    estimate = cluster_bootstrap(values, labels(len(strata)), strata, confidence=confidence, resamples=40_000)
    outside = (1 - confidence) / 2
    assert estimate.tail(estimate.low) == pytest.approx(outside, rel=0.15)
    assert 1 - estimate.tail(estimate.high) == pytest.approx(outside, rel=0.15)
    assert estimate.tail(estimate.value) == pytest.approx(0.5, abs=0.05)


def test_the_tail_grows_with_the_threshold_from_nearly_zero_to_one() -> None:
    values = list(np.random.default_rng(13).normal(0, 1, 12))
    estimate = cluster_bootstrap(values, labels(12), [""] * 12)
    tails = [estimate.tail(threshold) for threshold in np.linspace(-5, 5, 201)]
    assert tails == sorted(tails)
    assert 0 < tails[0] < 0.001
    assert tails[-1] == 1.0


def test_the_tail_has_no_jump_beyond_the_most_extreme_draw() -> None:
    values = list(np.random.default_rng(14).normal(0, 1, 8))
    estimate = cluster_bootstrap(values, labels(8), [""] * 8)
    extreme = float(estimate.draws.min())
    within, beyond = estimate.tail(extreme), estimate.tail(extreme - 1e-6)
    assert beyond == pytest.approx(within, rel=0.5)


def plain_holm(p_values: list[float]) -> list[float]:
    """Holm 1979 by its definition: the least level at which each hypothesis is rejected."""
    ordered = sorted(p_values)
    adjusted = {p: min(1.0, max((len(ordered) - j) * ordered[j] for j in range(ordered.index(p) + 1))) for p in ordered}
    return [adjusted[p] for p in p_values]


def test_holms_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8, unique=True))
def test_holm_agrees_with_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(plain_holm(p_values))


def test_holm_of_nothing_and_of_one() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.9, 0.9]) == [1.0, 1.0, 1.0]
