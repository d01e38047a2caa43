"""Paired cluster bootstrap for a difference of two subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        error: standard error (of the bootstrap distribution).
        items: items behind it.
        clusters: independent clusters behind it.
        draws: the bootstrap distribution, for p-values.
    """

    value: float
    low: float
    high: float
    error: float
    items: int
    clusters: int
    draws: NDArray[np.float64]

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the small-sample correction."""
        return max(1, self.clusters - 1)

    def tail(self, threshold: float) -> float:
        """One-sided p-value of "the truth is at most ``threshold``", consistent with the interval.

        The bootstrap's tail probability is widened to the t distribution as the interval is.
        """
        from scipy import stats

        below = float(np.mean(self.draws <= threshold))
        if below <= 0.0:
            return 1.0 / (len(self.draws) + 1) if self.value > threshold else 1.0
        if below >= 1.0:
            return 1.0
        spread = math.sqrt(self.degrees / (self.degrees + 1))
        return float(stats.t.cdf(stats.norm.ppf(below) * spread, self.degrees))


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    binary: bool = False,
) -> Estimate:
    """Mean of ``values`` (within strata, strata weighing the same) with a percentile interval over clusters.

    Clusters are drawn with replacement within each stratum, each with all its items. The percentile interval
    is too narrow by a factor sqrt((n-1)/n) and ignores the t quantile; its level is adjusted for both, as
    Hesterberg 2015 (The American Statistician 69:371, "expanded percentile"). Differences of 0/1 items can be
    all equal, and a bootstrap of equal numbers has no width: such an interval is widened to the exact bound
    for an event never seen in n clusters (1 - (α/2)^(1/n)).

    Args:
        values: one number per item.
        clusters: the cluster of each item.
        strata: the stratum of each item.
        confidence: coverage of the interval.
        seed: of the resampling.
        resamples: how many.
        binary: whether the items were 0 or 1 (or differences of such).
    """
    from scipy import stats

    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    labels = np.asarray(strata)
    names = sorted(set(strata))
    draws = np.zeros(resamples)
    total, count = 0.0, 0
    for name in names:
        inside = labels == name
        sums, sizes = _cluster_sums(data[inside], [c for c, keep in zip(clusters, inside, strict=True) if keep])
        total += float(sums.sum() / sizes.sum())
        count += len(sums)
        for start in range(0, resamples, 1000):
            stop = min(start + 1000, resamples)
            picked = rng.integers(0, len(sums), size=(stop - start, len(sums)))
            draws[start:stop] += sums[picked].sum(1) / sizes[picked].sum(1)
    draws /= len(names)
    value = total / len(names)
    degrees = max(1, count - len(names))
    alpha = (1 - confidence) / 2
    tail = float(stats.norm.cdf(math.sqrt((degrees + 1) / degrees) * stats.t.ppf(alpha, degrees)))
    low, high = (float(q) for q in np.quantile(draws, [tail, 1 - tail]))
    if binary:
        floor = 1 - alpha ** (1 / count)
        if np.ptp(data) == 0:
            low, high = min(low, value - floor), max(high, value + floor)
    return Estimate(value, low, high, float(draws.std(ddof=1)), len(data), count, draws)


def _cluster_sums(
    values: NDArray[np.float64], clusters: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=values).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: step-down adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
