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

__all__ = [
    "Edit",
    "GradientSums",
    "Operation",
    "Patch",
    "gradient_sums",
    "make_patch",
    "matrix_digest",
    "read_patch",
    "write_patch",
]
