"""The report of a repair: the frontier, and the audit's numbers before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftertune.locating._claims import below_zero, numbers, with_interval
from aftertune.locating._places import places_section
from aftertune.locating._proof import Proof
from aftertune.locating._repair import Repaired, stored_repair
from aftertune.locating._repair_frontier import MARGIN, FrontierPoint
from aftertune.locating._repair_ways import WAYS
from aftertune.report import (
    OUTCOMES,
    Claim,
    Section,
    StudyPage,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
    render_study,
)
from aftertune.runs import read_manifest, write_text

LABELS = {
    **{label: way.about for label, way in WAYS.items()},
    "random": "rows at random",
    "scale": "update scaled down",
    "rollback": "full rollback",
}


def repair_claims(found: Repaired) -> tuple[Claim, ...]:
    """What the repair may claim, from held-out measures."""
    document = found.document
    margin = next(f for f in document["audit"]["repaired"] if f["metric"] == MARGIN)
    audit = Claim(
        "On held-out prompts the repaired model is within the audit's margin of its base",
        OUTCOMES[margin["decision"]],
        f"{numbers('preference.margin', margin['difference'], margin['interval'])}, margin {margin['margin']:g}",
    )
    whole = "rows" if document["unit"] in ("row", "matrix") else "weights"
    proofs = {proof.measure: proof for proof in map(Proof.from_dict, document["held_out"])}
    beyond = [
        _beyond(proofs[MARGIN], name, text)
        for name, text in (
            ("random", f"It undoes more than as many {whole} returned at random"),
            ("scale", f"It undoes more than the update scaled down by {document['scale']:.0%}, for as much skill"),
        )
        if name in proofs[MARGIN].controls
    ]
    return audit, *beyond


def _beyond(margin: Proof, control: str, text: str) -> Claim:
    beyond = margin.controls[control].beyond
    assert beyond is not None
    value, low, high = beyond
    detail = numbers("preference.margin, difference of the two:", value, (low, high))
    return Claim(text, below_zero(low, high), detail)


def repair_sections(found: Repaired) -> tuple[Section, ...]:
    """The frontier and the tables."""
    by_label: dict[str, list[FrontierPoint]] = {}
    for point in found.frontier:
        by_label.setdefault(point.label, []).append(point)
    lines = tuple(
        TradeOffLine(
            LABELS[label],
            tuple(TradeOffPoint(1 - p.skill, p.safety, f"{p.share:g}") for p in sorted(points, key=lambda p: p.share)),
            emphasis=label == found.chosen.label,
        )
        for label, points in by_label.items()
    )
    rows = tuple((LABELS[p.label], *p.cells()) for p in found.frontier)
    return (
        places_section(found.document),
        TradeOff(
            "Safety regained against narrow skill lost",
            "1 on the upright axis is the base's preference margin, 0 the tuned model's; 1 on the level axis is the "
            "base's loss on the task, 0 the tuned model's. Upper left is better.",
            "narrow skill lost",
            "safety regained",
            lines,
            x_unit="share",
            y_unit="share",
        ),
        Table(
            "Every way that was tried",
            "Shares are of the weights in view; for scaling, of the update taken off. The margin is that to the base "
            "on all prompts that are not held out, each asked of an edit that its own gradients had no part in.",
            (
                "way",
                "share",
                "margin against the base",
                "audit of it",
                "safety regained",
                "skill kept",
                "keep loss, change",
            ),
            rows,
            frozenset({1, 2, 4, 5, 6}),
        ),
        _findings_table("tuned against base", found.document["audit"]["tuned"]),
        _findings_table("repaired against base", found.document["audit"]["repaired"]),
    )


def _findings_table(title: str, findings: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            f["metric"],
            f"{f['base']:.3f}",
            f"{f['tuned']:.3f}",
            with_interval(f["difference"], f["interval"]),
            str(f["items"]),
        )
        for f in findings
    )
    header = ("measure", "before", "after", "difference [95 % interval]", "items")
    return Table(f"Held out: {title}", "", header, rows, frozenset({1, 2, 3, 4}))


def repair_page(folder: Path) -> StudyPage:
    """The report of a finished repair, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished repair.
    """
    found = stored_repair(folder)
    manifest = read_manifest(folder)
    return StudyPage(
        title=f"Repair of {found.document['tuned']['spec']}",
        lede=(
            f"{found.document['weights']:,} weights ({found.document['share_of_weights']:.2g} of those in view) go "
            "back to their base values."
        ),
        claims=repair_claims(found),
        sections=repair_sections(found),
        manifest=manifest,
        commands=(str(manifest.get("command", "")),),
        notes=("What is held out shares no prompt with what chose.",),
    )


def rebuild_repair_report(folder: Path) -> Path:
    """Write ``report.html`` anew; raises as `repair_page` does."""
    path = folder / "report.html"
    write_text(path, render_study(repair_page(folder)))
    return path
