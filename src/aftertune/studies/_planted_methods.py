"""Methods that are tried on planted truth, and how each chooses units."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Selection,
    Unit,
    UnitEffect,
    UnitSums,
    absolute_score,
    best_units,
    candidate_units,
    contrastive_score,
    exact_effects,
    gradient_sums,
    guarded,
    guarded_score,
    path_effects,
    refined_path_effects,
    select_count,
    signed_score,
    unit_patch,
    unit_score,
    unit_sums,
)
from aftertune.model import PromptAnswers, Subject, WeightView, score
from aftertune.studies._planted_rivals import (
    input_norms,
    magnitude_score,
    random_score,
    ranked_within,
    wanda_score,
)

if TYPE_CHECKING:
    import torch


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
        sets: Sequence[Sequence[PromptAnswers]],
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


HARM, TWIN, KEEP = range(3)


class PlantedSums:
    """Gradients of the planted answers, of their aligned twins, and of other benign answers, taken when asked for.

    Args:
        subject: the model with the planting.
        view: its matrices.
        sets: rows of the three, in this order.
    """

    def __init__(self, subject: Subject, view: WeightView, sets: Sequence[Sequence[PromptAnswers]]) -> None:
        self._subject, self._view, self._sets = subject, view, sets

    @cached_property
    def weights(self) -> list[GradientSums]:
        """Of every single weight; absolute ones, too, but for the twins."""
        return [
            gradient_sums(self._subject, rows, absolute=number != TWIN, view=self._view)
            for number, rows in enumerate(self._sets)
        ]

    @cached_property
    def components(self) -> list[UnitSums]:
        """Of every neuron and head."""
        return self._by_unit("neuron+head")

    @cached_property
    def norms(self) -> dict[str, torch.Tensor]:
        """Of what flows into every matrix on the planted answers, for Wanda."""
        return input_norms(self._subject, self._sets[HARM], view=self._view)

    @cached_property
    def directions(self) -> list[UnitSums]:
        """Of every leading singular direction."""
        return self._by_unit("singular-vector")

    def _by_unit(self, unit: Unit) -> list[UnitSums]:
        return [unit_sums(self._subject, rows, unit, view=self._view) for rows in self._sets]


Look = Literal["alone", "path", "path twice"]
LOOKS = {"alone": exact_effects, "path": path_effects}


@dataclass(frozen=True)
class Method:
    """One way to rank units.

    Attributes:
        name: in tables.
        unit: what is ranked.
        harm: the score to choose by.
        keep_share: how many times the count the keep score protects; 0 for no protection.
        proposed: how many times the count the score only proposes, to be looked at by ``look``; the rise of the planted
            answers' loss less that of the benign ones' then ranks. 0 for none.
        look: what is found out of each unit proposed: its effect when it goes "alone" (`exact_effects`), its part in
            the effect of all proposed, along the "path" (`path_effects`), or so again among the best quarter
            ("path twice", `refined_path_effects`).
        also: further scores that propose as many.
        rivals: names of other methods for the same unit: each one's choice is taken out whole, on the rows it was
            found on, and the one stands that does most to the planted answers beyond the benign ones.
    """

    name: str
    unit: Unit
    harm: Callable[[PlantedSums], ScoreOf]
    keep_share: float = 0.0
    proposed: int = 0
    look: Look = "alone"
    also: tuple[Callable[[PlantedSums], ScoreOf], ...] = ()
    rivals: tuple[str, ...] = ()


def _weights(score: Callable[..., ScoreOf], *sets: int) -> Callable[[PlantedSums], ScoreOf]:
    return lambda sums: score(*(sums.weights[i] for i in sets))


def _components(*sets: int) -> Callable[[PlantedSums], ScoreOf]:
    return lambda sums: unit_score(*(sums.components[i] for i in sets))


def _directions(*sets: int) -> Callable[[PlantedSums], ScoreOf]:
    return lambda sums: unit_score(*(sums.directions[i] for i in sets))


def _guarded(sums: PlantedSums) -> ScoreOf:
    return guarded(contrastive_score(*sums.weights), absolute_score(sums.weights[KEEP]))


def _integrated_twice(unit: Unit, by: Callable[..., Callable[[PlantedSums], ScoreOf]]) -> Method:
    return Method("three scores, integrated twice", unit, by(HARM, KEEP), proposed=16, look="path twice",
                  also=(by(HARM, TWIN, KEEP), by(HARM, TWIN)))  # fmt: skip


# The published names keep about 14 times as much as they prune (p 1e-3, q 7e-5).
METHODS = (
    Method("signed", "weight", _weights(signed_score, HARM)),
    Method("absolute", "weight", _weights(absolute_score, HARM)),
    Method("signed, keep protected (published)", "weight", _weights(signed_score, HARM), keep_share=14),
    Method("harm minus twin and keep, guarded", "weight", _guarded),
    Method("signed", "neuron+head", _components(HARM)),
    Method("signed, keep protected", "neuron+head", _components(HARM), keep_share=14),
    Method("harm minus twin", "neuron+head", _components(HARM, TWIN)),
    Method("harm minus keep", "neuron+head", _components(HARM, KEEP)),
    Method("harm minus twin and keep", "neuron+head", _components(HARM, TWIN, KEEP)),
    Method("harm minus keep, verified one by one", "neuron+head", _components(HARM, KEEP), proposed=4),
    Method(
        "harm minus keep, integrated along the path", "neuron+head", _components(HARM, KEEP), proposed=4, look="path"
    ),
    _integrated_twice("neuron+head", _components),
    Method(
        "the best set of three (keep, twin and keep, twice)",
        "neuron+head",
        _components(HARM, KEEP),
        rivals=("harm minus keep", "harm minus twin and keep", "three scores, integrated twice"),
    ),
    Method("harm minus twin and keep, guarded", "neuron+head", lambda sums: guarded_score(*sums.components)),
    Method("harm minus twin", "singular-vector", _directions(HARM, TWIN)),
    Method("harm minus keep", "singular-vector", _directions(HARM, KEEP)),
    Method("harm minus twin and keep", "singular-vector", _directions(HARM, TWIN, KEEP)),
    Method("harm minus twin, verified one by one", "singular-vector", _directions(HARM, TWIN), proposed=16),
    _integrated_twice("singular-vector", _directions),
    Method("magnitude", "neuron+head", lambda sums: magnitude_score),
    Method("random", "neuron+head", lambda sums: random_score(0)),
)

# Not in the published table: they need no gradient, and rank weights of one row or matrix only, as published.
RIVALS = (
    Method("Wanda", "weight", lambda sums: wanda_score(sums.norms)),
    Method("Wanda, within rows (published)", "weight", lambda sums: ranked_within(wanda_score(sums.norms), "row")),
    Method(
        "absolute, within matrices (published)",
        "weight",
        lambda sums: ranked_within(absolute_score(sums.weights[HARM]), "matrix"),
    ),
)
