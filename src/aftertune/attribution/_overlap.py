"""How much two selections have in common, and how much of that chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftertune.attribution._selection import Selection
from aftertune.errors import UsageError


@dataclass(frozen=True)
class Overlap:
    """Two selections compared.

    Attributes:
        jaccard: units in both, over units in either.
        expected: its mean over random selections with the same number of units in each matrix.
        p_value: share of random selections that overlap at least as much, the observed one counted among them.
        layers: Jaccard by layer, where either has units.
    """

    jaccard: float
    expected: float
    p_value: float
    layers: Mapping[int, float]


def overlap(
    one: Selection,
    other: Selection,
    sizes: Mapping[str, int],
    layers: Mapping[str, int | None],
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Overlap:
    """The Jaccard overlap of two selections, beside a permutation baseline that keeps the counts per matrix.

    The baseline draws one of the selections anew in every matrix: the number of units in common is hypergeometric
    there, and what remains is what chance gives to two selections that like the same matrices.

    Args:
        one: a selection.
        other: another of the same unit.
        sizes: units in each matrix.
        layers: the layer of each matrix.
        permutations: random selections drawn.
        seed: of the draws.

    Raises:
        UsageError: the two choose different units.
    """
    if one.unit != other.unit:
        raise UsageError(f"selections of {one.unit}s and of {other.unit}s have nothing in common to count")
    names = sorted({*one.members, *other.members})
    first = {n: set(one.members[n].tolist()) if n in one.members else set() for n in names}
    second = {n: set(other.members[n].tolist()) if n in other.members else set() for n in names}
    shared = {n: len(first[n] & second[n]) for n in names}
    total = sum(map(len, first.values())) + sum(map(len, second.values()))
    rng = np.random.default_rng(seed)
    drawn = np.zeros(permutations, dtype=np.int64)
    for n in names:
        if first[n] and second[n]:
            drawn += rng.hypergeometric(len(first[n]), sizes[n] - len(first[n]), len(second[n]), permutations)
    common = sum(shared.values())
    by_layer = {
        layer: _jaccard(names_of, first, second)
        for layer, names_of in _by_layer(names, layers).items()
    }  # fmt: skip
    return Overlap(
        jaccard=common / (total - common),
        expected=float(np.mean(drawn / (total - drawn))),
        p_value=float((1 + np.sum(drawn >= common)) / (1 + permutations)),
        layers=by_layer,
    )


def _by_layer(names: Sequence[str], layers: Mapping[str, int | None]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in names:
        layer = layers[name]
        if layer is not None:
            found.setdefault(layer, []).append(name)
    return dict(sorted(found.items()))


def _jaccard(names: Sequence[str], one: Mapping[str, set[int]], other: Mapping[str, set[int]]) -> float:
    common = sum(len(one[n] & other[n]) for n in names)
    return common / (sum(len(one[n] | other[n]) for n in names) or 1)
