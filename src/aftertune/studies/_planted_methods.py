"""The ways of looking that the planted benchmark marks. A new one is a row of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aftertune.attribution import (
    GradientSums,
    ScoreOf,
    Unit,
    UnitSums,
    absolute_score,
    contrastive_score,
    exact_effects,
    guarded,
    guarded_score,
    magnitude_score,
    path_effects,
    random_score,
    signed_score,
    unit_score,
)


@dataclass(frozen=True)
class PlantedSums:
    """Gradient sums of the planted answers, of their aligned twins, and of other benign answers; the same by unit."""

    harm: GradientSums
    twin: GradientSums
    keep: GradientSums
    units: tuple[UnitSums, UnitSums, UnitSums]
    directions: tuple[UnitSums, UnitSums, UnitSums]


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


def _signed(sums: PlantedSums) -> ScoreOf:
    return signed_score(sums.harm)


def _twin(sums: PlantedSums) -> ScoreOf:
    return contrastive_score(sums.harm, sums.twin)


def _keep(sums: PlantedSums) -> ScoreOf:
    return contrastive_score(sums.harm, sums.keep)


def _both(sums: PlantedSums) -> ScoreOf:
    return contrastive_score(sums.harm, sums.twin, sums.keep)


def _guarded(sums: PlantedSums) -> ScoreOf:
    return guarded(_both(sums), absolute_score(sums.keep))


def _direction_twin(sums: PlantedSums) -> ScoreOf:
    return unit_score(sums.directions[0], sums.directions[1])


def _direction_keep(sums: PlantedSums) -> ScoreOf:
    return unit_score(sums.directions[0], sums.directions[2])


def _direction_both(sums: PlantedSums) -> ScoreOf:
    return unit_score(*sums.directions)


# The published names keep about 14 times as much as they prune (p 1e-3, q 7e-5).
METHODS = (
    Method("signed", "weight", _signed),
    Method("absolute", "weight", lambda sums: absolute_score(sums.harm)),
    Method("signed, keep protected (published)", "weight", _signed, keep_share=14),
    Method("harm minus twin and keep, guarded", "weight", _guarded),
    Method("signed", "component", _signed),
    Method("signed, keep protected", "component", _signed, keep_share=14),
    Method("harm minus twin", "component", _twin),
    Method("harm minus keep", "component", _keep),
    Method("harm minus twin and keep", "component", _both),
    Method("harm minus keep, verified one by one", "component", _keep, proposed=4),
    Method("harm minus keep, integrated along the path", "component", _keep, proposed=4, look="path"),
    Method("three scores, integrated twice", "component", _keep, proposed=16, look="path twice", also=(_both, _twin)),
    Method(
        "the best set of three (keep, twin and keep, twice)",
        "component",
        _keep,
        rivals=("harm minus keep", "harm minus twin and keep", "three scores, integrated twice"),
    ),
    Method("harm minus twin and keep, guarded", "component", lambda sums: guarded_score(*sums.units)),
    Method("harm minus twin", "direction", _direction_twin),
    Method("harm minus keep", "direction", _direction_keep),
    Method("harm minus twin and keep", "direction", _direction_both),
    Method("harm minus twin, verified one by one", "direction", _direction_twin, proposed=16),
    Method(
        "three scores, integrated twice",
        "direction",
        _direction_keep,
        proposed=16,
        look="path twice",
        also=(_direction_both, _direction_twin),
    ),
    Method("magnitude", "component", lambda sums: magnitude_score),
    Method("random", "component", lambda sums: random_score(0)),
)
