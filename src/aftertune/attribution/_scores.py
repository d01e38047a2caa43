"""Scores of weights, and of units made of weights. Everywhere, higher means: removing it lowers the behaviour more.

With the loss L of a set's responses and its gradient g, putting a weight w to zero changes L by about ``-w g``. The
published signed score ``w g`` (Orgad et al. 2026, after SNIP) is most negative for the weights that support the
responses; ours is ``-w g``, so that the best candidates stand at the top. The keep side takes ``|w| Σ_b |g_b|``
(Wei et al. 2024), which has no sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution._gradients import GradientSums
from aftertune.errors import UsageError
from aftertune.model import Matrix, WeightView, attention_heads, is_attention

if TYPE_CHECKING:
    import torch

Unit = Literal["weight", "neuron", "head", "component", "direction"]
ScoreOf = Callable[[Matrix], "torch.Tensor"]


def signed_score(sums: GradientSums) -> ScoreOf:
    """``-w · mean_b g_b``: the first-order rise of the set's mean loss when a weight is put to zero."""

    def score(matrix: Matrix) -> torch.Tensor:
        gradient = sums.signed[matrix.name]
        return matrix.parameter.detach().to(gradient) * gradient / -sums.examples

    return score


def absolute_score(sums: GradientSums) -> ScoreOf:
    """``|w| · mean_b |g_b|``: how much a weight matters to single examples, whichever way (Wei et al. 2024)."""
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


def guarded(score: ScoreOf, importance: ScoreOf) -> ScoreOf:
    """A score less an importance to what must stay: what everything rests on comes last, whatever its score."""
    return lambda matrix: score(matrix) - importance(matrix)


def magnitude_score(matrix: Matrix) -> torch.Tensor:
    """``|w|``: the simplest rival."""
    return matrix.parameter.detach().float().abs()


def random_score(seed: int) -> ScoreOf:
    """Uniform random scores, the same for the same seed, name and shape: what chance finds."""
    import torch

    def score(matrix: Matrix) -> torch.Tensor:
        generator = seeded_by_name(seed, matrix.name)
        return torch.rand(matrix.parameter.shape, generator=generator) + torch.finfo(torch.float32).tiny

    return score


def seeded_by_name(seed: int, name: str) -> torch.Generator:
    """A generator of its own for every matrix, the same whichever others there are."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def wanda_score(norms: Mapping[str, torch.Tensor]) -> ScoreOf:
    """``|w| · ‖x‖``: a weight's size times the norm of what flows through it (Sun et al. 2024, Wanda).

    Args:
        norms: of the inputs, by matrix name; see `input_norms`.
    """

    def score(matrix: Matrix) -> torch.Tensor:
        norm = norms[matrix.name]
        weights = matrix.parameter.detach().to(norm).abs()
        return weights * (norm[:, None] if matrix.kind == "conv1d" else norm)

    return score


@dataclass(frozen=True)
class UnitSpace:
    """How the weights of one matrix form units.

    Attributes:
        matrix: an output matrix: an MLP's down projection, or an attention's output projection.
        units: how many it holds.
        shape: its stored shape, regrouped so that ``axis`` counts units.
        axis: of ``shape``.
    """

    matrix: Matrix
    units: int
    shape: tuple[int, ...]
    axis: int

    def sums(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores summed over each unit, shape (units,), or (experts · units,) for fused experts."""
        grouped = scores.reshape(self.shape)
        if self.matrix.kind == "experts":
            return grouped.sum(1).reshape(-1)
        return grouped.transpose(0, self.axis).flatten(1).sum(1)

    def sizes(self) -> torch.Tensor:
        """How large each unit is: the norm of its weights, shape (units,), on the CPU."""
        return self.sums(self.matrix.parameter.detach().float().square()).sqrt().cpu()

    def members(self, units: torch.Tensor) -> torch.Tensor:
        """Flat indices of the weights of the given units."""
        import torch

        index = torch.arange(self.matrix.weights).reshape(self.shape)
        if self.matrix.kind == "experts":
            experts, outputs, inputs = self.shape
            return index.transpose(1, 2).reshape(experts * inputs, outputs)[units].reshape(-1)
        return index.transpose(0, self.axis).flatten(1)[units].reshape(-1)


_DOWN = ("down_proj", "c_proj", "fc2", "fc_out", "w2", "dense_4h_to_h", "fc_2")
_OUT = ("o_proj", "c_proj", "out_proj", "dense", "wo")


def unit_spaces(view: WeightView, unit: Unit) -> Iterator[UnitSpace]:
    """The matrices whose inputs are units, with their regrouping.

    A neuron is one input of an MLP's output matrix, a head is a block of inputs of the attention's; components are
    both together. Putting all its weights there to zero takes the unit out of the computation. Directions are leading
    terms of any matrix's decomposition.

    Raises:
        UsageError: the unit is "weight", which needs no space, the model names its parts in an unknown way, or its
            heads cannot be told apart.
    """
    if unit == "direction":
        from aftertune.attribution._directions import direction_spaces

        yield from direction_spaces(view)
        return
    found = False
    for matrix in view.values():
        attention = is_attention(view.model, matrix)
        last = matrix.role.rpartition(".")[2]
        if unit in ("neuron", "component") and not attention and last in _DOWN:
            found = True
            yield _columns(matrix, matrix.parameter.shape[0 if matrix.kind == "conv1d" else -1])
        elif unit in ("head", "component") and attention and last in _OUT:
            found = True
            yield _columns(matrix, attention_heads(view.model, matrix))
    if not found:
        raise UsageError(f"unit '{unit}': no matrix of this model is known to hold such units; use --unit weight")


def _columns(matrix: Matrix, units: int) -> UnitSpace:
    shape = tuple(matrix.parameter.shape)
    if matrix.kind == "experts":
        return UnitSpace(matrix, shape[0] * units, shape, 2)
    if matrix.kind == "conv1d":
        return UnitSpace(matrix, units, (units, shape[0] // units, shape[1]), 0)
    return UnitSpace(matrix, units, (shape[0], units, shape[1] // units), 1)
