"""Scores of single weights for a repair; formulas stand in `_repair_ways`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aftertune.attribution import ScoreOf, Selection, contrastive_score, delta_score, select, select_units
from aftertune.locating._repair_ways import Gradients
from aftertune.model import Matrix, WeightView

if TYPE_CHECKING:
    import torch


def weight_scores(view: WeightView, values: Mapping[str, torch.Tensor], sums: Gradients) -> dict[str, ScoreOf]:
    """The scores "ratio", "delta" and "prune"; arguments as for `row_effects`."""
    misaligned, aligned, cost = (delta_score(one, values) for one in sums)

    def benefit(matrix: Matrix) -> torch.Tensor:
        return misaligned(matrix) - aligned(matrix)

    benefits, costs = (abs(sum(float(one(m).sum()) for m in view.values())) or 1.0 for one in (benefit, cost))
    return {
        "ratio": lambda m: benefit(m) / benefits - cost(m) / costs,
        "delta": benefit,
        "prune": contrastive_score(sums.harm, sums.twin),
    }


def nested_selections(view: WeightView, score: ScoreOf, shares: Sequence[float]) -> dict[float, Selection]:
    """What `select` chooses at each share, from one look at the model: smaller ones are the top of the largest."""
    import torch

    largest = select(view, score, prune_fraction=max(shares))
    scores = torch.cat([score(view[n]).reshape(-1)[i.to(view[n].parameter.device)].cpu()
                        for n, i in largest.chosen.items()])  # fmt: skip
    order = scores.sort(descending=True, stable=True).indices
    found = {}
    for share in shares:
        taken = torch.zeros(len(scores), dtype=torch.bool)
        taken[order[: math.ceil(share * view.weights)]] = True
        parts = torch.split(taken, [len(index) for index in largest.chosen.values()])
        chosen = {name: index[part] for (name, index), part in zip(largest.chosen.items(), parts, strict=True)}
        found[share] = select_units(view, chosen, "weight")
    return found
