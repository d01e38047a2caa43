"""What units do together: gradients along the path from the model to the model without them.

Taking units out one by one is blind where several carry the same thing, since each alone is not missed; first order is
blind where training has left no gradient. Along the path on which all candidates fade out together the gradient
shows both. Integrated gradients (Sundararajan et al. 2017) with the units' scales as inputs; Aumann and Shapley's
values in other words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aftertune.attribution._exact import UnitEffect
from aftertune.attribution._selection import Selection
from aftertune.attribution._unit_sums import unit_sums
from aftertune.errors import UsageError
from aftertune.subject import Subject, Tree, WeightView, make_patch


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
        with make_patch(view, candidates.chosen, "scale", {}, factor=scale, digest=False).applied(view):
            for number, rows in enumerate(sets):
                sums = unit_sums(subject, rows, candidates.unit, view=view)
                for rise, (name, unit) in zip(rises, units, strict=True):
                    # unit_sums differentiates by the scale of what is there, which is a fraction of the whole
                    rise[number] -= float(sums.signed[name][unit]) / (scale * steps * sums.examples)
        step(1)
    return [UnitEffect(name, unit, tuple(rise)) for (name, unit), rise in zip(units, rises, strict=True)]
