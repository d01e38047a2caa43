"""Scores of weights and units. Everywhere, higher means: removing it lowers the behaviour more.

With the loss L of a set's responses and its gradient g, putting a weight w to zero changes L by about ``-w g``. The
published signed score ``w g`` (Orgad et al. 2026, after SNIP, Lee et al. 2019) is most negative for the weights that
support the responses; ours is ``-w g``, so that the best candidates stand at the top. The keep side takes
``|w| Σ_b |g_b|`` (Wei et al. 2024), which has no sign. Scores of units are made of `UnitSums`, and equal those of
their weights summed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aftertune.attribution._unit_sums import UnitSums
from aftertune.attribution._weight_sums import GradientSums
from aftertune.errors import UsageError
from aftertune.model import Matrix

if TYPE_CHECKING:
    import torch

ScoreOf = Callable[[Matrix], "torch.Tensor"]


def signed_score(sums: GradientSums) -> ScoreOf:
    """Signed SNIP, ``-w · mean_b g_b``: the first-order rise of the mean loss when a weight is put to zero."""

    def score(matrix: Matrix) -> torch.Tensor:
        gradient = sums.signed[matrix.name]
        return matrix.parameter.detach().to(gradient) * gradient / -sums.examples

    return score


def absolute_score(sums: GradientSums) -> ScoreOf:
    """Unsigned SNIP, ``|w| · mean_b |g_b|``: how much a weight matters to single examples (Wei et al. 2024)."""
    if not sums.absolute:
        raise UsageError("absolute scores need absolute gradient sums; ask for them with absolute=True")

    def score(matrix: Matrix) -> torch.Tensor:
        gradient = sums.absolute[matrix.name]
        return matrix.parameter.detach().to(gradient).abs() * gradient / sums.examples

    return score


def contrastive_score(harm: GradientSums, *others: GradientSums) -> ScoreOf:
    """``-w · (mean g of the harm set − the average over the other sets of their mean g)``.

    The first-order rise of the harm set's loss beyond that of the others when a weight is put to zero. With the
    aligned twins of the same prompts as the other set it is the change of the preference: what both answers share
    (length, style, topic) cancels. A keep set beside them cancels what all text needs.
    """

    def score(matrix: Matrix) -> torch.Tensor:
        difference = -harm.signed[matrix.name] / harm.examples
        for other in others:
            difference += other.signed[matrix.name].to(difference) / (other.examples * len(others))
        return difference.mul_(matrix.parameter.detach().to(difference))

    return score


def delta_score(sums: GradientSums, base: Mapping[str, torch.Tensor]) -> ScoreOf:
    """``(w_base − w) · mean_b g_b``: the first-order rise of the set's mean loss when a weight returns to its base."""

    def score(matrix: Matrix) -> torch.Tensor:
        gradient = sums.signed[matrix.name]
        return (base[matrix.name].to(gradient) - matrix.parameter.detach().to(gradient)) * gradient / sums.examples

    return score


def unit_score(harm: UnitSums, *others: UnitSums) -> ScoreOf:
    """The first-order rise of the harm set's mean loss when a unit is taken out, beyond the average of the others'.

    Without another set it equals `signed_score` summed over units, with others `contrastive_score`.
    """

    def score(matrix: Matrix) -> torch.Tensor:
        value = -harm.signed[matrix.name] / harm.examples
        for other in others:
            value += other.signed[matrix.name] / (other.examples * len(others))
        return value

    return score


def unit_importance(sums: UnitSums) -> ScoreOf:
    """``mean_b |e_b|``: how much a unit matters to single examples, up or down; the keep side for units."""
    return lambda matrix: sums.absolute[matrix.name] / sums.examples


def guarded(score: ScoreOf, importance: ScoreOf) -> ScoreOf:
    """A score less the importance to what must stay: what everything rests on comes last, whatever its score."""
    return lambda matrix: score(matrix) - importance(matrix)


def guarded_score(harm: UnitSums, twin: UnitSums, keep: UnitSums) -> ScoreOf:
    """`unit_score` of the harm set against twins and keep set, less `unit_importance` to the keep set.

    First order deceives where a unit matters much to everything: its effects on the sets nearly cancel, and taking
    it out breaks the model. The guard puts such units last.
    """
    return guarded(unit_score(harm, twin, keep), unit_importance(keep))


def seeded_by_name(seed: int, name: str) -> torch.Generator:
    """A random generator for each matrix, the same whichever other matrices there are."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
