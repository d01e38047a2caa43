"""What is scored and edited as a whole: single weights, neurons, attention heads, or singular vectors of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from aftertune.errors import UsageError
from aftertune.model import LEADING, Matrix, WeightView, attention_heads, is_attention

if TYPE_CHECKING:
    import torch

Unit = Literal["neuron+head", "neuron", "head", "weight", "singular-vector"]
FORMER_UNITS: dict[str, Unit] = {"component": "neuron+head", "direction": "singular-vector"}
"""Names that stored patches and documents of earlier versions use."""

_DOWN = ("down_proj", "c_proj", "fc2", "fc_out", "w2", "dense_4h_to_h", "fc_2")
_OUT = ("o_proj", "c_proj", "out_proj", "dense", "wo")


def unit_named(name: str) -> Unit:
    """The kind of unit of this name, or of this former name.

    Raises:
        UsageError: there is none.
    """
    name = FORMER_UNITS.get(name, name)
    for unit in get_args(Unit):
        if unit == name:
            return unit  # type: ignore[no-any-return]
    raise UsageError(f"unit '{name}': not known; use one of {', '.join(get_args(Unit))}")


_WORDS = {"neuron+head": ("neuron or head", "neurons and heads"), "matrix": ("matrix", "matrices")}


def count_units(count: int, unit: str) -> str:
    """A number of units in words, such as "3 neurons and heads"."""
    unit = FORMER_UNITS.get(unit, unit).replace("singular-", "singular ")
    one, several = _WORDS.get(unit, (unit, f"{unit}s"))
    return f"{count:,} {one if count == 1 else several}"


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


@dataclass(frozen=True)
class SingularSpace(UnitSpace):
    """The leading singular vectors of one matrix; each of them touches all of its weights.

    Taking number i out of W means ``W − σ_i l_i r_iᵀ``. An update of rank one, which changes every neuron a little, is
    one such term. Wei et al. 2024 remove ranks of weights as they act on activations; ours are those of the weights
    themselves, ranked by gradients.
    """

    view: WeightView

    def sums(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of single weights do not add up to those of singular vectors.

        Raises:
            UsageError: always.
        """
        raise UsageError("scores of single weights cannot rank singular vectors; use a score of units")

    def members(self, units: torch.Tensor) -> torch.Tensor:
        """Flat indices of all weights, if there is any unit."""
        import torch

        return torch.arange(self.matrix.weights if len(units) else 0)

    def sizes(self) -> torch.Tensor:
        """Singular values."""
        return self.view.directions(self.matrix.name).sizes.cpu()


def unit_spaces(view: WeightView, unit: Unit) -> Iterator[UnitSpace]:
    """The matrices that hold units of a kind, with their regrouping.

    A neuron is one input of an MLP's output matrix, a head is a block of inputs of the attention's, and "neuron+head"
    is both. Putting all its weights there to zero takes the unit out of the computation. Singular vectors are the
    leading terms of any matrix's decomposition.

    Raises:
        UsageError: the unit is "weight", which needs no space; the model names its matrices in an unknown way; its
            heads cannot be separated; or singular vectors are asked of fused experts, whose inputs cannot be watched.
    """
    unit, found = unit_named(unit), False
    for matrix in view.values():
        last = matrix.role.rpartition(".")[2]
        space: UnitSpace | None = None
        if unit == "singular-vector":
            if matrix.kind == "experts":
                raise UsageError("unit 'singular-vector': this model's experts are fused; use another --unit")
            shape = tuple(matrix.parameter.shape)
            space = SingularSpace(matrix, min(LEADING, *shape), shape, 0, view)
        elif is_attention(view.model, matrix):
            if unit in ("head", "neuron+head") and last in _OUT:
                space = _columns(matrix, attention_heads(view.model, matrix))
        elif unit in ("neuron", "neuron+head") and last in _DOWN:
            space = _columns(matrix, matrix.parameter.shape[0 if matrix.kind == "conv1d" else -1])
        if space is not None:
            found = True
            yield space
    if not found:
        raise UsageError(
            f"unit '{unit}': aftertune does not know which matrices of this model hold it; use --unit weight"
        )


def _columns(matrix: Matrix, units: int) -> UnitSpace:
    shape = tuple(matrix.parameter.shape)
    if matrix.kind == "experts":
        return UnitSpace(matrix, shape[0] * units, shape, 2)
    if matrix.kind == "conv1d":
        return UnitSpace(matrix, units, (units, shape[0] // units, shape[1]), 0)
    return UnitSpace(matrix, units, (shape[0], units, shape[1] // units), 1)
