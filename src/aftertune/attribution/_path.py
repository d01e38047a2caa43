"""What units do together: gradients along the path from the model to the model without them.

Taking units out one by one is blind where several carry the same thing, since each alone is not missed; first order is
blind where training has left no gradient. Along the path on which all candidates fade out together the gradient
shows both. Integrated gradients (Sundararajan et al. 2017) with the units' scales as inputs; Aumann and Shapley's
values in other words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aftertune.attribution._exact import UnitEffect, best_units
from aftertune.attribution._selection import Selection, united
from aftertune.attribution._unit_patch import unit_patch
from aftertune.attribution._unit_sums import unit_sums
from aftertune.errors import UsageError
from aftertune.model import Subject, Tree, WeightView


def path_effects(
    subject: Subject,
    candidates: Selection,
    sets: Sequence[Sequence[Tree]],
    *,
    steps: int = 4,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> list[UnitEffect]:
    """Each candidate's part in what taking all of them out does; the weights are restored.

    With ``a`` the common scale of the candidates, unit j's part in the rise of a set's mean response loss is
    ``-∫ dL/da_j da`` from 0 to 1, by the midpoint rule. The parts add up to the rise itself, as far as the rule is
    exact. Costs ``steps`` forward and backward passes over all sets, however many candidates there are.

    Args:
        subject: whose units.
        candidates: the units to look at; not single weights.
        sets: rows with one response each; the mean over rows of the mean over tokens is a set's loss.
        steps: points on the path.
        view: the matrices; all editable ones if left out.
        step: told 1 after each point.

    Returns:
        One effect per candidate, in their order.

    Raises:
        UsageError: single weights, no points, or fused experts (see `unit_sums`).
        NumericalError: a gradient is NaN or infinite; the example is named.
    """
    if steps < 1:
        raise UsageError(f"a path needs at least one point, not {steps}")
    view = view or WeightView(subject.model)
    units = [(name, number) for name, numbers in candidates.members.items() for number in numbers.tolist()]
    rises = [[0.0] * len(sets) for _ in units]
    for point in range(steps):
        scale = (point + 0.5) / steps
        # The scale of a neuron or head is that of what is there, a fraction of the whole; a direction's is its own.
        held = 1.0 if candidates.unit == "direction" else scale
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
    sets: Sequence[Sequence[Tree]],
    worth: Callable[[UnitEffect], float],
    count: int,
    *,
    steps: int = 4,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> list[UnitEffect]:
    """`path_effects` twice: of all candidates together, then of those ``count`` of most worth alone.

    Many candidates let in what first order sees late, but with all of them gone the path leads through a model that
    does little else; the second path is only through what the first one kept.

    Args:
        subject: whose units.
        candidates: proposals of one unit by one or several scores; their union is looked at.
        sets: as for `path_effects`.
        worth: what a unit is kept for.
        count: how many are looked at again.
        steps: points on each path.
        view: the matrices; all editable ones if left out.
        step: told 1 after each point of both paths.
    """
    view = view or WeightView(subject.model)
    first = path_effects(subject, united(view, candidates), sets, steps=steps, view=view, step=step)
    kept = best_units(view, first, worth, count, candidates[0].unit)
    return path_effects(subject, kept, sets, steps=steps, view=view, step=step)
