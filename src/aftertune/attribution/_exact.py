"""What single units really do: each taken out alone, and the losses read again.

First order can be blind where a trained behaviour sits in a minimum, and can be deceived where a unit matters to
everything. Few units can be looked at this way, so a first-order score proposes and this disposes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.attribution._scores import Unit
from aftertune.attribution._selection import Selection, select_units
from aftertune.attribution._unit_patch import unit_patch
from aftertune.model import Subject, Tree, WeightView, score

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class UnitEffect:
    """What taking out one unit alone does.

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
        """`beyond`, less what the last set's loss rises by more than ``budget``.

        What breaks a model raises every loss by many nats, and the first one's by a little more says nothing.
        """
        return self.beyond() - max(0.0, self.rises[-1] - budget)


def exact_effects(
    subject: Subject,
    candidates: Selection,
    sets: Sequence[Sequence[Tree]],
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
        step: told 1 after each unit.
    """
    import torch

    view = view or WeightView(subject.model)
    rows = [row for one in sets for row in one]
    before = _set_losses(subject, rows, sets)
    effects = []
    for name, numbers in candidates.members.items():
        for number in numbers.tolist():
            alone = select_units(view, {name: torch.tensor([number])}, candidates.unit)
            with unit_patch(view, alone).applied(view):
                after = _set_losses(subject, rows, sets)
            rises = tuple(b - a for a, b in zip(before, after, strict=True))
            effects.append(UnitEffect(name, number, rises))
            step(1)
    return effects


def best_units(
    view: WeightView, effects: Sequence[UnitEffect], worth: Callable[[UnitEffect], float], count: int, unit: Unit
) -> Selection:
    """The ``count`` units of most worth; ties go to the earlier one, as `exact_effects` lists them."""
    import torch

    ranked = sorted(range(len(effects)), key=lambda i: (-worth(effects[i]), i))[:count]
    members: dict[str, list[int]] = {}
    for index in ranked:
        members.setdefault(effects[index].matrix, []).append(effects[index].number)
    chosen: Mapping[str, torch.Tensor] = {name: torch.tensor(numbers) for name, numbers in members.items()}
    return select_units(view, chosen, unit)


def _set_losses(subject: Subject, rows: Sequence[Tree], sets: Sequence[Sequence[Tree]]) -> list[float]:
    """One scoring of all rows, so that small sets share batches."""
    losses = [-answers[0].mean for answers in score(subject, rows)]
    means, start = [], 0
    for one in sets:
        means.append(sum(losses[start : start + len(one)]) / len(one))
        start += len(one)
    return means
