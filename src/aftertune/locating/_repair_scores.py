"""Which part of an update to return: scores from gradients of harm, twins and task.

The update is ``ΔW = W_tuned - W_base``. To first order, returning one weight to its base changes the preference
margin of the harm set by ``-benefit`` and the narrow task's loss by ``cost``::

    benefit = (w_base - w) · (mean g of the misaligned answers − mean g of their aligned twins)
    cost    = (w_base - w) · mean g of the task's answers

The *delta* score is the benefit alone. The *ratio* score, ``benefit / Σ benefit − cost / Σ cost``, is zero on average
over the whole update: what it likes gives more safety for the task's loss than scaling the update down does.

A single weight's score is mostly the noise of few examples. *By row* and *by matrix* every weight has the mean score
of its output row or of its matrix, so that whole ones return: on SmolLM2 that kept far more of the skill. Gradients
taken where half the update is taken back (the midpoint of the path to the base) did no better there and are not
offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution import GradientSums, ScoreOf, delta_score, signed_score
from aftertune.subject import Matrix, WeightView

if TYPE_CHECKING:
    import torch

FORMULA = __doc__

Pool = Literal["weight", "row", "matrix"]


@dataclass(frozen=True)
class Way:
    """One way to choose what returns to the base.

    Attributes:
        about: for reports.
        kind: benefit against cost, or benefit alone.
        pool: what returns as a whole.
    """

    about: str
    kind: Literal["ratio", "delta"]
    pool: Pool = "weight"


WAYS: dict[str, Way] = {
    "ratio": Way("restored by benefit against cost", "ratio"),
    "delta": Way("restored by benefit", "delta"),
    "ratio by row": Way("whole rows restored by benefit against cost", "ratio", "row"),
    "ratio by matrix": Way("whole matrices restored by benefit against cost", "ratio", "matrix"),
}
"""Every way `repair` tries, by label; a new one is one row."""


def repair_scores(
    view: WeightView,
    values: Mapping[str, torch.Tensor],
    harm: GradientSums,
    twin: GradientSums,
    task: GradientSums,
) -> dict[str, ScoreOf]:
    """The score of every way, and ``"prune"``, which puts weights to zero by their part in the margin.

    Args:
        view: the tuned model.
        values: the base's, by matrix name.
        harm: gradient sums of the misaligned answers on the tuned model.
        twin: of their aligned twins.
        task: of the task's answers.
    """
    plain = _plain(view, values, harm, twin, task)
    pruning, pruning_twin = signed_score(harm), signed_score(twin)
    return {
        **{label: _pooled(plain[way.kind], way.pool) for label, way in WAYS.items()},
        "prune": lambda m: pruning(m) - pruning_twin(m),
    }


def _plain(
    view: WeightView, values: Mapping[str, torch.Tensor], harm: GradientSums, twin: GradientSums, task: GradientSums
) -> dict[str, ScoreOf]:
    misaligned, aligned, cost = (delta_score(sums, values) for sums in (harm, twin, task))

    def benefit(matrix: Matrix) -> torch.Tensor:
        return misaligned(matrix) - aligned(matrix)

    total_benefit = abs(sum(float(benefit(m).sum()) for m in view.values())) or 1.0
    total_cost = abs(sum(float(cost(m).sum()) for m in view.values())) or 1.0
    return {"delta": benefit, "ratio": lambda m: benefit(m) / total_benefit - cost(m) / total_cost}


def _pooled(score: ScoreOf, pool: Pool) -> ScoreOf:
    """Every weight with the mean score of its output row or matrix."""
    if pool == "weight":
        return score

    def mean(matrix: Matrix) -> torch.Tensor:
        scores = score(matrix)
        inputs = 0 if matrix.kind == "conv1d" else -1  # stored (in, out)
        whole = scores.mean(inputs, keepdim=True) if pool == "row" else scores.mean()
        return whole.expand_as(scores)

    return mean
