"""Where it lives: gradients of responses by matrix, and patches that edit chosen weights reversibly."""

from aftertune.attribution._activations import input_norms
from aftertune.attribution._controls import magnitude_control, opposite_control, random_control
from aftertune.attribution._exact import UnitEffect, best_units, exact_effects
from aftertune.attribution._gradients import GradientSums, gradient_sums
from aftertune.attribution._overlap import Overlap, overlap
from aftertune.attribution._path import path_effects, refined_path_effects
from aftertune.attribution._scores import (
    ScoreOf,
    Unit,
    UnitSpace,
    absolute_score,
    contrastive_score,
    delta_score,
    guarded,
    magnitude_score,
    random_score,
    seeded_by_name,
    signed_score,
    unit_spaces,
    wanda_score,
)
from aftertune.attribution._selection import (
    Scope,
    Selection,
    candidate_units,
    select,
    select_count,
    select_units,
    selection_of,
    united,
)
from aftertune.attribution._stored import read_sums, write_sums
from aftertune.attribution._unit_patch import unit_patch
from aftertune.attribution._unit_sums import (
    UnitSums,
    guarded_score,
    sums_by_unit,
    unit_importance,
    unit_score,
    unit_sums,
)

__all__ = [
    "GradientSums",
    "Overlap",
    "Scope",
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
    "delta_score",
    "exact_effects",
    "gradient_sums",
    "guarded",
    "guarded_score",
    "input_norms",
    "magnitude_control",
    "magnitude_score",
    "opposite_control",
    "overlap",
    "path_effects",
    "random_control",
    "random_score",
    "read_sums",
    "refined_path_effects",
    "seeded_by_name",
    "select",
    "select_count",
    "select_units",
    "selection_of",
    "signed_score",
    "sums_by_unit",
    "unit_importance",
    "unit_patch",
    "unit_score",
    "unit_spaces",
    "unit_sums",
    "united",
    "wanda_score",
    "write_sums",
]
