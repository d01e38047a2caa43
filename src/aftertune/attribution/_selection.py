"""Choosing weights or units by score: harm minus keep, exact counts, ties by position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.attribution._scores import ScoreOf
from aftertune.attribution._units import Unit, UnitSpace, count_units, unit_named, unit_spaces
from aftertune.errors import NumericalError, SelectionError, UsageError
from aftertune.model import WeightView

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen weights.

    Attributes:
        chosen: flat indices of weights, sorted, by matrix name; matrices without any are left out.
        members: the chosen units' numbers, sorted, by matrix name (the flat indices themselves for weights).
        unit: what was chosen as a whole.
        protected: how many of the top scores the keep set protected.
        candidates: units in view.
    """

    chosen: Mapping[str, torch.Tensor]
    members: Mapping[str, torch.Tensor]
    unit: Unit
    protected: int
    candidates: int

    @property
    def weights(self) -> int:
        """How many scalars."""
        return sum(index.numel() for index in self.chosen.values())

    @property
    def units(self) -> int:
        """How many units."""
        return sum(index.numel() for index in self.members.values())


def select_units(view: WeightView, members: Mapping[str, torch.Tensor], unit: Unit, *, protected: int = 0) -> Selection:
    """The selection of given units, by their numbers in each matrix."""
    unit = unit_named(unit)
    spaces = _spaces(view, unit)
    members = {name: index.sort().values for name, index in members.items() if index.numel()}
    chosen = {name: spaces[name].members(index).sort().values if spaces else index for name, index in members.items()}
    return Selection(chosen, members, unit, protected, _candidates(view, spaces))


def united(view: WeightView, selections: Sequence[Selection]) -> Selection:
    """All units that any of several selections of one kind holds."""
    import torch

    members: dict[str, set[int]] = {}
    for selection in selections:
        for name, numbers in selection.members.items():
            members.setdefault(name, set()).update(numbers.tolist())
    unit = selections[0].unit
    return select_units(view, {name: torch.tensor(sorted(found)) for name, found in members.items()}, unit)


