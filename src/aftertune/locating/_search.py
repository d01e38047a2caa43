"""Which fractions: edits made in place, measured on the selection part, and undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from aftertune.attribution import ScoreOf, Selection, candidate_units, count_units, select
from aftertune.errors import SelectionError
from aftertune.locating._options import LocateOptions, ScoreName
from aftertune.model import WeightView

# What found most, planted or not: no one of them did everywhere (benchmarks/README.md, "Planted truth").
AUTO: tuple[tuple[ScoreName, float], ...] = (
    ("snip-contrast", 0.0),
    ("snip-contrast", 0.001),
    ("snip-keep", 0.001),
    ("snip-guarded", 0.0),
)
# Among directions first order is deceived most: those that all text needs are the largest.
AUTO_DIRECTIONS: tuple[tuple[ScoreName, float], ...] = (*AUTO, ("ablation", 0.0))
# The published names keep about 14 times as much as they prune (p 1e-3, q 7e-5).
KEEP_RATIO = 14
FIRST = {"weight": 16, "neuron": 1, "neuron+head": 1, "head": 1, "singular-vector": 1}
RATIO = {"weight": 4, "neuron": 2, "neuron+head": 2, "head": 2, "singular-vector": 2}
MOST_SHARE = {"weight": 1e-3, "neuron": 0.006, "neuron+head": 0.006, "head": 0.1, "singular-vector": 0.006}


@dataclass(frozen=True)
class Point:
    """One edit on the trade-off between harm removed and benign cost, both in nats per token.

    Attributes:
        label: whose edit: "patch", a control's name, or for what was searched but not taken the score's.
        score: what the units were ranked by.
        prune_fraction: share of the units chosen.
        keep_fraction: share of the units protected.
        units: how many were edited.
        weights: how many scalars that is.
        removed: harm removed: the fall of the preference margin where the harm set has twins, else the rise of the
            harm loss beyond that of the keep loss.
        cost: benign cost: the larger rise of the keep loss and of the loss on neutral prose.
        measures: means of everything measured.
    """

    label: str
    score: str
    prune_fraction: float
    keep_fraction: float
    units: int
    weights: int
    removed: float
    cost: float
    measures: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def fractions(view: WeightView, options: LocateOptions) -> list[float]:
    """The prune fractions to try, smallest first."""
    total = candidate_units(view, options.unit)
    if options.prune_fraction is not None:
        return [options.prune_fraction]
    first, ratio = min(FIRST[options.unit], total), RATIO[options.unit]
    most = max(first, MOST_SHARE[options.unit] * total)
    return [first * ratio**k / total for k in range(int(math.log(most / first, ratio)) + 1)]


def variants(options: LocateOptions) -> list[tuple[ScoreName, float | None]]:
    """The scores to try, each with its keep fraction; None is the published ratio to the prune fraction."""
    if options.score == "auto":
        tried = dict.fromkeys(
            (score, share if options.keep_fraction is None else options.keep_fraction)
            for score, share in (AUTO_DIRECTIONS if options.unit == "singular-vector" else AUTO)
        )
        return list(tried)
    # These weigh the keep set already; the others are the published kind, which protects its top.
    share = 0.0 if options.score in ("snip-guarded", "integrated-gradients", "ablation") else None
    return [(options.score, share if options.keep_fraction is None else options.keep_fraction)]


def trade(
    label: str,
    score: str,
    selection: Selection,
    pair: tuple[float, float],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Point:
    """The point of one edit, from means before and after."""
    rise = {metric: after[metric] - before[metric] for metric in before}
    cost = max(rise["response.nll:keep"], rise["capability.log_perplexity"])
    margin = rise.get("preference.margin:harm")
    removed = rise["response.nll:harm"] - rise["response.nll:keep"] if margin is None else -margin
    return Point(label, score, *pair, selection.units, selection.weights, removed, cost, dict(after))


def best(points: Sequence[Point], budget: float) -> Point:
    """The point that removes most within the budget; the cheapest where none is within."""
    within = [p for p in points if p.cost <= budget]
    if not within:
        return min(points, key=lambda p: (p.cost, p.units))
    return max(within, key=lambda p: (p.removed, -p.units))


def removal_at(points: Sequence[Point], budget: float) -> float:
    """The most harm removed at or below a benign cost, by straight lines between neighbouring points, from (0, 0)."""
    best_so_far, last = 0.0, (0.0, 0.0)
    for point in sorted(points, key=lambda p: p.units):
        cost, removed = max(point.cost, 0.0), point.removed
        if cost <= budget:
            best_so_far = max(best_so_far, removed)
        elif last[0] <= budget < cost:
            share = (budget - last[0]) / (cost - last[0])
            best_so_far = max(best_so_far, last[1] + share * (removed - last[1]))
        last = (cost, removed)
    return best_so_far


def area_under(points: Sequence[Point], budget: float, steps: int = 200) -> float:
    """The mean of `removal_at` over budgets from 0 to ``budget``: how much harm comes off per benign cost."""
    return sum(removal_at(points, budget * (k + 0.5) / steps) for k in range(steps)) / steps


def search(
    view: WeightView,
    score_of: Callable[[ScoreName], ScoreOf],
    keep: ScoreOf,
    options: LocateOptions,
    measure: Callable[[Selection], Mapping[str, float]],
    before: Mapping[str, float],
    step: Callable[..., None],
) -> list[list[tuple[Point, Selection]]]:
    """Try every score with every fraction, smallest first; two edits in a row at four times the budget end a score.

    Returns:
        The edits of each score that chose anything.

    Raises:
        SelectionError: no score and fraction leaves anything to choose.
    """
    tried: list[list[tuple[Point, Selection]]] = []
    refused: SelectionError | None = None
    for name, share in variants(options):
        score, edits, dear = score_of(name), list[tuple[Point, Selection]](), 0
        for prune in fractions(view, options):
            protect = min(0.5, KEEP_RATIO * prune) if share is None else share
            try:
                selection = select(view, score, keep, prune_fraction=prune, keep_fraction=protect,
                                   unit=options.unit)  # fmt: skip
            except SelectionError as error:
                refused = error
                step()
                continue
            if not edits or edits[-1][0].units != selection.units:
                edits.append((trade("patch", name, selection, (prune, protect), before, measure(selection)), selection))
                dear = dear + 1 if edits[-1][0].cost > 4 * options.budget else 0
            step(1, f"{name}, {count_units(selection.units, options.unit)}")
            if dear == 2:
                break
        if edits:
            tried.append(edits)
    if not tried:
        assert refused is not None
        raise refused
    return tried
