"""What a selection is compared with: controls of equal count, and another selection.

A claim about chosen weights stands only beside what the same number of other weights does. *Random* takes as many
units from each matrix by chance; *magnitude* takes by chance units about as large as the chosen; *opposite* takes
those that the same score puts last. The fourth control, *content-matched*, needs no code of its own: it is the same
selection with the aligned answers to the same prompts in place of the harm set. `overlap` counts what two selections
have in common, beside what chance would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aftertune.attribution._scores import ScoreOf, seeded_by_name
from aftertune.attribution._selection import Selection, select_count, select_units
from aftertune.attribution._units import UnitSpace, unit_spaces
from aftertune.errors import SelectionError, UsageError
from aftertune.model import Matrix, WeightView

if TYPE_CHECKING:
    import torch

_SAMPLES = 64


def random_control(view: WeightView, selection: Selection, seed: int = 0) -> Selection:
    """As many units of each matrix, drawn among those not chosen."""

    def draw(sizes: torch.Tensor, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return _others(len(sizes), chosen, len(chosen), generator)

    return _matched(view, selection, draw, seed)


def magnitude_control(view: WeightView, selection: Selection, seed: int = 0) -> Selection:
    """As many units of each matrix, each about as large as a chosen one (|w|, or the norm of a unit's weights)."""
    import torch

    def draw(sizes: torch.Tensor, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        pool = _others(len(sizes), chosen, max(4096, _SAMPLES * len(chosen)), generator)
        pool = pool[sizes[pool].argsort()]
        # Both in order of size: each chosen unit takes the first of its size or above that is left.
        rank = torch.arange(len(chosen))
        places = torch.searchsorted(sizes[pool], sizes[chosen].sort().values)
        places = (places - rank).cummax(0).values + rank
        return pool[torch.minimum(places, len(pool) - len(chosen) + rank)]

    return _matched(view, selection, draw, seed)


def opposite_control(
    view: WeightView, harm: ScoreOf, keep: ScoreOf | None, selection: Selection, keep_fraction: float
) -> Selection:
    """As many units of the model as were chosen, best by the harm score with its sign turned.

    Raises:
        SelectionError: no score is negative, or the keep set protects them all.
    """
    return select_count(
        view,
        lambda matrix: -harm(matrix),
        keep,
        count=selection.units,
        keep_fraction=keep_fraction,
        unit=selection.unit,
    )


def _others(units: int, chosen: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Up to ``count`` distinct unchosen units at random, at least as many as were chosen if there are."""
    import torch

    if units - len(chosen) < len(chosen):
        raise SelectionError("a control would need more units than a matrix has; lower the prune fraction")
    if units <= 4 * (count + len(chosen)):
        order = torch.randperm(units, generator=generator)
    else:
        order = torch.unique(torch.randint(units, (2 * (count + len(chosen)),), generator=generator))
        order = order[torch.randperm(len(order), generator=generator)]
    return order[~torch.isin(order, chosen)][:count]


def _matched(
    view: WeightView,
    selection: Selection,
    draw: Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor],
    seed: int,
) -> Selection:
    spaces = {s.matrix.name: s for s in unit_spaces(view, selection.unit)} if selection.unit != "weight" else {}
    picked: dict[str, torch.Tensor] = {}
    for name, chosen in selection.members.items():
        picked[name] = draw(_sizes(view[name], spaces.get(name)), chosen, seeded_by_name(seed, name))
    return select_units(view, picked, selection.unit)


def _sizes(matrix: Matrix, space: UnitSpace | None) -> torch.Tensor:
    return space.sizes() if space else matrix.parameter.detach().float().abs().reshape(-1).cpu()


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

    The baseline draws one of the selections anew in every matrix, where the number of units in common is then
    hypergeometric. This is what chance gives to two selections that prefer the same matrices.

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
        raise UsageError(f"selections of units '{one.unit}' and '{other.unit}' cannot be compared")
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
