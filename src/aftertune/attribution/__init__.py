"""Where it lives: gradients of responses by matrix, and patches that edit chosen weights reversibly."""

from aftertune.attribution._gradients import GradientSums, gradient_sums
from aftertune.attribution._patch import (
    Edit,
    Operation,
    Patch,
    make_patch,
    matrix_digest,
    read_patch,
    write_patch,
)
from aftertune.attribution._scores import (
    ScoreOf,
    Unit,
    UnitSpace,
    absolute_score,
    contrastive_score,
    delta_score,
    magnitude_score,
    signed_score,
    unit_spaces,
)
from aftertune.attribution._selection import Scope, Selection, select

__all__ = [
    "Edit",
    "GradientSums",
    "Operation",
    "Patch",
    "Scope",
    "ScoreOf",
    "Selection",
    "Unit",
    "UnitSpace",
    "absolute_score",
    "contrastive_score",
    "delta_score",
    "gradient_sums",
    "magnitude_score",
    "make_patch",
    "matrix_digest",
    "read_patch",
    "select",
    "signed_score",
    "unit_spaces",
    "write_patch",
]
