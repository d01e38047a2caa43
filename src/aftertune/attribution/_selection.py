"""Choosing weights or units by score: harm minus keep, exact counts, ties by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution._scores import ScoreOf, Unit, UnitSpace, unit_spaces
from aftertune.errors import NumericalError, UsageError
from aftertune.subject import Matrix, WeightView

if TYPE_CHECKING:
    import torch

Scope = Literal["global", "matrix", "row"]
_BINS = 2**16


@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen weights.

    Attributes:
        chosen: flat indices, sorted, by matrix name; matrices without any are left out.
        unit: what was chosen as a whole.
        units: how many units were chosen.
        protected: how many of those asked for the keep set protected.
        candidates: units in view.
    """

    chosen: Mapping[str, torch.Tensor]
    unit: Unit
    units: int
    protected: int
    candidates: int

    @property
    def weights(self) -> int:
        """How many scalars."""
        return sum(index.numel() for index in self.chosen.values())


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
        UsageError: a fraction out of range, a row scope with units, or nothing is left.
    """
    if not 0 < prune_fraction <= 1:
        raise UsageError(f"prune fraction {prune_fraction:g}: must be above 0 and at most 1")
    if not 0 <= keep_fraction < 1:
        raise UsageError(f"keep fraction {keep_fraction:g}: must be from 0 and below 1")
    if scope == "row" and unit != "weight":
        raise UsageError("scope 'row' chooses single weights; use --unit weight, or another scope")
    spaces = None if unit == "weight" else {space.matrix.name: space for space in unit_spaces(view, unit)}
    picked = _top(view, harm, spaces, prune_fraction, scope, positive=True)
    wanted = sum(index.numel() for index in picked.values())
    if keep is not None and keep_fraction > 0:
        kept = _top(view, keep, spaces, keep_fraction, scope, positive=False)
        picked = {name: _without(index, kept[name]) if name in kept else index for name, index in picked.items()}
    units = sum(index.numel() for index in picked.values())
    if not units:
        reason = "the keep set protects them all" if wanted else "no score is positive"
        raise UsageError(f"no {unit} is chosen: {reason}; change the fractions or the sets")
    chosen = {
        name: (spaces[name].members(index) if spaces else index).sort().values
        for name, index in picked.items()
        if index.numel()
    }
    candidates = sum(space.units for space in spaces.values()) if spaces else view.weights
    return Selection(chosen, unit, units, wanted - units, candidates)


def _without(index: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    import torch

    return index[~torch.isin(index, others)]


def _flat_scores(
    view: WeightView, score: ScoreOf, spaces: Mapping[str, UnitSpace] | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Scores of one matrix after the other, flat and fp32; -0 counts as 0."""
    for name in spaces or view:
        scores = score(view[name])
        flat = (spaces[name].sums(scores) if spaces else scores).float().reshape(-1)
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
        return _top_of_all(lambda: _flat_scores(view, score, spaces), math.ceil(fraction * total), positive)
    found: dict[str, torch.Tensor] = {}
    for name, flat in _flat_scores(view, score, spaces):
        if scope == "row":
            found[name] = _top_of_rows(view[name], flat, fraction, positive)
        else:
            alone = [(name, flat)]
            found |= _top_of_all(alone.__iter__, math.ceil(fraction * flat.numel()), positive)
    return found


def _top_of_all(
    tables: Callable[[], Iterator[tuple[str, torch.Tensor]]], count: int, positive: bool
) -> dict[str, torch.Tensor]:
    """The ``count`` highest over several tables, in two passes: a histogram finds the level, then it is cut.

    Ties at the level go to earlier tables and lower indices.
    """
    import torch

    histogram = torch.zeros(_BINS, dtype=torch.int64)
    for _, flat in tables():
        usable = flat[flat > 0] if positive else flat
        histogram += torch.bincount(_bin(usable), minlength=_BINS).cpu()
    above = histogram.flip(0).cumsum(0).flip(0)  # how many stand in a bin or higher
    count = min(count, int(above[0]))
    if not count:
        return {}
    level = int((above >= count).nonzero().max())
    missing = count - (int(above[level + 1]) if level + 1 < _BINS else 0)
    chosen: dict[str, torch.Tensor] = {}
    places: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for name, flat in tables():
        bins = _bin(flat)
        if positive:
            bins = bins.masked_fill(flat <= 0, -1)
        chosen[name] = (bins > level).nonzero().squeeze(1).cpu()
        at = (bins == level).nonzero().squeeze(1)
        places.append((name, at.cpu(), flat[at].cpu()))
    order = torch.cat([values for _, _, values in places]).sort(descending=True, stable=True).indices[:missing]
    taken = torch.zeros(sum(at.numel() for _, at, _ in places), dtype=torch.bool)
    taken[order] = True
    start = 0
    for name, at, _ in places:
        mine = at[taken[start : start + at.numel()]]
        start += at.numel()
        chosen[name] = torch.cat([chosen[name], mine]).sort().values
    return chosen


def _bin(values: torch.Tensor) -> torch.Tensor:
    """The upper 16 bits of fp32 values, mapped so that their order is the values' order."""
    import torch

    bits = values.contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits)  # negative floats run backwards
    return (ordered >> 16) + _BINS // 2


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
