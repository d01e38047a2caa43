"""Tail probabilities of weighted sums of independent exponential variables, by a contour integral."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BISECTIONS = 24  # the path may cross anywhere near the saddle
_NODES = 81
_FARTHEST = 12.0  # of the grid, before it is stretched
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
    grid = np.linspace(0.0, _FARTHEST, _NODES) / _STRETCH
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
