"""Controls of a selection: as many weights, chosen by something else.

A claim about chosen weights stands only beside what the same number of other weights does. *Random* takes as many
units from each matrix by chance; *magnitude* takes by chance units about as large as the chosen; *opposite* takes
those that the same score puts last. The fourth control, *content-matched*, needs no code of its own: it is the same
selection with the aligned answers to the same prompts in the place of the harm set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aftertune.attribution._scores import ScoreOf, UnitSpace, seeded_by_name, unit_spaces
from aftertune.attribution._selection import Selection, select_count, select_units
from aftertune.errors import SelectionError
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
