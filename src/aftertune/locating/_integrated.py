"""The integrated score: first-order scores propose, the paths on which what they propose fades out together dispose.

On planted truth nothing else found as much (benchmarks/README.md, "Planted truth").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Unit,
    UnitEffect,
    UnitSums,
    candidate_units,
    refined_path_effects,
    select_count,
    unit_importance,
    unit_score,
)
from aftertune.runs import Progress
from aftertune.subject import Matrix, Subject, Tree, WeightView

if TYPE_CHECKING:
    import torch

PROPOSED = 128  # by each score
NARROWED = 64
MOST = 0.1  # of all units by each, in models that have few
POINTS = 4
# What the model rests on is not proposed: with it gone, the path leads through a broken model.
PROTECTED = 0.001


class Integrated:
    """The integrated scores of a harm set, and of its twins in its place; each is computed once, when asked for.

    `PROPOSED` units are taken by their first-order rise of the harm loss beyond the keep loss, as many beyond twins and
    keep, and beyond twins alone, without the `PROTECTED` share that matters most to the keep set. All fade out
    together, then the best `NARROWED` of them (`refined_path_effects`). A unit's score is its part in the rise of the
    harm loss on the second path, less the larger of its parts in the rises of twins and keep set. Others score 0.

    Args:
        subject: the model.
        view: its matrices.
        unit: neurons, heads, or both.
        sums: first-order unit sums of harm set, twins and keep set.
        rows: of harm set, twins (if there are any) and keep set.
        progress: told what goes on.
    """

    def __init__(
        self,
        subject: Subject,
        view: WeightView,
        unit: Unit,
        sums: tuple[GradientSums, GradientSums | None, GradientSums],
        rows: Sequence[Sequence[Tree]],
        progress: Progress,
    ) -> None:
        self.subject, self.view, self.unit, self.sums, self.rows = subject, view, unit, sums, rows
        self.progress = progress
        self._found: dict[bool, dict[str, torch.Tensor]] = {}

    def __call__(self, twins: bool) -> ScoreOf:
        """The score; with ``twins`` the aligned answers stand in the place of the harm set."""
        if twins not in self._found:
            self._found[twins] = self._look(twins)
        found = self._found[twins]

        def score(matrix: Matrix) -> torch.Tensor:
            return found[matrix.name]

        return score

    def _look(self, twins: bool) -> dict[str, torch.Tensor]:
        import torch

        harm, twin, keep = self.sums
        first = twin if twins else harm
        assert isinstance(first, UnitSums)
        assert isinstance(keep, UnitSums)
        other = harm if twins else twin
        beyond = [unit_score(first, keep)]
        if other is not None:
            assert isinstance(other, UnitSums)
            beyond += [unit_score(first, other, keep), unit_score(first, other)]
        total = candidate_units(self.view, self.unit)
        proposed = [
            select_count(
                self.view,
                score,
                unit_importance(keep),
                count=min(PROPOSED, math.ceil(total * MOST)),
                keep_fraction=PROTECTED,
                unit=self.unit,
            )
            for score in beyond
        ]
        rows = [self.rows[1], self.rows[0], *self.rows[2:]] if twins else self.rows
        with self.progress.task("path of the twins" if twins else "path", 2 * POINTS) as step:
            effects = refined_path_effects(
                self.subject, proposed, rows, UnitEffect.beyond, NARROWED, steps=POINTS, view=self.view, step=step
            )
        scores = {name: torch.zeros_like(signed) for name, signed in first.signed.items()}
        for effect in effects:
            scores[effect.matrix][effect.number] = effect.beyond()
        return scores
