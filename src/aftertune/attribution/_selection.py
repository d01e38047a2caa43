"""Choosing weights or units by score: harm minus keep, exact counts, ties by position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution._scores import ScoreOf, Unit, UnitSpace, unit_spaces
from aftertune.errors import NumericalError, SelectionError, UsageError
from aftertune.model import Matrix, WeightView

if TYPE_CHECKING:
    import torch

Scope = Literal["global", "matrix", "row"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen weights.

    Attributes:
        chosen: flat indices of weights, sorted, by matrix name; matrices without any are left out.
        members: the chosen units' numbers, sorted, by matrix name (the flat indices themselves for weights).
        unit: what was chosen as a whole.
        protected: how many of those asked for the keep set protected.
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


def selection_of(view: WeightView, chosen: Mapping[str, torch.Tensor], unit: Unit) -> Selection:
    """The units that a patch's weights make up, so that controls can be built beside a patch from a file.

    Args:
        view: the weights of the model the patch is for.
        chosen: flat indices by matrix name.
        unit: of which kind.

    Raises:
        UsageError: the weights are not whole units of this kind.
    """
    import torch

    if unit == "weight":
        return select_units(view, chosen, unit)
    if unit == "direction":
        raise UsageError("a patch of directions holds whole matrices, and does not tell which directions it took")
    spaces = _spaces(view, unit) or {}
    members = {}
    for name, index in chosen.items():
        if name not in spaces:
            raise UsageError(f"{name}: holds no {unit}s; the patch chose something else")
        space = spaces[name]
        owner = torch.empty(space.matrix.weights, dtype=torch.int64)
        every = torch.arange(space.units)
        owner[space.members(every)] = every.repeat_interleave(space.matrix.weights // space.units)
        members[name] = torch.unique(owner[index])
        if space.members(members[name]).numel() != index.numel():
            raise UsageError(f"{name}: the weights are not whole {unit}s; the patch chose something else")
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
    scope: Scope = "global",
) -> Selection:
    """The top ``prune_fraction`` by the harm score, less the top ``keep_fraction`` by the keep score.

    Only positive harm scores are chosen: removing the others would, to first order, help the behaviour. Counts are
    exact (rounded up), ties go to the earlier matrix and the lower index, and no model-wide sort is made.

    Args:
        view: the weights to choose from.
        harm: score by which to choose, higher is better to remove.
        keep: score by which to protect.
        prune_fraction: of the units (in all, in each matrix, or in each row by ``scope``), above 0, at most 1.
        keep_fraction: likewise, from 0 and below 1.
        unit: choose single weights, MLP neurons or attention heads.
        scope: rank over the model, within each matrix, or within each output row (weights only).

    Raises:
        UsageError: a fraction out of range, or a row scope with units.
        SelectionError: nothing is left.
    """
    if not 0 < prune_fraction <= 1:
        raise UsageError(f"prune fraction {prune_fraction:g}: must be above 0 and at most 1")
    _refuse_keep_fraction(keep_fraction)
    if scope == "row" and unit != "weight":
        raise UsageError("scope 'row' chooses single weights; use --unit weight, or another scope")
    spaces = _spaces(view, unit)
    picked = _top(view, harm, spaces, prune_fraction, scope, positive=True)
    wanted = sum(index.numel() for index in picked.values())
    if keep is not None and keep_fraction > 0:
        kept = _top(view, keep, spaces, keep_fraction, scope, positive=False)
        picked = {name: _without(index, kept[name]) if name in kept else index for name, index in picked.items()}
    units = sum(index.numel() for index in picked.values())
    if not units:
        reason = "the keep set protects them all" if wanted else "no score is positive"
        raise SelectionError(f"no {unit} is chosen: {reason}; change the fractions or the sets")
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

    Unlike `select`, protected units do not use up places, so that selections of equal count can be compared.

    Args:
        view: the weights to choose from.
        harm: score by which to choose; only positive ones are.
        keep: score by which to protect.
        count: how many units, at least one.
        keep_fraction: share of the units that ``keep`` protects.
        unit: choose single weights, MLP neurons or attention heads.

    Raises:
        UsageError: a count or fraction out of range.
        SelectionError: no unit has a positive score and is free.
    """
    spaces = _spaces(view, unit)
    if not 0 < count <= _candidates(view, spaces):
        raise UsageError(f"{count} {unit}s: must be from 1 to the {_candidates(view, spaces)} in view")
    _refuse_keep_fraction(keep_fraction)
    kept = _top(view, keep, spaces, keep_fraction, "global", positive=False) if keep and keep_fraction > 0 else {}

    def free() -> Iterator[tuple[str, torch.Tensor]]:
        for name, flat in _flat_scores(view, harm, spaces):
            if name in kept:
                flat[kept[name].to(flat.device)] = 0.0  # only positive scores are chosen
            yield name, flat

    picked = _top_of_all(free(), count, positive=True)
    if not sum(index.numel() for index in picked.values()):
        raise SelectionError(
            f"no {unit} is chosen: none has a positive score and is free; change the fractions or sets"
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
    view: WeightView,
    score: ScoreOf,
    spaces: Mapping[str, UnitSpace] | None,
    fraction: float,
    scope: Scope,
    *,
    positive: bool,
) -> dict[str, torch.Tensor]:
    """Indices of the highest scores by matrix name."""
    if scope == "global":
        total = sum(space.units for space in spaces.values()) if spaces else view.weights
        return _top_of_all(_flat_scores(view, score, spaces), math.ceil(fraction * total), positive)
    found: dict[str, torch.Tensor] = {}
    for name, flat in _flat_scores(view, score, spaces):
        if scope == "row":
            found[name] = _top_of_rows(view[name], flat, fraction, positive)
        else:
            found |= _top_of_all([(name, flat)], math.ceil(fraction * flat.numel()), positive)
    return found


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


def _top_of_rows(matrix: Matrix, flat: torch.Tensor, fraction: float, positive: bool) -> torch.Tensor:
    """The highest of every output row, as flat indices."""
    import torch

    shape = matrix.parameter.shape
    places = torch.arange(flat.numel(), device=flat.device).reshape(shape)
    scores = flat.reshape(shape)
    if matrix.kind == "conv1d":  # stored (in, out)
        places, scores = places.T, scores.T
    places, scores = places.reshape(-1, scores.shape[-1]), scores.reshape(-1, scores.shape[-1])
    values, order = scores.sort(dim=-1, descending=True, stable=True)
    count = math.ceil(fraction * scores.shape[-1])
    picked = places.gather(-1, order[:, :count])
    return (picked[values[:, :count] > 0] if positive else picked.reshape(-1)).sort().values.cpu()
