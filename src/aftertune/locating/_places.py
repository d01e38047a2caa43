"""Where the weights of a patch sit: counts by layer and kind of matrix, and their section of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aftertune.model import Patch, WeightView
from aftertune.report import Places


def count_places(view: WeightView, patch: Patch) -> dict[str, list[dict[str, Any]]]:
    """Weights by layer and role: ``places`` of the patch, ``totals`` of all in view; what has no layer is in -1."""
    places: Counter[tuple[int, str]] = Counter()
    totals: Counter[tuple[int, str]] = Counter()
    for name, matrix in view.items():
        key = (matrix.layer if matrix.layer is not None else -1, matrix.role)
        totals[key] += matrix.weights
        if name in patch.edits:
            places[key] += patch.edits[name].index.numel()
    return {
        kind: [{"layer": layer, "role": role, "weights": n} for (layer, role), n in sorted(counts.items())]
        for kind, counts in (("places", places), ("totals", totals))
    }


def places_section(document: Mapping[str, Any]) -> Places:
    """The picture of what `count_places` counted."""
    places, totals = ({(p["layer"], p["role"]): p["weights"] for p in document[kind]} for kind in ("places", "totals"))
    return Places(
        "Where the weights sit",
        "Chosen weights by layer and matrix.",
        1 + max((layer for layer, _ in totals), default=0),
        tuple(dict.fromkeys(role for _, role in totals)),
        places,
        totals,
    )
