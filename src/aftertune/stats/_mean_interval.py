"""Intervals of a mean that no unseen prompt can surprise: a randomly weighted mean with one prompt more."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aftertune.stats._bootstrap import cluster_sums

_BISECTIONS = 24  # the path may cross anywhere near the saddle
_NODES = 81
_FARTHEST_SADDLE = 12.0  # of the grid, before it is stretched
_STRETCH = 2.0  # in units of the saddle's width: where the grid's spacing begins to grow
_FAR = 10.0  # likewise
_BEND = 0.5  # of the path, far out: how far aside for each step up
_AT_ONCE = 2_000_000  # numbers in one array


def probability_positive(
    weights: NDArray[np.float64], counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """P(Σ_i w_i E_i > 0) for independent standard exponential variables E_i, for each row of weights.

    With K(s) = −Σ log(1 − s w_i), P = 1/(2πi) ∫ exp(K(s)) / s ds upwards along any path that crosses the real axis
    between 0 and 1/max(w). Here it crosses at the integrand's minimum on the axis (its saddle). Nothing oscillates
    there, so small probabilities keep their relative precision. (Lugannani and Rice 1980, Advances in Applied
    Probability 12:475, start from the same integral and expand it; here it is summed.) Where the expected sum is
    positive, the complement is computed.

    Args:
        weights: shape (rows, n), finite.
        counts: how many variables share each weight, same shape, positive, whole or not (a Gamma variable then);
            one each if left out.

    Returns:
        Shape (rows,), each in [0, 1]. A row of zeros is never positive.
    """
    held = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    many = np.ones_like(held) if counts is None else np.broadcast_to(np.asarray(counts, dtype=np.float64), held.shape)
    turned = (held * many).sum(1) > 0
    signed = np.where(turned[:, None], -held, held)
    tails = np.zeros(len(held))
    possible = np.flatnonzero(signed.max(1) > 0)
    size = max(1, _AT_ONCE // (_NODES * held.shape[1]))
    for start in range(0, len(possible), size):
        rows = possible[start : start + size]
        # The scale of the weights does not change the sign of their sum.
        scale = np.abs(signed[rows]).max(1, keepdims=True)
        tails[rows] = _tails(signed[rows] / scale, many[rows])
    tails = np.clip(tails, 0.0, 1.0)
    return np.where(turned, 1.0 - tails, tails)


def _tails(weights: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    saddle = _saddles(weights, counts)
    left = 1.0 - saddle[:, None] * weights
    width = 1.0 / np.sqrt((counts * (weights / left) ** 2).sum(1) + 1.0 / saddle**2)
    level = -(counts * np.log(left)).sum(1)
    # Even steps near the saddle, growing ones outwards, where only powers are left of the integrand.
    grid = np.linspace(0.0, _FARTHEST_SADDLE, _NODES) / _STRETCH
    up = np.sinh(grid) * _STRETCH
    slope = np.cosh(grid) * (grid[1] * _STRETCH)
    slope[0] /= 2
    # One weight may outweigh the others, which then turn the integrand round for long: the path bends to the side on
    # which they make it fall.
    far = 1.0 - (saddle + 1j * _FAR * width)[:, None] * weights
    side = -_BEND * np.sign((counts * (weights / far).real).sum(1))[:, None]
    steps = width[:, None] * (side * (np.hypot(up, 1.0) - 1.0) + 1j * up)
    lean = side * up / np.hypot(up, 1.0)
    turn = 1.0 - (steps[:, :, None] * (weights / left)[:, None, :])
    size = -0.5 * (counts[:, None, :] * np.log(turn.real**2 + turn.imag**2)).sum(2)
    phase = -(counts[:, None, :] * np.arctan2(turn.imag, turn.real)).sum(2)
    value = np.exp(size + 1j * phase) / (1.0 + steps / saddle[:, None]) * (1.0 - 1j * lean)
    tails: NDArray[np.float64] = np.exp(level) * (width / saddle) / np.pi * (value.real * slope).sum(1)
    return tails


def _saddles(weights: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where K'(s) = 1/s between 0 and 1/max(w): the left side grows there and the right side falls."""
    low: NDArray[np.float64] = np.zeros(len(weights))
    high: NDArray[np.float64] = 1.0 / weights.max(1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slope = (counts * weights / (1.0 - middle[:, None] * weights)).sum(1)
        above = slope * middle > 1.0
        high = np.where(above, middle, high)
        low = np.where(above, low, middle)
    saddles: NDArray[np.float64] = (low + high) / 2
    return saddles


_FROM = 150  # clusters, from which on a class of one prompt in fifty is rarely unseen
_FARTHEST, _NEAREST = 2.0, 0.5
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval.

    Attributes:
        value: the mean, within strata first; strata weigh the same.
        error: standard error of the mean.
        items: items behind it.
        clusters: independent clusters behind it.
        confidence: coverage of the interval.
        extent: the least and the greatest value that an item can have; None where there is no such bound.
        spread: each cluster's distance from the mean, in the units of the values: the stratified mean's linear part.
        sizes: each cluster's number of items over the mean number in its stratum.
    """

    value: float
    error: float
    items: int
    clusters: int
    confidence: float
    extent: tuple[float, float] | None
    spread: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @functools.cached_property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._end(-1, self.clusters)

    @functools.cached_property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._end(1, self.clusters)

    @property
    def degenerate(self) -> bool:
        """Whether nothing can be said of the mean's error: values without bounds that are all the same."""
        return self.extent is None and not _varies(self.spread, self.value)

    def turned(self) -> MeanInterval:
        """The interval of the negated values."""
        extent = None if self.extent is None else (-self.extent[1], -self.extent[0])
        return replace(self, value=-self.value, extent=extent, spread=-self.spread)

    def tail(self, threshold: float) -> float:
        """One-sided p-value of "the mean is at most ``threshold``".

        It is at most (1 − confidence) / 2 exactly where `low` is at least the threshold.
        """
        if self.degenerate:
            return float(threshold >= self.value)
        return 1.0 - self._above(threshold, self._guard(-1, self.clusters), self.clusters)

    def ends_below(self, threshold: float, clusters: int) -> bool:
        """Whether the upper end were at most ``threshold`` if as many clusters showed this mean and spread: to plan."""
        if threshold < self.value:
            return False
        return (
            self.degenerate or self._above(threshold, self._guard(1, clusters), clusters) <= (1 - self.confidence) / 2
        )

    def _guard(self, side: int, clusters: int) -> float:
        """The value of the one unseen cluster that counts beside the seen ones, at the upper (1) or lower (-1) side."""
        if self.extent is not None:
            return self.extent[1] if side > 0 else self.extent[0]
        farthest = float((side * self.spread).max())
        if clusters > self.clusters > 1:  # the farthest of more draws lies farther out: for a normal by the root of
            farthest *= math.sqrt(math.log(clusters) / math.log(self.clusters))
        return self.value + side * max(_NEAREST, min(_FARTHEST, _FROM / clusters)) * farthest

    def _above(self, threshold: float, guard: float, clusters: int) -> float:
        """The probability that the randomly weighted mean, the guard included, lies above a threshold."""
        weights = np.append(self.spread + (self.value - threshold) * self.sizes, guard - threshold)
        counts = np.append(np.full(len(self.spread), clusters / self.clusters), 1.0)
        return float(probability_positive(weights, counts)[0])

    def _end(self, side: int, clusters: int) -> float:
        if self.degenerate:
            return self.value
        alpha, guard = (1 - self.confidence) / 2, self._guard(side, clusters)
        ratios = self.value + self.spread / self.sizes
        # Beyond all values, the guard's included, nothing lies; at the mean itself more than alpha does.
        outermost = max((side * ratios).max(), side * guard)

        def excess(distance: float) -> float:
            threshold = side * distance
            above = self._above(threshold, guard, clusters)
            return (above if side > 0 else 1.0 - above) - alpha

        return side * _root(excess, side * self.value, float(outermost))


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    extent: tuple[float, float] | None = None,
) -> MeanInterval:
    """The mean of ``values`` (within strata, strata weighing the same), with an interval that is safe under skew.

    Each cluster gets a random weight (exponential, so that all together are Dirichlet distributed: the Bayesian
    bootstrap, Rubin 1981, Annals of Statistics 9:130), and so does one more cluster that was not seen. The interval's
    upper end is the value that the weighted mean exceeds with probability (1 − confidence) / 2; it is computed, not
    drawn.

    Where items have a known extent, the unseen cluster lies at its far end. This is the bound of Gaffke (2005,
    Mathematical Methods of Statistics 14:451). On zeros and ones it equals the exact binomial bound of Clopper and
    Pearson (1934), and with no event among n it is 1 − α^(1/n). It grows with every value. No distribution is known on
    which it fails (Learned-Miller and Thomas 2019, arXiv:1905.06208, conjecture that there is none); proofs exist
    for special cases and for a slightly wider bound (Phan, Thomas and Learned-Miller 2021, arXiv:2106.03163).

    Without a known extent, no bound can hold for every distribution: one prompt in a thousand might be a thousand times
    as bad. Here the unseen cluster lies beyond the mean by twice the largest deviation seen on that side, with up to 75
    clusters. From there on the factor falls like 1/n to one half, since a class of one prompt in fifty is then likely
    to have been seen. One half is enough for second-order accuracy under skew: the weights' own skewness leaves half
    of a standard deviation times the skewness to be added (Hall 1992, The Bootstrap and Edgeworth Expansion, section
    3.10), and that is never more than half of the largest deviation. The factors were chosen by simulation, see
    ``benchmarks/verdict_rates.py``.

    Deviations are those from the stratum's mean, scaled by √(n/(n−1)) in a stratum of n clusters. Where a stratum has
    one cluster alone, all deviations are from the overall mean, which makes the interval wider.

    Args:
        values: one number per item.
        clusters: the cluster of each item.
        strata: the stratum of each item; one stratum if left out.
        confidence: coverage of the interval.
        extent: the least and the greatest value that an item can have, where there are such.

    Raises:
        ValueError: a value lies outside of the extent, or there is none.
    """
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        raise ValueError("a mean needs at least one value")
    if extent is not None and not (extent[0] - _NO_SPREAD <= data.min() and data.max() <= extent[1] + _NO_SPREAD):
        raise ValueError(f"values from {data.min()} to {data.max()} do not lie within {extent}")
    labels = np.asarray(strata if strata is not None else [""] * len(data))
    names = sorted(set(labels.tolist()))
    table = [cluster_sums(data[labels == name], [c for c, own in zip(clusters, labels == name, strict=True) if own])
             for name in names]  # fmt: skip
    means = [float(sums.sum() / sizes.sum()) for sums, sizes in table]
    value, count = math.fsum(means) / len(names), sum(len(sums) for sums, _ in table)
    apart = len(names) > 1 and min(len(sums) for sums, _ in table) > 1
    spreads, relative = [], []
    for mean, (sums, sizes) in zip(means, table, strict=True):
        n = len(sums)
        part = count / (len(names) * n * sizes.mean())
        centre, widened = (mean, math.sqrt(n / (n - 1))) if apart else (value, 1.0)
        spreads.append(part * widened * (sums - centre * sizes))
        relative.append(sizes / sizes.mean())
    spread = np.concatenate(spreads)
    farthest = float(np.abs(spread).max()) or 1.0  # squares of huge values would overflow
    error = farthest * math.sqrt(float(((spread / farthest) ** 2).sum()) / (count * (count - 1))) if count > 1 else 0.0
    return MeanInterval(value, error, len(data), count, confidence, extent, spread, np.concatenate(relative))


def _varies(spread: NDArray[np.float64], value: float) -> bool:
    """Whether values differ by more than their rounding."""
    return bool(np.abs(spread).max() > _NO_SPREAD * max(1.0, abs(value)))


def _root(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Where a falling function that is positive inside and negative outside is zero."""
    from scipy.optimize import brentq

    if excess(inside) <= 0 or outside <= inside:  # so few clusters that even the mean itself is out of reach
        return inside
    return float(brentq(excess, inside, outside, xtol=1e-10, rtol=1e-9))
