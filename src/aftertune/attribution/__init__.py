"""Gradients of responses by weight or unit, scores made of them, selections, controls and what removing units does."""

from aftertune.attribution._controls import (
    Overlap,
    magnitude_control,
    opposite_control,
    overlap,
    random_control,
)
from aftertune.attribution._effects import (
    UnitEffect,
    best_units,
    exact_effects,
    path_effects,
    refined_path_effects,
    unit_patch,
)
from aftertune.attribution._scores import (
    ScoreOf,
    absolute_score,
    contrastive_score,
    delta_score,
    guarded,
    guarded_score,
    seeded_by_name,
    signed_score,
    unit_importance,
    unit_score,
)
from aftertune.attribution._selection import (
    Selection,
    candidate_units,
    select,
    select_count,
    select_units,
    selection_of,
    united,
)
from aftertune.attribution._unit_sums import UnitSums, sums_by_unit, unit_sums
from aftertune.attribution._units import FORMER_UNITS, Unit, UnitSpace, count_units, unit_named, unit_spaces
from aftertune.attribution._weight_sums import GradientSums, gradient_sums

__all__ = [
    "FORMER_UNITS",
    "GradientSums",
    "Overlap",
    "ScoreOf",
    "Selection",
    "Unit",
    "UnitEffect",
    "UnitSpace",
    "UnitSums",
    "absolute_score",
    "best_units",
    "candidate_units",
    "contrastive_score",
    "count_units",
    "delta_score",
    "exact_effects",
    "gradient_sums",
    "guarded",
    "guarded_score",
    "magnitude_control",
    "opposite_control",
    "overlap",
    "path_effects",
    "random_control",
    "refined_path_effects",
    "seeded_by_name",
    "select",
    "select_count",
    "select_units",
    "selection_of",
    "signed_score",
    "sums_by_unit",
    "unit_importance",
    "unit_named",
    "unit_patch",
    "unit_score",
    "unit_spaces",
    "unit_sums",
    "united",
]
