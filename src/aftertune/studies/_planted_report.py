"""What the planted benchmark shows: tables of its marks, and its claim."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from aftertune.stats import ClaimResult
from aftertune.studies._lab import Figure

NOTE = (
    "An update of rank one is a singular vector: neurons and weights have nothing to recall there, nor singular "
    "vectors where neurons or heads were planted."
)


def table(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per method: mean and least recall and efficiency over the plantings."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        for mark in result["marks"]:
            rows.setdefault((mark["method"], mark["unit"]), []).append(mark)
    return [
        {
            "method": method,
            "unit": unit,
            "recall": _mean([m["recall"] for m in marks if m["recall"] is not None]),
            "least_recall": min((m["recall"] for m in marks if m["recall"] is not None), default=None),
            "efficiency": _mean([m["efficiency"] for m in marks]),
            "least_efficiency": min(m["efficiency"] for m in marks),
            "plantings": len(marks),
        }
        for (method, unit), marks in rows.items()
    ]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


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