def selection_of(view: WeightView, chosen: Mapping[str, torch.Tensor], unit: str) -> Selection:
    """The units that a patch's weights make up, so that controls can be built beside a patch from a file.

    Args:
        view: the weights of the model the patch is for.
        chosen: flat indices by matrix name.
        unit: their kind, as the patch calls it.

    Raises:
        UsageError: the weights are not whole units of this kind.
    """
    import torch

    unit = unit_named(unit)
    if unit == "weight":
        return select_units(view, chosen, unit)
    if unit == "singular-vector":
        raise UsageError("a patch of singular vectors holds whole matrices, so the vectors cannot be read from it")
    spaces = _spaces(view, unit) or {}
    members = {}
    for name, index in chosen.items():
        if name not in spaces:
            raise UsageError(f"{name}: does not hold units of kind '{unit}'; the patch was made of another kind")
        space = spaces[name]
        owner = torch.empty(space.matrix.weights, dtype=torch.int64)
        every = torch.arange(space.units)
        owner[space.members(every)] = every.repeat_interleave(space.matrix.weights // space.units)
        members[name] = torch.unique(owner[index])
        if space.members(members[name]).numel() != index.numel():
            raise UsageError(
                f"{name}: the weights are not whole units of kind '{unit}'; the patch was made of another kind"
            )
    return select_units(view, members, unit)


def _spaces(view: WeightView, unit: Unit) -> dict[str, UnitSpace] | None:
    return None if unit == "weight" else {space.matrix.name: space for space in unit_spaces(view, unit)}


def candidate_units(view: WeightView, unit: Unit) -> int:
    """How many units there are to choose from."""
    return _candidates(view, _spaces(view, unit))


def _candidates(view: WeightView, spaces: Mapping[str, UnitSpace] | None) -> int:
    return sum(space.units for space in spaces.values()) if spaces else view.weights


def select(
    view: WeightView,
    harm: ScoreOf,
    keep: ScoreOf | None = None,
    *,
    prune_fraction: float,
    keep_fraction: float = 0.0,
    unit: Unit = "weight",
) -> Selection:
    """The top ``prune_fraction`` by the harm score, less the top ``keep_fraction`` by the keep score.

    Only positive harm scores are chosen: removing the others would, to first order, help the behaviour. Counts are
    exact (rounded up), ties go to the earlier matrix and the lower index, and no model-wide sort is made.

    Args:
        view: the weights to choose from.
        harm: score by which to choose, higher is better to remove.
        keep: score by which to protect.
        prune_fraction: of the units in view, above 0, at most 1.
        keep_fraction: likewise, from 0 and below 1.
        unit: what is chosen as a whole.

    Raises:
        UsageError: a fraction out of range.
        SelectionError: nothing is left.
    """
    if not 0 < prune_fraction <= 1:
        raise UsageError(f"prune fraction {prune_fraction:g}: must be above 0 and at most 1")
    _refuse_keep_fraction(keep_fraction)
    spaces = _spaces(view, unit)
    picked = _top(view, harm, spaces, prune_fraction, positive=True)
    wanted = sum(index.numel() for index in picked.values())
    if keep is not None and keep_fraction > 0:
        kept = _top(view, keep, spaces, keep_fraction, positive=False)
        picked = {name: _without(index, kept[name]) if name in kept else index for name, index in picked.items()}
    units = sum(index.numel() for index in picked.values())
    if not units:
        reason = "the keep set protects them all" if wanted else "no score is positive"
        raise SelectionError(f"nothing is left to choose (unit '{unit}'): {reason}; change the fractions or the sets")
    return select_units(view, picked, unit, protected=wanted - units)


def select_count(
    view: WeightView,
    harm: ScoreOf,
    keep: ScoreOf | None = None,
    *,
    count: int,
    keep_fraction: float = 0.0,
    unit: Unit = "weight",
) -> Selection:
    """The ``count`` best units of the model by the harm score among those the keep set leaves free.

    Unlike in `select`, protected units do not count, so that selections of equal count can be compared.

    Args:
        view: the weights to choose from.
        harm: score by which to choose; only positive ones are.
        keep: score by which to protect.
        count: how many units, at least one.
        keep_fraction: share of the units that ``keep`` protects.
        unit: what is chosen as a whole.

    Raises:
        UsageError: a count or fraction out of range.
        SelectionError: no unit has a positive score and is free.
    """
    spaces = _spaces(view, unit)
    if not 0 < count <= _candidates(view, spaces):
        raise UsageError(f"{count_units(count, unit)}: must be from 1 to the {_candidates(view, spaces)} in view")
    _refuse_keep_fraction(keep_fraction)
    kept = _top(view, keep, spaces, keep_fraction, positive=False) if keep and keep_fraction > 0 else {}

    def free() -> Iterator[tuple[str, torch.Tensor]]:
        for name, flat in _flat_scores(view, harm, spaces):
            if name in kept:
                flat[kept[name].to(flat.device)] = 0.0  # only positive scores are chosen
            yield name, flat

    picked = _top_of_all(free(), count, positive=True)
    if not sum(index.numel() for index in picked.values()):
        raise SelectionError(
            f"nothing is left to choose (unit '{unit}'): no unprotected one has a positive score; use other sets, or "
            "another subject"
        )
    return select_units(view, picked, unit)


def _refuse_keep_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UsageError(f"keep fraction {fraction:g}: must be from 0 and below 1")


def _without(index: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    import torch

    return index[~torch.isin(index, others)]


def _flat_scores(
    view: WeightView, score: ScoreOf, spaces: Mapping[str, UnitSpace] | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Scores of one matrix after the other, flat and fp32; -0 counts as 0."""
    for name in spaces or view:
        scores = score(view[name])
        by_weight = spaces and scores.numel() == view[name].weights
        flat = (spaces[name].sums(scores) if spaces and by_weight else scores).float().reshape(-1)
        if not bool(flat.isfinite().all()):
            raise NumericalError(f"{name}: its scores hold NaN or infinity; look for the example that causes them")
        yield name, flat + 0.0


def _top(
    view: WeightView, score: ScoreOf, spaces: Mapping[str, UnitSpace] | None, fraction: float, *, positive: bool
) -> dict[str, torch.Tensor]:
    """Indices of the highest scores of the model by matrix name."""
    count = math.ceil(fraction * _candidates(view, spaces))
    return _top_of_all(_flat_scores(view, score, spaces), count, positive)


def _top_of_all(tables: Iterable[tuple[str, torch.Tensor]], count: int, positive: bool) -> dict[str, torch.Tensor]:
    """The ``count`` highest over several tables in one pass; ties go to earlier tables and lower indices.

    A pool holds the best seen so far. It is cut to ``count`` whenever it holds twice as many, and from then on only
    what beats the last of the cut can enter.
    """
    import torch

    names: list[str] = []
    values = torch.empty(0)
    owners, places = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    level = 0.0 if positive else -math.inf
    for number, (name, flat) in enumerate(tables):
        names.append(name)
        hits = (flat > level).nonzero().squeeze(1)
        found = flat[hits]
        if len(found) > count:  # spare the pool what cannot stay
            last = found.topk(count, sorted=False).values.min()
            hits, found = hits[found >= last], found[found >= last]
        values = torch.cat([values, found.cpu()])
        owners = torch.cat([owners, torch.full((len(hits),), number)])
        places = torch.cat([places, hits.cpu()])
        if len(values) >= 2 * count:
            values, owners, places = _best(values, owners, places, count)
            level = float(values[-1])
    values, owners, places = _best(values, owners, places, count)
    return {name: places[owners == number].sort().values for number, name in enumerate(names)}


def _best(
    values: torch.Tensor, owners: torch.Tensor, places: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``count`` best, best first; equal ones stay in their order."""
    order = values.sort(descending=True, stable=True).indices[:count]
    return values[order], owners[order], places[order]
