"""The patch that takes chosen units out, or fades them, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from aftertune.attribution._selection import Selection
from aftertune.model import Operation, Patch, WeightView, make_patch


def unit_patch(
    view: WeightView,
    selection: Selection,
    operation: Literal["zero", "scale"] = "zero",
    about: Mapping[str, Any] | None = None,
    *,
    factor: float = 0.0,
    digest: bool = False,
) -> Patch:
    """A patch of a selection; nothing is changed yet.

    Weights, neurons and heads are put to zero or multiplied. Of directions, which overlap in the same weights, what
    they add to their matrix is taken off, all of it or all but ``factor``; such a patch holds whole matrices.

    Args:
        view: the weights it is made for.
        selection: of units of this view.
        operation: "zero", or "scale" by ``factor``.
        about: how the units were found, as JSON values.
        factor: for "scale".
        digest: take the digests of the touched matrices, as a patch that is to be stored needs.

    Raises:
        UsageError: nothing is chosen.
    """
    if selection.unit != "direction":
        return make_patch(view, selection.chosen, operation, about or {}, factor=factor, digest=digest)
    left = factor if operation == "scale" else 0.0
    after = {}
    for name, numbers in selection.members.items():
        weights = view[name].parameter.detach()
        part = view.directions(name).part(numbers)
        after[name] = (weights.float() - (1 - left) * part).to(weights.dtype)
    kind: Operation = "remove" if left == 0 else "scale"
    return make_patch(view, selection.chosen, kind, about or {}, base=after, digest=digest)
