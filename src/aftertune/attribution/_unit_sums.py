"""What whole units do to a loss, without the gradient of a single weight.

Let ``x_j`` be what unit j (a neuron, or the inputs of a head) feeds into its output matrix, and ``d_j`` the loss's
gradient with respect to it. Summed over tokens, ``x_j d_j`` equals the sum of ``w g`` over the unit's weights in
that matrix: both say how the loss changes when the unit is scaled. The backward pass computes ``d`` anyway, so unit
sums cost less than a training step and no memory to speak of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aftertune.attribution._directions import watched_directions
from aftertune.attribution._gradients import GradientSums, backward_passes, backward_tokens
from aftertune.attribution._scores import ScoreOf, Unit, UnitSpace, guarded, unit_spaces
from aftertune.errors import NumericalError, UsageError
from aftertune.model import Matrix, Subject, Tree, WeightView, plan_batches

if TYPE_CHECKING:
    import torch


class UnitSums(GradientSums):
    """Sums over the examples of one set, by the matrix that holds the units.

    ``signed`` is Σ_b e_b, where e_b is the derivative of example b's mean response loss with respect to the unit's
    scale, ``absolute`` is Σ_b |e_b|; fp32, shape (units,).
    """

    def add(self, matrix: str, effects: torch.Tensor, names: Sequence[str]) -> None:
        """Add the effects of the named examples' units, shape (examples, units).

        Raises:
            NumericalError: one is NaN or infinite; the example is named.
        """
        finite = effects.isfinite().all(1)
        if not bool(finite.all()):
            bad = names[int((~finite).nonzero()[0])]
            raise NumericalError(
                f"{bad}: its gradient at {matrix} is NaN or infinite; leave it out, or use --dtype float32"
            )
        self.signed[matrix] += effects.sum(0).cpu()
        self.absolute[matrix] += effects.abs().sum(0).cpu()


def unit_sums(
    subject: Subject,
    rows: Sequence[Tree],
    unit: Unit,
    *,
    names: Sequence[str] | None = None,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> UnitSums:
    """Sum what every unit does to each row's mean response loss, in one pass.

    Args:
        subject: whose loss and units.
        rows: prompts with one response each.
        unit: "neuron", "head", "component" or "direction".
        names: how to call each row in complaints.
        view: the matrices; all editable ones if left out.
        step: told how many rows are done, after each batch.

    Raises:
        UsageError: no rows, a row without a response, single weights, or fused experts, whose inputs cannot be
            watched: take `gradient_sums` there, whose scores `select` sums over units.
        NumericalError: a gradient is NaN or infinite; the example is named.
    """
    import torch

    view = view or WeightView(subject.model)
    if unit == "weight":
        raise UsageError("single weights have no unit sums; use gradient_sums")
    spaces = list(unit_spaces(view, unit))
    if not sums_by_unit(spaces):
        raise UsageError("the experts of this model are fused: their inputs cannot be watched; use gradient_sums")
    sums = UnitSums()
    for space in spaces:
        sums.signed[space.matrix.name] = torch.zeros(space.units, dtype=torch.float32)
        sums.absolute[space.matrix.name] = torch.zeros(space.units, dtype=torch.float32)
    current: list[str] = []
    batches = plan_batches(rows, backward_tokens(subject, view))
    watching = watched_directions if unit == "direction" else _watched
    with watching(view, spaces, sums, current):
        losses = backward_passes(subject, rows, batches, lambda n: current.__setitem__(slice(None), n), _nothing,
                                 names, step)  # fmt: skip
    sums.losses = losses
    return sums


def sums_by_unit(spaces: Sequence[UnitSpace]) -> bool:
    """Whether `unit_sums` can watch all of these."""
    return all(space.matrix.kind != "experts" for space in spaces)


def _nothing() -> None:
    pass


@contextlib.contextmanager
def _watched(view: WeightView, spaces: Sequence[UnitSpace], sums: UnitSums, names: list[str]) -> Iterator[None]:
    modules: dict[str, Any] = dict(view.model.named_modules())

    def watch(space: UnitSpace) -> Callable[..., None]:
        name = space.matrix.name

        def before(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            # Detached: a hook that holds the tensor it hangs on is a cycle, and keeps a batch's whole graph alive.
            inputs = args[0].detach()

            def collect(gradient: torch.Tensor) -> None:
                effect = (inputs.float() * gradient.float()).reshape(len(names), -1, inputs.shape[-1]).sum(1)
                sums.add(name, effect.reshape(len(names), space.units, -1).sum(-1), names)

            args[0].register_hook(collect)  # type: ignore[no-untyped-call]

        return before

    handles = [modules[s.matrix.module].register_forward_pre_hook(watch(s)) for s in spaces]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unit_score(harm: UnitSums, *others: UnitSums) -> ScoreOf:
    """The first-order rise of the harm set's mean loss when a unit is taken out, beyond the average of the others'.

    With no other set it is `signed_score` summed over units, with others it is `contrastive_score` so summed.
    """

    def score(matrix: Matrix) -> torch.Tensor:
        value = -harm.signed[matrix.name] / harm.examples
        for other in others:
            value += other.signed[matrix.name] / (other.examples * len(others))
        return value

    return score


def unit_importance(sums: UnitSums) -> ScoreOf:
    """``mean_b |e_b|``: how much a unit matters to single examples, whichever way: the keep side for units."""

    def score(matrix: Matrix) -> torch.Tensor:
        return sums.absolute[matrix.name] / sums.examples

    return score


def guarded_score(harm: UnitSums, twin: UnitSums, keep: UnitSums) -> ScoreOf:
    """`unit_score` of the harm set against twins and keep set, less `unit_importance` to the keep set.

    First order deceives where a unit matters much to everything: its effects on the sets nearly cancel, and taking
    it out breaks the model. The guard puts such units last.
    """
    return guarded(unit_score(harm, twin, keep), unit_importance(keep))
