"""What a method of the planted benchmark chooses: by a score alone, by a closer look, or the best of several sets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from aftertune.attribution import (
    ScoreOf,
    Selection,
    UnitEffect,
    absolute_score,
    best_units,
    candidate_units,
    refined_path_effects,
    select_count,
    unit_patch,
)
from aftertune.model import Subject, Tree, WeightView, score
from aftertune.studies._planted_methods import KEEP, LOOKS, Method, PlantedSums

# How many times the count the second path looks at.
NARROWED = 4


class Choices:
    """The choices of every method on one planting; what a look found is kept for smaller counts.

    Args:
        subject: the model with the planting.
        view: its matrices.
        sets: rows of planted answers, of twins and of other benign answers.
        methods: all of them, for those that choose among others.
    """

    def __init__(
        self,
        subject: Subject,
        view: WeightView,
        sets: Sequence[Sequence[Tree]],
        methods: Sequence[Method],
    ) -> None:
        self.subject, self.view, self.sets = subject, view, sets
        self.sums = PlantedSums(subject, view, sets)
        self.methods = {(method.name, method.unit): method for method in methods}
        self._looks: dict[tuple[str, str], list[UnitEffect]] = {}
        self._whole: list[float] | None = None

    def choose(self, method: Method, count: int) -> Selection:
        """So many units, or fewer where a score has fewer to give."""
        if method.rivals:
            rivals = [self.choose(self.methods[name, method.unit], count) for name in method.rivals]
            return max(rivals, key=self._worth_of_set)
        harm = method.harm(self.sums)
        if not method.proposed:
            return self._by_score(method, harm, count)
        key = (method.name, method.unit)
        if key not in self._looks:  # the largest count comes first
            self._looks[key] = self._look(method, count)
        return best_units(self.view, self._looks[key], UnitEffect.beyond, count, method.unit)

    def _look(self, method: Method, count: int) -> list[UnitEffect]:
        proposed = [
            select_count(self.view, propose(self.sums), count=method.proposed * count, unit=method.unit)
            for propose in (method.harm, *method.also)
        ]
        if method.look == "path twice":
            return refined_path_effects(
                self.subject, proposed, self.sets, UnitEffect.beyond, NARROWED * count, view=self.view
            )
        return LOOKS[method.look](self.subject, proposed[0], self.sets, view=self.view)

    def _by_score(self, method: Method, harm: ScoreOf, count: int) -> Selection:
        keep = absolute_score(self.sums.weights[KEEP]) if method.keep_share else None
        fraction = min(0.5, method.keep_share * count / candidate_units(self.view, method.unit))
        return select_count(self.view, harm, keep, count=count, keep_fraction=fraction, unit=method.unit)

    def _losses(self) -> list[float]:
        return [-statistics.fmean(row[0].mean for row in score(self.subject, rows)) for rows in self.sets]

    def _worth_of_set(self, chosen: Selection) -> float:
        """What taking all of them out does to the rows they were found on."""
        if self._whole is None:
            self._whole = self._losses()
        with unit_patch(self.view, chosen).applied(self.view):
            harm, *benign = (after - before for after, before in zip(self._losses(), self._whole, strict=True))
        return harm - max(benign)
