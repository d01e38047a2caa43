"""The leading singular directions of a matrix: what updates of low rank, such as an adapter's, are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEADING = 64
"""How many directions of a matrix are looked at, strongest first; what an update of low rank adds is among them."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The strongest terms of a matrix's singular value decomposition, in its stored layout.

    Attributes:
        left: left singular vectors, fp32, shape (stored rows, k).
        sizes: singular values, falling, shape (k,).
        right: right singular vectors, shape (k, stored columns).
    """

    left: torch.Tensor
    sizes: torch.Tensor
    right: torch.Tensor

    def part(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of the numbered terms, a matrix of the stored shape, fp32."""
        numbers = numbers.to(self.sizes.device)
        return (self.left[:, numbers] * self.sizes[numbers]) @ self.right[numbers]


def leading_directions(matrix: torch.Tensor, count: int = LEADING) -> Directions:
    """Decompose a matrix.

    Args:
        matrix: of two dimensions, any floating type.
        count: how many terms to keep, at most as many as there are.
    """
    import torch

    # Not torch.svd_lowrank: singular values fall slowly. Of the 64 leading pairs of a SmolLM2 down projection it finds
    # 5 % (|cosine| above 0.99; 36 % with twice the columns and four iterations), with values off by up to 13 %.
    left, sizes, right = torch.linalg.svd(matrix.detach().float(), full_matrices=False)
    return Directions(left[:, :count].clone(), sizes[:count].clone(), right[:count].clone())
