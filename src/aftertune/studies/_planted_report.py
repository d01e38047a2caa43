"""What the planted benchmark shows: tables of its marks, and its claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftertune.stats import ClaimResult
from aftertune.studies._lab import Figure

NOTE = (
    "An update of rank one is a singular vector: neurons and weights have nothing to recall there, nor singular "
    "vectors where neurons or heads were planted."
)


def planted_tables(document: Mapping[str, Any]) -> list[Figure]:
    """Methods with their means, and every mark."""
    methods = {
        "kind": "table",
        "title": "Methods",
        "guide": "Means over all plantings.",
        "header": ["method", "unit", "mean recall", "least recall", "mean efficiency", "least efficiency", "plantings"],
        "rows": [list(_row(row)) for row in _ranked(document)],
        "numeric": list(range(2, 7)),
    }
    marks = {
        "kind": "table",
        "title": "Every mark",
        "guide": "Harm and benign: rise of the loss, nats per token.",
        "header": ["planting", "method", "unit", "recall", "efficiency", "units removed", "harm", "benign"],
        "rows": [
            [
                result["planting"]["name"],
                m["method"],
                m["unit"],
                _number(m["recall"]),
                _number(m["efficiency"]),
                str(m["count"]),
                f"{m['harm']:+.3f}",
                f"{m['benign']:+.3f}",
            ]
            for result in document["plantings"]
            for m in result["marks"]
        ],
        "numeric": list(range(3, 8)),
    }
    return [methods, marks]


def _ranked(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(document["table"], key=lambda row: -row["efficiency"])


def planted_claims(document: Mapping[str, Any]) -> tuple[ClaimResult, ...]:
    """What is claimed of the method of most efficiency."""
    best = _ranked(document)[0]
    recall = best["recall"] if best["recall"] is not None else 0.0
    return (
        ClaimResult(
            "The best method finds at least 0.9 of what was planted, at 0.9 of the oracle's efficiency",
            "holds" if recall >= 0.9 and best["efficiency"] >= 0.9 else "does not hold",
            f"{best['method']} ({best['unit']}): recall {recall:.2f}, efficiency {best['efficiency']:.2f}",
        ),
    )


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (row["recall"], row["least_recall"], row["efficiency"], row["least_efficiency"])
    return (row["method"], row["unit"], *map(_number, numbers), str(row["plantings"]))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
