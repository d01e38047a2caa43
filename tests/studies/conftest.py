"""A second way to the numbers of a study: plain t intervals over prompts, and noise without skew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

Spread = Callable[[int, int], NDArray[np.float64]]
ByPrompt = Callable[[Sequence[float], Sequence[str]], "Interval"]


@dataclass(frozen=True)
class Interval:
    """A mean with its plain t interval."""

    value: float
    half: float

    def refuse(self, value: float, ends: Sequence[float]) -> None:
        """Refuse another mean, and an interval that is narrower than the plain one, or far wider.

        A gate's interval may allow for what a sample did not show; what counts items as prompts, or takes another level,
        is narrower.
        """
        assert value == pytest.approx(self.value)
        low, high = ends
        assert 0.9 * self.half <= value - low <= 1.75 * self.half
        assert 0.9 * self.half <= high - value <= 1.75 * self.half


@pytest.fixture
def spread() -> Spread:
    """``spread(n, seed)``: n normal quantiles in random order, so that mean and skew are zero."""

    def make(count: int, seed: int) -> NDArray[np.float64]:
        quantiles = stats.norm.ppf((np.arange(count) + 0.5) / count)
        return np.random.default_rng(seed).permutation(quantiles)

    return make


@pytest.fixture
def by_prompt() -> ByPrompt:
    """Mean and 95 % t interval over the means of prompts, all of which have as many values."""

    def interval(values: Sequence[float], prompts: Sequence[str]) -> Interval:
        means = np.array([np.mean([v for v, p in zip(values, prompts, strict=True) if p == one])
                          for one in sorted(set(prompts))])  # fmt: skip
        half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
        return Interval(float(means.mean()), float(half))

    return interval
