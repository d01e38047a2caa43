"""Scores to choose units by: gradients of the three sets, first-order scores, and two that measure more closely.

First order proposes units, and the measured effect of removing them decides. *Integrated gradients* lets all proposed
units fade out together and takes each one's part; *ablation* takes each out alone. On planted truth the first finds
most neurons and heads, the second most singular vectors (benchmarks/README.md, "Planted truth").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Selection,
    Unit,
    UnitEffect,
    UnitSums,
    absolute_score,
    candidate_units,
    contrastive_score,
    exact_effects,
    gradient_sums,
    guarded,
    refined_path_effects,
    select_count,
    signed_score,
    sums_by_unit,
    unit_importance,
    unit_score,
    unit_spaces,
    unit_sums,
    united,
)
from aftertune.errors import UsageError
from aftertune.locating._search import LocateOptions, ScoreName
from aftertune.locating._sets import Example, cases_of
from aftertune.model import Matrix, PromptAnswers, Subject, WeightView
from aftertune.runs import Progress

if TYPE_CHECKING:
    import torch

MOST = 0.1  # of all units by each score, in models that have few


@dataclass(frozen=True)
class Scores:
    """Every score that can be made of the three sets.

    Attributes:
        harm: gradient sums of the harm set's answers.
        twin: of the aligned answers to the same prompts, where there are any.
        keep: of the keep set's answers.
        closer: scores that measure more than these sums, by name: of the harm set, or with twins in its place.
    """

    harm: GradientSums
    twin: GradientSums | None
    keep: GradientSums
    closer: Mapping[str, Callable[[bool], ScoreOf]] = field(default_factory=dict)

    def score(self, name: ScoreName, *, twins: bool = False) -> ScoreOf:
        """The score of this name; with ``twins`` the aligned answers take the place of the harm set."""
        if twins and self.twin is None:
            raise UsageError("a harm set without aligned twins has no content-matched control")
        harm, other = (self.twin, self.harm) if twins else (self.harm, self.twin)
        assert harm is not None
        if name in CLOSER:
            return self.closer[name](twins)
        if name == "snip":
            return _contrast(harm)
        if name == "snip-keep":
            return _contrast(harm, self.keep)
        contrast = _contrast(harm, *([other] if other is not None else []), self.keep)
        return contrast if name == "snip-contrast" else guarded(contrast, self.protection())

    def protection(self) -> ScoreOf:
        """The score by which the keep set protects."""
        return unit_importance(self.keep) if isinstance(self.keep, UnitSums) else absolute_score(self.keep)


def _contrast(harm: GradientSums, *others: GradientSums) -> ScoreOf:
    if isinstance(harm, UnitSums):
        return unit_score(harm, *(o for o in others if isinstance(o, UnitSums)))
    return contrastive_score(harm, *others) if others else signed_score(harm)


def gather(
    subject: Subject,
    view: WeightView,
    harm: Sequence[Example],
    keep: Sequence[Example],
    options: LocateOptions,
    *,
    store: torch.device | str | None = None,
    progress: Progress,
) -> Scores:
    """One backward pass over each set.

    Units are summed without any weight's gradient where their inputs can be watched; single weights, and units of
    fused experts, need fp32 accumulators: four bytes a weight for a set, eight for the keep set.

    Args:
        subject: whose gradients.
        view: the matrices.
        harm: examples of the harm set.
        keep: examples of the keep set.
        options: unit, score and budget.
        store: device of the accumulators.
        progress: of the passes.
    """
    unit = options.unit
    by_unit = unit != "weight" and sums_by_unit(list(unit_spaces(view, unit)))
    if options.score in CLOSER and not by_unit:
        raise UsageError("the experts of this model are fused: their inputs cannot be watched; use another --score")

    def passes(name: str, examples: tuple[list[PromptAnswers], list[str]], *, absolute: bool = False) -> GradientSums:
        cases, names = examples
        with progress.task(f"gradients: {name}", len(cases)) as step:
            if by_unit:
                return unit_sums(subject, cases, unit, names=names, view=view, step=step)
            return gradient_sums(
                subject, cases, absolute=absolute, names=names, store=store, view=view, step=step, say=progress.say
            )

    answers, kept = (cases_of(subject, one, lambda e: e.conversation) for one in (harm, keep))
    twins = cases_of(subject, harm, lambda e: e.twin) if all(e.twin is not None for e in harm) else None
    sums = (
        passes("harm", answers),
        passes("twins", twins) if twins is not None else None,
        passes("keep", kept, absolute=True),
    )
    closer = {}
    if by_unit:
        rows = [one[0] for one in (answers, twins, kept) if one is not None]
        closer = {
            name: kind(subject, view, unit, sums, rows, options.budget, progress) for name, kind in CLOSER.items()
        }
    return Scores(*sums, closer)


class CloserScore(ABC):
    """A score of a harm set, and of its twins in its place; each is computed once, when asked for.

    Units are proposed by their first-order rise of the harm loss beyond the keep loss, as many beyond twins and keep,
    and beyond twins alone. A unit's score is its measured rise of the harm loss, less the larger of its rises of the
    losses of twins and keep set (see `value`). Units that were not proposed score 0.

    Args:
        subject: the model.
        view: its matrices.
        unit: what is chosen as a whole.
        sums: first-order unit sums of harm set, twins and keep set.
        rows: of harm set, twins (if there are any) and keep set.
        budget: benign loss the search may cost, nats per token.
        progress: of the measurements.

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
        rows: Sequence[Sequence[PromptAnswers]],
        budget: float,
        progress: Progress,
    ) -> None:
        self.subject, self.view, self.unit, self.sums, self.rows = subject, view, unit, sums, rows
        self.budget, self.progress = budget, progress
        self._found: dict[bool, dict[str, torch.Tensor]] = {}

    def __call__(self, twins: bool) -> ScoreOf:
        """The score; with ``twins`` the aligned answers take the place of the harm set."""
        if twins not in self._found:
            self._found[twins] = self._measured(twins)
        found = self._found[twins]

        def score(matrix: Matrix) -> torch.Tensor:
            return found[matrix.name]

        return score

    def value(self, effect: UnitEffect) -> float:
        """A unit's score, from its measured effect."""
        return effect.beyond()

    @abstractmethod
    def effects(
        self, proposed: Sequence[Selection], rows: Sequence[Sequence[PromptAnswers]], of: str
    ) -> list[UnitEffect]:
        """What the proposed units do to the losses of the rows; ``of`` is for progress."""

    def _measured(self, twins: bool) -> dict[str, torch.Tensor]:
        import torch

        harm, twin, keep = self.sums
        first, other = (twin, harm) if twins else (harm, twin)
        assert isinstance(first, UnitSums)
        assert isinstance(keep, UnitSums)
        beyond = [unit_score(first, keep)]
        if other is not None:
            assert isinstance(other, UnitSums)
            beyond += [unit_score(first, other, keep), unit_score(first, other)]
        count = min(self.proposed, math.ceil(candidate_units(self.view, self.unit) * MOST))
        importance = unit_importance(keep)
        proposed = [
            select_count(
                self.view, score, importance, count=count, keep_fraction=self.protected, unit=self.unit
            )
            for score in beyond
        ]  # fmt: skip
        rows = [self.rows[1], self.rows[0], *self.rows[2:]] if twins else self.rows
        scores = {name: torch.zeros_like(signed) for name, signed in first.signed.items()}
        for effect in self.effects(proposed, rows, " of the twins" if twins else ""):
            scores[effect.matrix][effect.number] = self.value(effect)
        return scores


