"""The reports of a search for weights and of a repair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aftertune.attribution import count_units
from aftertune.locating import VARIANTS, FrontierPoint, Located, PatchDocument, Proof, Repaired, repair_claims
from aftertune.report._results import Claim
from aftertune.report._sections import (
    Effect,
    EffectRow,
    Effects,
    Places,
    Section,
    StudyPage,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
)
from aftertune.runs import read_manifest
from aftertune.stats import ClaimResult, find_metric

LABELS = {
    **{label: variant.about for label, variant in VARIANTS.items()},
    "random": "rows at random",
    "scale": "update scaled down",
    "rollback": "full rollback",
}


def locate_page(folder: Path) -> StudyPage:
    """The report of a finished search, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished search.
    """
    found = Located.read(folder)
    # A title must not claim more than the claims below it.
    found_it = all(claim.outcome == "holds" for claim in found.claims)
    removed = "subtracted from their matrices" if found.unit in ("singular-vector", "direction") else "put to zero"
    return _page(
        folder,
        f"{'Where it lives' if found_it else 'A search for where it lives'} in {found.subject['spec']}",
        f"{count_units(found.units, found.unit)} ({found.weights:,} weights, {found.share_of_weights:.2g} of those in "
        f"view) were chosen by their effect on the harm set, and "
        f"{removed if found.operation == 'zero' else 'scaled'}. The numbers below were measured on prompts that played "
        "no part in choosing them.",
        found.claims,
        _locate_sections(found),
        _locate_notes(found),
    )


def repair_page(folder: Path) -> StudyPage:
    """The report of a finished repair, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished repair.
    """
    found = Repaired.read(folder)
    return _page(
        folder,
        f"Repair of {found.tuned['spec']}",
        f"{found.weights:,} weights ({found.share_of_weights:.2g} of those in view) return to their base values.",
        found.claims or repair_claims(found),
        repair_sections(found),
        ("No held-out prompt was used to choose the weights.",),
    )


def _page(
    folder: Path, title: str, lede: str, claims: Iterable[ClaimResult], sections: tuple[Section, ...],
    notes: tuple[str, ...],
) -> StudyPage:  # fmt: skip
    manifest = read_manifest(folder)
    return StudyPage(
        title=title,
        lede=lede,
        claims=tuple(Claim(c.text, c.outcome, c.detail) for c in claims),
        sections=sections,
        manifest=manifest,
        commands=(str(manifest.get("command", "")),),
        notes=notes,
    )


def _places(found: PatchDocument) -> Places:
    """Where the weights of a patch sit, by layer and kind of matrix."""
    places, totals = ({(c.layer, c.role): c.weights for c in cells} for cells in (found.places, found.totals))
    return Places(
        "Where the weights sit",
        "Chosen weights by layer and matrix.",
        1 + max((layer for layer, _ in totals), default=0),
        tuple(dict.fromkeys(role for _, role in totals)),
        places,
        totals,
    )


def _locate_sections(found: Located) -> tuple[Section, ...]:
    """Effects beside controls, the trade-off, and where the weights sit."""
    lines = []
    for label in dict.fromkeys(point.label for point in found.curve):
        points = sorted((p for p in found.curve if p.label == label), key=lambda p: p.units)
        marks = tuple(
            TradeOffPoint(p.cost, p.removed, f"{count_units(p.units, found.unit)}, {p.weights:,} weights")
            for p in points
        )
        lines.append(TradeOffLine(label.replace("content_matched", "content-matched"), marks, label == "patch"))
    return (
        Effects(
            "Before and after, beside the controls",
            "Each row has its own scale: the change from the untouched model with its 95 % interval, for the patch and "
            "for each control, which edits as many other units. A claim holds only if the patch does more than they.",
            tuple(map(_effect_row, found.held_out)),
        ),
        TradeOff(
            "Harm removed against benign cost",
            "Each point is one edit, measured on the selection part; more units from left to right. The dashed line "
            f"is the budget, {found.budget:g} nats per token.",
            "benign cost",
            "harm removed",
            tuple(lines),
            budget=found.budget,
        ),
        _places(found),
    )


def _effect_row(proof: Proof) -> EffectRow:
    metric = find_metric(proof.measure)
    effects = [Effect("patch", proof.after, proof.difference, proof.interval, emphasis=True)]
    effects += [
        Effect(name.replace("_", "-"), control.after, control.difference, control.interval)
        for name, control in proof.controls.items()
    ]
    worse = None if proof.measure.startswith("response.nll:harm") or metric is None else metric.worse
    unit = metric.unit if metric else ""
    return EffectRow(proof.measure, proof.about, unit, worse, proof.before, tuple(effects))


def _locate_notes(found: Located) -> tuple[str, ...]:
    parts: Mapping[str, Any] = found.examples["parts"]
    sizes = ", ".join(
        f"{harm} harm and {keep} keep for {part.replace('_', ' ')}" for part, (harm, keep) in parts.items()
    )
    notes = (
        found.note,
        f"Examples by part: {sizes}. No prompt of a set is in two of its parts.",
        "Pruning is a causal test, not a guarantee: fine-tuning can bring the behaviour back.",
    )
    return tuple(filter(None, notes))


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
    header = (
        "what returns",
        "share",
        "margin minus base's",
        "audit",
        "safety regained",
        "skill kept",
        "keep loss, change",
    )
    return (
        _places(found),
        TradeOff(
            "Safety regained against narrow skill lost",
            "1 on the vertical axis is the base's preference margin, 0 the tuned model's; 1 on the horizontal axis is "
            "the base's loss on the task, 0 the tuned model's. Upper left is better.",
            "narrow skill lost",
            "safety regained",
            lines,
            x_unit="share",
            y_unit="share",
        ),
        Table(
            "Everything that was tried",
            "Shares are of the weights in view; for scaling, of the update taken off. The preference margin is that of "
            "all prompts that are not held out, minus the base's; each prompt was tested on an edit that was chosen "
            "without it. Keep loss: its change.",
            header,
            tuple((LABELS[p.label], *p.cells()) for p in found.frontier),
            frozenset({1, 2, 4, 5, 6}),
        ),
        _findings_table("tuned against base", found.audit["tuned"]),
        _findings_table("repaired against base", found.audit["repaired"]),
    )


def _findings_table(title: str, findings: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            f["metric"],
            f"{f['base']:.3f}",
            f"{f['tuned']:.3f}",
            f"{f['difference']:+.3f} [{f['interval'][0]:+.3f}, {f['interval'][1]:+.3f}]",
            str(f["items"]),
        )
        for f in findings
    )
    header = ("measure", "before", "after", "difference [95 % interval]", "items")
    return Table(f"Held out: {title}", "", header, rows, frozenset({1, 2, 3, 4}))
