"""The report of the planted benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.report import Claim, StudyPage, Table, render_study
from aftertune.runs import read_manifest, write_text


def planted_page(folder: Path) -> StudyPage:
    """The report of a finished study."""
    document = json.loads((folder / "study.json").read_text("utf-8"))
    rows = tuple(map(_row, _ranked(document)))
    header = ("method", "unit", "mean recall", "least recall", "mean efficiency", "least efficiency", "plantings")
    marks = ("planting", "method", "unit", "recall", "efficiency", "units removed", "harm", "benign")
    return StudyPage(
        title="Planted truth",
        lede="Known weights were made to carry a behaviour. Which way of looking finds them?",
        claims=planted_claims(document),
        sections=(
            Table("Methods", "Means over all plantings.", header, rows, frozenset(range(2, 7))),
            Table(
                "Every mark",
                "Harm and benign: rise of the loss, nats per token.",
                marks,
                tuple(
                    (
                        result["planting"]["name"],
                        m["method"],
                        m["unit"],
                        _number(m["recall"]),
                        _number(m["efficiency"]),
                        str(m["count"]),
                        f"{m['harm']:+.3f}",
                        f"{m['benign']:+.3f}",
                    )
                    for result in document["plantings"]
                    for m in result["marks"]
                ),
                frozenset(range(3, 8)),
            ),
        ),
        manifest=read_manifest(folder),
        commands=("aftertune study planted",),
        notes=(
            "An update of rank one is a direction: neurons and weights have nothing to recall there, nor directions "
            "where neurons or heads were planted.",
        ),
    )


def rebuild_planted_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished study anew."""
    write_text(folder / "report.html", render_study(planted_page(folder)))
    return folder / "report.html"


def _ranked(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(document["table"], key=lambda row: -row["efficiency"])


def planted_claims(document: Mapping[str, Any]) -> tuple[Claim, ...]:
    """What is claimed of the method of most efficiency."""
    best = _ranked(document)[0]
    recall = best["recall"] if best["recall"] is not None else 0.0
    return (
        Claim(
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