class IntegratedGradients(CloserScore):
    """All proposed units fade out together, then the best `narrowed` of them without the others.

    What the model rests on is not proposed: with it gone, the path leads through a broken model.
    """

    proposed = 128
    protected = 0.001
    narrowed = 64
    points = 4

    def effects(
        self, proposed: Sequence[Selection], rows: Sequence[Sequence[PromptAnswers]], of: str
    ) -> list[UnitEffect]:
        """Parts along the second path (`refined_path_effects`)."""
        with self.progress.task(f"path{of}", 2 * self.points) as step:
            return refined_path_effects(
                self.subject, proposed, rows, UnitEffect.beyond, self.narrowed,
                steps=self.points, view=self.view, step=step,
            )  # fmt: skip


class Ablation(CloserScore):
    """Each proposed unit is taken out alone, and the losses of the first rows of each set are read again.

    A rise of the keep loss above the budget is subtracted, since no such unit could be chosen.
    """

    proposed = 16
    protected = 0.0
    most_rows = 16

    def value(self, effect: UnitEffect) -> float:
        """`UnitEffect.beyond_within` the budget."""
        return effect.beyond_within(self.budget)

    def effects(
        self, proposed: Sequence[Selection], rows: Sequence[Sequence[PromptAnswers]], of: str
    ) -> list[UnitEffect]:
        """What each does alone (`exact_effects`)."""
        candidates = united(self.view, proposed)
        few = [one[: self.most_rows] for one in rows]
        with self.progress.task(f"units one by one{of}", candidates.units) as step:
            return exact_effects(self.subject, candidates, few, view=self.view, step=step)


CLOSER: dict[str, type[CloserScore]] = {"integrated-gradients": IntegratedGradients, "ablation": Ablation}
"""By score name; a new one is one class and one row."""
