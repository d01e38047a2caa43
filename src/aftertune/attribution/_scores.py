"""SNIP scores of units and weights (attribution patching, for units), from sums of per-example effects.

Let ``x_j`` be what unit j (a neuron, or the inputs of a head) feeds into its output matrix, and ``d_j`` the loss's
gradient with respect to it. Summed over tokens, ``x_j d_j`` equals the sum of ``w g`` over the unit's weights in
that matrix: both say how the loss changes when the unit is scaled. Taking the unit out changes the loss by about
``-x_j d_j``, which is attribution patching (Nanda 2023; Syed et al. 2023) with zero as the other run's activation, and
SNIP (Lee et al. 2019) with a unit in the place of a weight. For singular vectors, ``W = Σ σ_i l_i r_iᵀ``, the
derivative by the scale of term i is ``σ_i l_iᵀ G r_i``; from a layer's inputs x and output gradients d it is a sum
over tokens of products of two projections. The backward pass computes ``d`` anyway, so unit sums cost less than a
training step and hardly any memory.

With the loss L of a set's responses and its gradient g, putting a weight w to zero changes L by about ``-w g``. The
published signed score ``w g`` (Orgad et al. 2026, after SNIP, Lee et al. 2019) is most negative for the weights that
support the responses; ours is ``-w g``, so that the best candidates stand at the top. The keep side takes
``|w| Σ_b |g_b|`` (Wei et al. 2024), which has no sign. Scores of units are made of `UnitSums`, and equal those of
their weights summed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aftertune.attribution._units import SingularSpace, Unit, UnitSpace, unit_named, unit_spaces
from aftertune.attribution._weight_sums import GradientSums, backward_passes, backward_tokens, refuse_infinite
from aftertune.errors import UsageError
from aftertune.model import Matrix, PromptAnswers, Subject, WeightView, plan_batches

if TYPE_CHECKING:
    import torch


@dataclass
class UnitSums(GradientSums):
    """Sums over the examples of one set, by the matrix that holds the units.

    ``signed`` is Σ_b e_b, where e_b is the derivative of example b's mean response loss with respect to the unit's
    scale, ``absolute`` is Σ_b |e_b|; fp32, shape (units,).

    Attributes:
        effects: e_b of every example by matrix, shape (examples, units), where they were collected.
        projections: Σ_units e_b v of every example for the vector v that was given, shape (examples,); else None.
    """

    effects: dict[str, torch.Tensor] = field(default_factory=dict)
    projections: torch.Tensor | None = None


def unit_sums(
    subject: Subject,
    rows: Sequence[PromptAnswers],
    unit: Unit,
    *,
    names: Sequence[str] | None = None,
    view: WeightView | None = None,
    collect: Literal["effects"] | Mapping[str, torch.Tensor] | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> UnitSums:
    """Sum what every unit does to each row's mean response loss, in one pass.

    Args:
        subject: whose loss and units.
        rows: prompts with one response each.
        unit: any but "weight".
        names: how to call each row in complaints.
        view: the matrices; all editable ones if left out.
        collect: keep more than the sums: each row's "effects" (four bytes for a row and unit), or, given a vector over
            the units of each matrix (shape (units,), by name; matrices without one count nothing), each row's dot
            product with it.
        step: gets the number of rows done, after each batch.

    Raises:
        UsageError: no rows, a row without a response, single weights, a vector that does not fit, or fused experts,
            whose inputs cannot be watched: use `gradient_sums` there, whose scores `select` sums over units.
        NumericalError: a gradient is NaN or infinite; the example is named.
    """
    import torch

    view, unit = view or WeightView(subject.model), unit_named(unit)
    if unit == "weight":
        raise UsageError("single weights have no unit sums; use gradient_sums")
    spaces = list(unit_spaces(view, unit))
    if not sums_by_unit(spaces):
        raise UsageError("the experts of this model are fused: their inputs cannot be watched; use gradient_sums")
    sums, work = UnitSums(), _Work(names, collect)
    for space in spaces:
        sums.signed[space.matrix.name] = torch.zeros(space.units, dtype=torch.float32)
        sums.absolute[space.matrix.name] = torch.zeros(space.units, dtype=torch.float32)
        if collect == "effects":
            sums.effects[space.matrix.name] = torch.zeros(len(rows), space.units)
    if isinstance(collect, Mapping):
        _refuse_unfit(collect, sums)
        sums.projections = torch.zeros(len(rows))
    batches = plan_batches(rows, backward_tokens(subject, view))
    with _watched(view, spaces, sums, work):
        sums.losses = backward_passes(subject, rows, batches, work.begin, names=names, step=step)
    return sums


def sums_by_unit(spaces: Sequence[UnitSpace]) -> bool:
    """Whether `unit_sums` can watch all of these."""
    return all(space.matrix.kind != "experts" for space in spaces)


def _refuse_unfit(vectors: Mapping[str, torch.Tensor], sums: UnitSums) -> None:
    for name, vector in vectors.items():
        if name not in sums.signed or vector.shape != sums.signed[name].shape:
            raise UsageError(f"{name}: a vector of shape {tuple(vector.shape)} does not fit its units")


class _Work:
    """The rows of the pass at work, and what is collected of them."""

    def __init__(
        self, names: Sequence[str] | None, collect: Literal["effects"] | Mapping[str, torch.Tensor] | None
    ) -> None:
        self.rows: list[int] = []
        self._names, self._collect = names, collect

    def begin(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)

    def add(self, sums: UnitSums, matrix: str, effects: torch.Tensor) -> None:
        """Add effects of the rows at work, shape (rows, units)."""
        refuse_infinite(effects, matrix, self.rows, self._names)
        sums.signed[matrix] += effects.sum(0).cpu()
        sums.absolute[matrix] += effects.abs().sum(0).cpu()
        if matrix in sums.effects:
            sums.effects[matrix][self.rows] = effects.cpu()
        if sums.projections is not None and isinstance(self._collect, Mapping) and matrix in self._collect:
            sums.projections[self.rows] += (effects @ self._collect[matrix].to(effects)).cpu()


@contextlib.contextmanager
def _watched(view: WeightView, spaces: Sequence[UnitSpace], sums: UnitSums, work: _Work) -> Iterator[None]:
    """Within the block every backward pass adds each unit's effect to ``sums``."""
    modules: dict[str, Any] = dict(view.model.named_modules())

    # Inputs are detached: a hook that holds the tensor it hangs on is a cycle, and keeps a batch's whole graph alive.
    def by_inputs(space: UnitSpace) -> Callable[..., None]:
        def before(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            inputs = args[0].detach()

            def collect(gradient: torch.Tensor) -> None:
                effect = (inputs.float() * gradient.float()).reshape(len(work.rows), -1, inputs.shape[-1]).sum(1)
                work.add(sums, space.matrix.name, effect.reshape(len(work.rows), space.units, -1).sum(-1))

            args[0].register_hook(collect)  # type: ignore[no-untyped-call]

        return before

    def by_singular_vectors(space: UnitSpace) -> Callable[..., None]:
        terms = view.directions(space.matrix.name)

        def after(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            inputs = args[0].detach()

            def collect(gradient: torch.Tensor) -> None:
                rows, columns = gradient.float(), inputs.float()
                if space.matrix.kind == "conv1d":  # stored (in, out)
                    rows, columns = columns, rows
                product = (rows @ terms.left) * (columns @ terms.right.T) * terms.sizes
                work.add(sums, space.matrix.name, product.reshape(len(work.rows), -1, product.shape[-1]).sum(1))

            output.register_hook(collect)  # type: ignore[no-untyped-call]

        return after

    handles = [
        modules[s.matrix.module].register_forward_hook(by_singular_vectors(s))
        if isinstance(s, SingularSpace)
        else modules[s.matrix.module].register_forward_pre_hook(by_inputs(s))
        for s in spaces
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
