"""Tail probabilities of weighted exponential sums against distributions that are known in closed form, and draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aftertune.stats._mean_interval import probability_positive


@pytest.mark.parametrize("ones", [0, 1, 3, 20])
@pytest.mark.parametrize("others", [4, 10, 76, 3000])
@pytest.mark.parametrize("tail", [0.5, 0.025, 1e-9])
def test_two_weights_are_a_beta_distribution(ones: int, others: int, tail: float) -> None:
    """The share of the ones in a sum of exponentials is Beta(ones, others)."""
    level = float(stats.beta.isf(tail, ones + 1, others))
    weights = np.r_[np.ones(ones + 1), np.zeros(others)] - level
    assert probability_positive(weights)[0] == pytest.approx(tail, rel=1e-6)


def test_two_exponentials_by_hand() -> None:
    """P(a E1 > b E2) = a / (a + b)."""
    assert probability_positive(np.array([3.0, -1.0]))[0] == pytest.approx(0.75, rel=1e-5)


def test_many_weights_agree_with_draws() -> None:
    rng = np.random.default_rng(1)
    weights = np.vstack([rng.normal(shift, 1.0, 30) for shift in (-0.5, -0.1, 0.0, 0.2)])
    drawn = (rng.exponential(size=(100_000, 30)) @ weights.T > 0).mean(0)
    assert probability_positive(weights) == pytest.approx(drawn, abs=4 * 0.5 / np.sqrt(100_000))


def test_counts_stand_for_repeated_weights() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(-0.2, 1.0, 12)
    counts = np.full(12, 3.0)
    assert probability_positive(weights, counts)[0] == pytest.approx(
        probability_positive(np.repeat(weights, 3))[0], rel=1e-9
    )


def test_sums_of_one_sign_are_certain() -> None:
    assert list(probability_positive(np.array([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 1.0]]))) == [1, 0, 0, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=10, max_size=40).filter(lambda w: min(w) < -0.01 < 0.01 < max(w)),
    st.floats(1e-6, 1e6),
)
def test_scale_does_not_matter_and_a_turned_sum_is_the_complement(weights: list[float], scale: float) -> None:
    held = np.array(weights)
    found = probability_positive(held)[0]
    assert 0 <= found <= 1
    assert probability_positive(held * scale)[0] == pytest.approx(found, rel=1e-6, abs=1e-12)
    assert probability_positive(-held)[0] == pytest.approx(1 - found, rel=1e-6, abs=1e-9)
