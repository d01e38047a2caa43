"""What to search for and how: options, scores by name, the fractions to try, and the best of the edits tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aftertune.attribution import ScoreOf, Selection, Unit, candidate_units, count_units, select, unit_named
from aftertune.errors import SelectionError, UsageError
from aftertune.locating._results import Point
from aftertune.model import WeightView

ScoreName = Literal[
    "auto",
    "integrated-gradients",
    "ablation",
    "snip-guarded",
    "snip-contrast",
    "snip-keep",
    "snip",
]
FORMULAS: dict[str, str] = {
    "integrated-gradients": "the part in the rise of the harm loss as 64 units, found among first-order proposals, "
    "fade out together, less the larger part in the rises of twins and keep set",
    "ablation": "the rise of the harm loss when the unit alone is taken out, less the larger rise of the losses of "
    "twins and keep set, and less the part of the keep loss's rise above the budget; for units found among "
    "first-order proposals",
    "snip-keep": "-w * (mean g over the harm set - mean g over the keep set)",
    "snip-guarded": "the snip-contrast score, less |w| * mean |g| over the keep set (for units: mean |sum of w * g|)",
    "snip-contrast": "-w * (mean g over the harm set - average of the mean g over its aligned twins and the keep set)",
    "snip": "-w * mean g over the harm set",
}
SIGN = "g is the gradient of the mean negative log-likelihood per response token; the highest scores are chosen"
FORMER_SCORES: dict[str, ScoreName] = {
    "integrated": "integrated-gradients",
    "verified": "ablation",
    "guarded": "snip-guarded",
    "contrastive": "snip-contrast",
    "against_keep": "snip-keep",
    "signed": "snip",
}
"""Names of earlier versions: still accepted, and found in stored patches and documents."""
_RIVALS = ("absolute", "wanda", "magnitude", "random")


class LocateOptions(BaseModel):
    """Settings of one search for weights.

    By default several contrastive scores are tried over neurons and heads, and the selection part decides: no single
    one did best on planted truth and on untouched models alike (benchmarks/README.md, "Planted truth"). Orgad et al.
    2026 choose single weights by signed SNIP and protect the top of a keep set: ``unit="weight", score="snip"`` with
    both fractions given does that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Unit = Field(
        "neuron+head",
        description="what is chosen as a whole: neurons, attention heads, both, single weights, or singular vectors "
        "of any matrix",
    )
    score: ScoreName = Field(
        "auto",
        description="how units are ranked; auto tries several SNIP scores (attribution patching, for units) and keeps "
        "the best",
    )
    prune_fraction: float | None = Field(
        None, gt=0, le=1, description="share of the units to choose (default: searched within the budget)"
    )
    keep_fraction: float | None = Field(
        None, ge=0, lt=1, description="share of the units that the keep set protects (default: depends on the score)"
    )
    operation: Literal["zero", "scale"] = Field("zero", description="what is done to the chosen weights")
    factor: float = Field(0.0, ge=-1e6, le=1e6, description="for operation scale: multiply the weights by this")
    budget: float = Field(0.05, gt=0, le=1e6, description="benign loss the search may cost, in nats per token")
    limit: int | None = Field(None, ge=4, le=10**9, description="use at most this many examples of each part")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed for the data split and the random controls")

    @field_validator("unit", mode="before")
    @classmethod
    def _unit_today(cls, value: Any) -> Any:
        try:
            return unit_named(value) if isinstance(value, str) else value
        except UsageError:
            return value  # the type complains in its own words

    @field_validator("score", mode="before")
    @classmethod
    def _score_today(cls, value: Any) -> Any:
        if value in _RIVALS:
            raise ValueError(f"score '{value}' is only measured by `aftertune study planted`; choose another score")
        return FORMER_SCORES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.score in ("integrated-gradients", "ablation") and self.unit == "weight":
            raise ValueError(f"score '{self.score}' ranks whole units; choose another unit than 'weight'")
        if self.operation == "zero" and self.factor:
            raise ValueError("a factor only applies to operation 'scale'")
        return self


# What found most, planted or not: no one of them did everywhere (benchmarks/README.md, "Planted truth").
AUTO: tuple[tuple[ScoreName, float], ...] = (
    ("snip-contrast", 0.0),
    ("snip-contrast", 0.001),
    ("snip-keep", 0.001),
    ("snip-guarded", 0.0),
)
# First order is most misleading among singular vectors: those that all text needs are the largest.
AUTO_SINGULAR: tuple[tuple[ScoreName, float], ...] = (*AUTO, ("ablation", 0.0))
# The published names keep about 14 times as much as they prune (p 1e-3, q 7e-5).
KEEP_RATIO = 14
FIRST = {"weight": 16, "neuron": 1, "neuron+head": 1, "head": 1, "singular-vector": 1}
RATIO = {"weight": 4, "neuron": 2, "neuron+head": 2, "head": 2, "singular-vector": 2}
MOST_SHARE = {"weight": 1e-3, "neuron": 0.006, "neuron+head": 0.006, "head": 0.1, "singular-vector": 0.006}


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
            for score, share in (AUTO_SINGULAR if options.unit == "singular-vector" else AUTO)
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
