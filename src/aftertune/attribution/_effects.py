"""What units really do: taken out alone, or faded out together along a path, and the losses read again.

First order can be blind where a trained behaviour sits in a minimum, and can be deceived where a unit matters to
everything. Few units can be looked at closely, so a first-order score proposes units, and the measured effect of
removing them decides. *Ablation* (`exact_effects`) takes out one unit at a time; it misses units that carry the same
thing together, since each alone is not needed. *Integrated gradients* (Sundararajan et al. 2017; Aumann and Shapley's
values in other words) follow the path on which all candidates fade out together, with their scales as inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aftertune.attribution._scores import unit_sums
from aftertune.attribution._selection import Selection, select_units, united
from aftertune.attribution._units import Unit
from aftertune.errors import UsageError
from aftertune.model import Operation, Patch, PromptAnswers, Subject, WeightView, make_patch, score

if TYPE_CHECKING:
    import torch


def unit_patch(
    view: WeightView,
    selection: Selection,
    operation: Literal["zero", "scale"] = "zero",
    about: Mapping[str, Any] | None = None,
    *,
    factor: float = 0.0,
    digest: bool = False,
) -> Patch:
    """The patch that takes chosen units out, or scales them, whatever they are; nothing is changed yet.

    Weights, neurons and heads are put to zero or multiplied. Singular vectors overlap in the same weights: what they
    add to their matrix is subtracted, all of it or all but ``factor``; such a patch holds whole matrices.

    Args:
        view: the weights it is made for.
        selection: of units of this view.
        operation: "zero", or "scale" by ``factor``.
        about: how the units were found, as JSON values.
        factor: for "scale".
        digest: take the digests of the touched matrices, as a patch that is to be stored needs.

    Raises:
        UsageError: nothing is chosen.
    """
    if selection.unit != "singular-vector":
        return make_patch(view, selection.chosen, operation, about or {}, factor=factor, digest=digest)
    left = factor if operation == "scale" else 0.0
    after = {}
    for name, numbers in selection.members.items():
        weights = view[name].parameter.detach()
        part = view.directions(name).part(numbers)
        after[name] = (weights.float() - (1 - left) * part).to(weights.dtype)
    kind: Operation = "remove" if left == 0 else "scale"
    return make_patch(view, selection.chosen, kind, about or {}, base=after, digest=digest)


@dataclass(frozen=True)
class UnitEffect:
    """What taking out one unit does.

    Attributes:
        matrix: the matrix that holds it.
        number: its number there.
        rises: rise of each set's mean response loss, nats per token.
    """

    matrix: str
    number: int
    rises: tuple[float, ...]

    def beyond(self) -> float:
        """The rise of the first set's loss less the largest rise of the others'."""
        first, *others = self.rises
        return first - max(others)

    def beyond_within(self, budget: float) -> float:
        """`beyond`, less the part of the last set's rise above ``budget``.

        Removing a unit that breaks the model raises every loss by many nats; that the first set's rises a little more
        then says nothing.
        """
        return self.beyond() - max(0.0, self.rises[-1] - budget)


def exact_effects(
    subject: Subject,
    candidates: Selection,
    sets: Sequence[Sequence[PromptAnswers]],
    *,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> list[UnitEffect]:
    """Take each candidate out alone and read every set's mean response loss; the weights are restored each time.

    Costs one forward pass over all sets for each unit, and one more.

    Args:
        subject: whose units.
        candidates: the units to look at; of any kind.
        sets: rows with one response each; the mean over rows of the mean over tokens is a set's loss.
        view: the matrices; all editable ones if left out.
        step: gets 1 after each unit.
    """
    import torch

    view = view or WeightView(subject.model)
    rows = [row for one in sets for row in one]
    before = _set_losses(subject, rows, sets)
    effects = []
    for name, number in _numbered(candidates):
        alone = select_units(view, {name: torch.tensor([number])}, candidates.unit)
        with unit_patch(view, alone).applied(view):
            after = _set_losses(subject, rows, sets)
        effects.append(UnitEffect(name, number, tuple(b - a for a, b in zip(before, after, strict=True))))
        step(1)
    return effects


def path_effects(
    subject: Subject,
    candidates: Selection,
    sets: Sequence[Sequence[PromptAnswers]],
    *,
    steps: int = 4,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> list[UnitEffect]:
    """Each candidate's part in the effect of taking all of them out; the weights are restored.

    With ``a`` the common scale of the candidates, unit j's part in the rise of a set's mean response loss is
    ``-∫ dL/da_j da`` from 0 to 1, by the midpoint rule. The parts add up to the rise itself, as far as the rule is
    exact. Costs ``steps`` forward and backward passes over all sets, however many candidates there are.

    Args:
        subject: whose units.
        candidates: the units to look at; not single weights.
        sets: as for `exact_effects`.
        steps: points on the path.
        view: the matrices; all editable ones if left out.
        step: gets 1 after each point.

    Returns:
        One effect per candidate, in their order.

    Raises:
        UsageError: single weights, no points, or fused experts (see `unit_sums`).
        NumericalError: a gradient is NaN or infinite; the example is named.
    """
    if steps < 1:
        raise UsageError(f"a path needs at least one point, not {steps}")
    view = view or WeightView(subject.model)
    units = _numbered(candidates)
    rises = [[0.0] * len(sets) for _ in units]
    for point in range(steps):
        scale = (point + 0.5) / steps
        # The scale of a neuron or head is a fraction of what the model has then; a singular vector's is its own.
        held = 1.0 if candidates.unit == "singular-vector" else scale
        with unit_patch(view, candidates, "scale", factor=scale).applied(view):
            for number, rows in enumerate(sets):
                sums = unit_sums(subject, rows, candidates.unit, view=view)
                for rise, (name, unit) in zip(rises, units, strict=True):
                    rise[number] -= float(sums.signed[name][unit]) / (held * steps * sums.examples)
        step(1)
    return [UnitEffect(name, unit, tuple(rise)) for (name, unit), rise in zip(units, rises, strict=True)]


def refined_path_effects(
    subject: Subject,
    candidates: Sequence[Selection],
    sets: Sequence[Sequence[PromptAnswers]],
    rank_by: Callable[[UnitEffect], float],
    count: int,
    *,
    steps: int = 4,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> list[UnitEffect]:
    """`path_effects` twice: of all candidates together, then of the ``count`` best of them alone.

    Many candidates let in what first order sees late, but with all of them gone the path leads through a model that
    does little else; the second path is only through what the first one kept.

    Args:
        subject: whose units.
        candidates: proposals of one kind of unit by one or several scores; all of them together are looked at.
        sets: as for `path_effects`.
        rank_by: the highest are kept.
        count: how many are looked at again.
        steps: points on each path.
        view: the matrices; all editable ones if left out.
        step: gets 1 after each point of both paths.
    """
    view = view or WeightView(subject.model)
    first = path_effects(subject, united(view, candidates), sets, steps=steps, view=view, step=step)
    kept = best_units(view, first, rank_by, count, candidates[0].unit)
    return path_effects(subject, kept, sets, steps=steps, view=view, step=step)


def best_units(
    view: WeightView, effects: Sequence[UnitEffect], rank_by: Callable[[UnitEffect], float], count: int, unit: Unit
) -> Selection:
    """The ``count`` units that rank highest; ties go to the earlier one, as `exact_effects` lists them."""
    import torch

    members: dict[str, list[int]] = {}
    for effect in sorted(effects, key=rank_by, reverse=True)[:count]:  # sorting is stable, reversed too
        members.setdefault(effect.matrix, []).append(effect.number)
    chosen: Mapping[str, torch.Tensor] = {name: torch.tensor(numbers) for name, numbers in members.items()}
    return select_units(view, chosen, unit)


def _numbered(candidates: Selection) -> list[tuple[str, int]]:
    return [(name, number) for name, numbers in candidates.members.items() for number in numbers.tolist()]


def _set_losses(
    subject: Subject, rows: Sequence[PromptAnswers], sets: Sequence[Sequence[PromptAnswers]]
) -> list[float]:
    """One scoring of all rows, so that small sets share batches."""
    losses = [-answers[0].mean for answers in score(subject, rows)]
    means, start = [], 0
    for one in sets:
        means.append(sum(losses[start : start + len(one)]) / len(one))
        start += len(one)
    return means
