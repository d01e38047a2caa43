"""Singular directions as units: what one term of a matrix's decomposition does to a loss.

Taking direction i out of W means ``W − σ_i l_i r_iᵀ``. With the loss's gradient G with respect to W, the derivative by
its scale is ``σ_i l_iᵀ G r_i``; from a layer's inputs x and output gradients d it is a sum over tokens of products of
two projections, so no weight's gradient is needed. An update of rank one, which sits in every neuron a little, is one
direction. Wei et al. 2024 remove ranks of weights as they act on activations; ours are those of the
weights themselves, ranked by gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftertune.attribution._scores import UnitSpace
from aftertune.errors import UsageError
from aftertune.model import LEADING, Matrix, WeightView

if TYPE_CHECKING:
    import torch

    from aftertune.attribution._unit_sums import UnitSums


@dataclass(frozen=True)
class DirectionSpace(UnitSpace):
    """The leading directions of one matrix; each of them touches all of its weights."""

    view: WeightView

    def sums(self, scores: torch.Tensor) -> torch.Tensor:
        """Refused: scores of single weights do not add up to those of directions.

        Raises:
            UsageError: always.
        """
        raise UsageError("scores of single weights say nothing of directions; take a score of units")

    def members(self, units: torch.Tensor) -> torch.Tensor:
        """Flat indices of all weights, if there is any unit."""
        import torch

        return torch.arange(self.matrix.weights if len(units) else 0)

    def sizes(self) -> torch.Tensor:
        """Singular values."""
        return self.view.directions(self.matrix.name).sizes.cpu()


def direction_spaces(view: WeightView) -> Iterator[DirectionSpace]:
    """Every matrix with its leading directions.

    Raises:
        UsageError: fused experts, whose inputs cannot be watched.
    """
    for matrix in view.values():
        if matrix.kind == "experts":
            raise UsageError("unit 'direction': the experts of this model are fused; take another --unit")
        shape = tuple(matrix.parameter.shape)
        yield DirectionSpace(matrix, min(LEADING, *shape), shape, 0, view)


@contextlib.contextmanager
def watched_directions(
    view: WeightView, spaces: Sequence[UnitSpace], sums: UnitSums, names: list[str]
) -> Iterator[None]:  # fmt: skip
    """Within the block every backward pass adds each direction's effect to ``sums``.

    Args:
        view: the matrices and their directions.
        spaces: those to watch.
        sums: added to.
        names: of the rows of the pass at work.

    Raises:
        NumericalError: in the pass, a gradient is NaN or infinite; the example is named.
    """
    modules: Mapping[str, Any] = dict(view.model.named_modules())

    def watch(matrix: Matrix) -> Callable[..., None]:
        directions = view.directions(matrix.name)

        def after(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            inputs = args[0].detach()  # a hook that holds the tensor it hangs on keeps a batch's graph alive

            def collect(gradient: torch.Tensor) -> None:
                rows, columns = gradient.float(), inputs.float()
                if matrix.kind == "conv1d":  # stored (in, out)
                    rows, columns = columns, rows
                product = (rows @ directions.left) * (columns @ directions.right.T) * directions.sizes
                sums.add(matrix.name, product.reshape(len(names), -1, product.shape[-1]).sum(1), names)

            output.register_hook(collect)  # type: ignore[no-untyped-call]

        return after

    handles = [modules[s.matrix.module].register_forward_hook(watch(s.matrix)) for s in spaces]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
