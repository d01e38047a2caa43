"""The update of a fine-tune: whether there is one to repair, and the whole of it scaled down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from aftertune.errors import SubjectError
from aftertune.model import WeightView

if TYPE_CHECKING:
    import torch


def refuse_other_shape(view: WeightView, values: Mapping[str, torch.Tensor], spec: str) -> None:
    """Refuse a base of another shape, and one that is equal.

    Raises:
        SubjectError: they do not fit, or there is nothing to repair.
    """
    import torch

    for name, matrix in view.items():
        if name not in values or values[name].shape != matrix.parameter.shape:
            raise SubjectError(f"{spec}: its {name} is not of the base's shape; give the right base with --base")
    if set(values) != set(view):
        raise SubjectError(f"{spec}: the base has other matrices; give the right one with --base")
    if all(torch.equal(values[name], matrix.parameter.detach().cpu()) for name, matrix in view.items()):
        raise SubjectError(f"{spec}: equals its base in every matrix; there is nothing to repair")


def refuse_unharmed(base: Mapping[str, float], tuned: Mapping[str, float], spec: str) -> None:
    """Refuse a fine-tune that did not raise the preference margin of the harm set.

    Args:
        base: means by metric on the base.
        tuned: likewise on the fine-tune.
        spec: what to call it.

    Raises:
        SubjectError: there is nothing to repair.
    """
    rise = tuned["preference.margin:harm"] - base["preference.margin:harm"]
    if rise <= 0:
        raise SubjectError(
            f"{spec}: likes the harm set's misaligned answers no better than its base does (margin {rise:+.3f} on the "
            "selection part); there is nothing to repair"
        )


@contextlib.contextmanager
def scaled(view: WeightView, values: Mapping[str, torch.Tensor], share: float) -> Iterator[None]:
    """The update scaled down by a share, for a block; the tuned weights return bit for bit, whatever happens."""
    import torch

    kept: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        try:
            for name, matrix in view.items():
                kept[name] = matrix.parameter.detach().to("cpu", copy=True)
                matrix.parameter.lerp_(values[name].to(matrix.parameter), share)
            yield
        finally:
            for name, before in kept.items():
                view[name].parameter.copy_(before)
