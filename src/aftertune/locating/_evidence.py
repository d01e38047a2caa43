"""What is known of a set's gradients, and the scores that can be made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Unit,
    UnitSums,
    absolute_score,
    contrastive_score,
    gradient_sums,
    guarded,
    signed_score,
    sums_by_unit,
    unit_importance,
    unit_score,
    unit_spaces,
    unit_sums,
)
from aftertune.errors import UsageError
from aftertune.locating._integrated import LOOKS
from aftertune.locating._options import ScoreName
from aftertune.locating._sets import Example, trees_of
from aftertune.model import Subject, Tree, WeightView
from aftertune.runs import Progress

if TYPE_CHECKING:
    import torch

    from aftertune.data import Conversation


@dataclass(frozen=True)
class Evidence:
    """Gradient sums of the three sets.

    Attributes:
        harm: of the harm set's answers.
        twin: of the aligned answers to the same prompts, where there are any.
        keep: of the keep set's answers.
        looks: scores that look further than these sums, by name: of the harm set, or with twins in its place.
    """

    harm: GradientSums
    twin: GradientSums | None
    keep: GradientSums
    looks: Mapping[str, Callable[[bool], ScoreOf]] = field(default_factory=dict)

    def score(self, name: ScoreName, *, twins: bool = False) -> ScoreOf:
        """The score to choose by; with ``twins`` the aligned answers stand in the place of the harm set."""
        if twins and self.twin is None:
            raise UsageError("a harm set without aligned twins has no content-matched control")
        harm, other = (self.twin, self.harm) if twins else (self.harm, self.twin)
        assert harm is not None
        if name in LOOKS:
            return self.looks[name](twins)
        if name == "snip":
            return _contrast(harm)
        if name == "snip-keep":
            return _contrast(harm, self.keep)
        contrast = _contrast(harm, *([other] if other is not None else []), self.keep)
        if name == "snip-contrast":
            return contrast
        return guarded(contrast, _importance(self.keep))

    def protection(self) -> ScoreOf:
        """The score by which the keep set protects."""
        return _importance(self.keep)


def _contrast(harm: GradientSums, *others: GradientSums) -> ScoreOf:
    if isinstance(harm, UnitSums):
        return unit_score(harm, *(o for o in others if isinstance(o, UnitSums)))
    return contrastive_score(harm, *others) if others else signed_score(harm)


def _importance(sums: GradientSums) -> ScoreOf:
    return unit_importance(sums) if isinstance(sums, UnitSums) else absolute_score(sums)


def gather(
    subject: Subject,
    view: WeightView,
    harm: Sequence[Example],
    keep: Sequence[Example],
    *,
    unit: Unit,
    score: ScoreName,
    store: torch.device | str | None = None,
    budget: float,
    progress: Progress,
) -> Evidence:
    """One backward pass over each set.

    Units are summed without any weight's gradient where their inputs can be watched; single weights, and units of
    fused experts, take fp32 accumulators: four bytes a weight for a set, eight where absolute sums are asked for.

    Args:
        subject: whose gradients.
        view: the matrices.
        harm: examples of the harm set.
        keep: examples of the keep set.
        unit: what will be chosen.
        score: what it will be chosen by.
        store: device of the accumulators.
        budget: benign loss the search may cost, nats per token.
        progress: told what goes on.
    """
    by_unit = unit != "weight" and sums_by_unit(list(unit_spaces(view, unit)))

    def passes(name: str, examples: tuple[list[Tree], list[str]], absolute: bool) -> GradientSums:
        trees, names = examples
        with progress.task(f"gradients: {name}", len(trees)) as step:
            if by_unit:
                return unit_sums(subject, trees, unit, names=names, view=view, step=step)
            return gradient_sums(subject, trees, absolute=absolute, names=names, store=store, view=view, step=step,
                                 say=progress.say)  # fmt: skip

    if score in LOOKS and not by_unit:
        raise UsageError("the experts of this model are fused: their inputs cannot be watched; use another --score")
    answers, kept = trees_of(subject, harm, _answer), trees_of(subject, keep, _answer)
    twins = trees_of(subject, harm, _twin) if all(e.twin is not None for e in harm) else None
    sums = (
        passes("harm", answers, False),
        passes("twins", twins, False) if twins is not None else None,
        passes("keep", kept, True),
    )
    looks = {}
    if by_unit:
        rows = [one[0] for one in (answers, twins, kept) if one is not None]
        looks = {name: look(subject, view, unit, sums, rows, budget, progress) for name, look in LOOKS.items()}
    return Evidence(*sums, looks)


def _answer(example: Example) -> Conversation | None:
    return example.conversation


def _twin(example: Example) -> Conversation | None:
    return example.twin
