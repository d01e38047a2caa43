"""Scores of single weights for a repair: rivals that the frontier shows beside whole rows and matrices.

Formulas stand in `_repair_rows`. The *delta* score is the benefit alone; *prune* puts weights to zero by their
first-order part in the preference margin, without a look at the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution import GradientSums, ScoreOf, contrastive_score, delta_score
from aftertune.subject import Matrix, WeightView

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rival:
    """One way to choose single weights.

    Attributes:
        about: for reports.
        operation: what is done to them.
        shares: of the weights in view, that are tried.
    """

    about: str
    operation: Literal["restore", "zero"]
    shares: tuple[float, ...]


RIVALS: dict[str, Rival] = {
    "ratio": Rival("single weights restored by benefit against cost", "restore", (0.003, 0.03)),
    "delta": Rival("single weights restored by benefit", "restore", (0.003, 0.03)),
    "prune": Rival("single weights put to zero", "zero", (1e-6, 1e-5, 1e-4)),
}


def weight_scores(
    view: WeightView, values: Mapping[str, torch.Tensor], harm: GradientSums, twin: GradientSums, task: GradientSums
) -> dict[str, ScoreOf]:
    """The score of every rival.

    Args:
        view: the tuned model.
        values: the base's, by matrix name.
        harm: gradient sums of the misaligned answers on the tuned model.
        twin: of their aligned twins.
        task: of the task's answers.
    """
    misaligned, aligned, cost = (delta_score(sums, values) for sums in (harm, twin, task))

    def benefit(matrix: Matrix) -> torch.Tensor:
        return misaligned(matrix) - aligned(matrix)

    benefits, costs = (abs(sum(float(one(m).sum()) for m in view.values())) or 1.0 for one in (benefit, cost))
    return {
        "ratio": lambda m: benefit(m) / benefits - cost(m) / costs,
        "delta": benefit,
        "prune": contrastive_score(harm, twin),
    }
