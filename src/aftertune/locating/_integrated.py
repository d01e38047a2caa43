"""Scores that look further than first order: it proposes, and what taking the proposed units out really does disposes.

*Integrated* lets all of them fade out together and takes each one's part; *verified* takes each out alone. On planted
truth the first finds most neurons and heads, the second most directions (benchmarks/README.md, "Planted truth").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Selection,
    Unit,
    UnitEffect,
    UnitSums,
    candidate_units,
    exact_effects,
    refined_path_effects,
    select_count,
    unit_importance,
    unit_score,
    united,
)
from aftertune.model import Matrix, Subject, Tree, WeightView
from aftertune.runs import Progress

if TYPE_CHECKING:
    import torch

MOST = 0.1  # of all units by each score, in models that have few


class Looked(ABC):
    """Such a score of a harm set, and of its twins in its place; each is computed once, when asked for.

    Units are proposed by their first-order rise of the harm loss beyond the keep loss, as many beyond twins and keep,
    and beyond twins alone. A unit's score is what was found of its rise of the harm loss, less the larger of its rises
    of the losses of twins and keep set (see `worth`). Units that were not looked at score 0.

    Args:
        subject: the model.
        view: its matrices.
        unit: what is chosen as a whole.
        sums: first-order unit sums of harm set, twins and keep set.
        rows: of harm set, twins (if there are any) and keep set.
        budget: benign loss the search may cost, nats per token.
        progress: told what goes on.

    Attributes:
        proposed: units by each first-order score.
        protected: share of the units that is not proposed, since it matters most to the keep set.
    """

    proposed: int
    protected: float

    def __init__(
        self,
        subject: Subject,
        view: WeightView,
        unit: Unit,
        sums: tuple[GradientSums, GradientSums | None, GradientSums],
        rows: Sequence[Sequence[Tree]],
        budget: float,
        progress: Progress,
    ) -> None:
        self.subject, self.view, self.unit, self.sums, self.rows = subject, view, unit, sums, rows
        self.budget, self.progress = budget, progress
        self._found: dict[bool, dict[str, torch.Tensor]] = {}

    def __call__(self, twins: bool) -> ScoreOf:
        """The score; with ``twins`` the aligned answers stand in the place of the harm set."""
        if twins not in self._found:
            self._found[twins] = self._look(twins)
        found = self._found[twins]

        def score(matrix: Matrix) -> torch.Tensor:
            return found[matrix.name]

        return score

    def worth(self, effect: UnitEffect) -> float:
        """A unit's score, from what was found of it."""
        return effect.beyond()

    @abstractmethod
    def effects(self, proposed: Sequence[Selection], rows: Sequence[Sequence[Tree]], of: str) -> list[UnitEffect]:
        """What the proposed units do to the losses of the rows; ``of`` is for progress."""

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
                count=min(self.proposed, math.ceil(total * MOST)),
                keep_fraction=self.protected,
                unit=self.unit,
            )
            for score in beyond
        ]
        rows = [self.rows[1], self.rows[0], *self.rows[2:]] if twins else self.rows
        scores = {name: torch.zeros_like(signed) for name, signed in first.signed.items()}
        for effect in self.effects(proposed, rows, " of the twins" if twins else ""):
            scores[effect.matrix][effect.number] = self.worth(effect)
        return scores


class Integrated(Looked):
    """All proposed units fade out together, then the best `narrowed` of them without the others.

    What the model rests on is not proposed: with it gone, the path leads through a broken model.
    """

    proposed = 128
    protected = 0.001
    narrowed = 64
    points = 4

    def effects(self, proposed: Sequence[Selection], rows: Sequence[Sequence[Tree]], of: str) -> list[UnitEffect]:
        """Parts along the second path (`refined_path_effects`)."""
        with self.progress.task(f"path{of}", 2 * self.points) as step:
            return refined_path_effects(
                self.subject,
                proposed,
                rows,
                UnitEffect.beyond,
                self.narrowed,
                steps=self.points,
                view=self.view,
                step=step,
            )


class Verified(Looked):
    """Each proposed unit is taken out alone, and the losses of the first rows of each set are read again.

    What the keep loss rises beyond the budget is taken off, since no such unit could be chosen.
    """

    proposed = 16
    protected = 0.0
    most_rows = 16

    def worth(self, effect: UnitEffect) -> float:
        """`UnitEffect.beyond_within` the budget."""
        return effect.beyond_within(self.budget)

    def effects(self, proposed: Sequence[Selection], rows: Sequence[Sequence[Tree]], of: str) -> list[UnitEffect]:
        """What each does alone (`exact_effects`)."""
        candidates = united(self.view, proposed)
        with self.progress.task(f"units one by one{of}", candidates.units) as step:
            return exact_effects(
                self.subject, candidates, [one[: self.most_rows] for one in rows], view=self.view, step=step
            )


LOOKS: dict[str, type[Looked]] = {"integrated-gradients": Integrated, "ablation": Verified}
"""By score name; a new one is one class and one row."""
