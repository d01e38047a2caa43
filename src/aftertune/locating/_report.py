"""The report of a search for weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftertune.attribution import count_units
from aftertune.locating._locate import Located, stored_locate
from aftertune.locating._places import places_section
from aftertune.locating._proof import Proof
from aftertune.report import (
    Claim,
    Effect,
    EffectRow,
    Effects,
    Section,
    StudyPage,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
    render_study,
)
from aftertune.runs import read_manifest, write_text
from aftertune.stats import find_metric

NAMES = {"patch": "patch", "content_matched": "content-matched"}


def _done(document: dict[str, Any]) -> str:
    if document["operation"] != "zero":
        return "scaled"
    return "taken out of their matrices" if document["unit"] in ("singular-vector", "direction") else "put to zero"


def locate_page(folder: Path) -> StudyPage:
    """The report of a finished search, from what its folder holds.

    Raises:
        OutputError: the folder holds no finished search.
    """
    found = stored_locate(folder)
    document = found.document
    manifest = read_manifest(folder)
    claims, spec = located_claims(document), document["subject"]["spec"]
    # A title must not claim more than the claims below it.
    found_it = all(claim.outcome == "holds" for claim in claims)
    return StudyPage(
        title=f"Where it lives in {spec}" if found_it else f"A search for where it lives in {spec}",
        lede=(
            f"{count_units(document['units'], document['unit'])} ({document['weights']:,} weights, "
            f"{document['share_of_weights']:.2g} of those in view) were chosen by their effect on the harm set, and "
            f"{_done(document)}. What follows was measured on prompts "
            "that neither the scores nor the fractions saw."
        ),
        claims=claims,
        sections=located_sections(found),
        manifest=manifest,
        commands=(str(manifest.get("command", "")),),
        notes=tuple(filter(None, [document["note"], *_notes(document)])),
    )


def rebuild_locate_report(folder: Path) -> Path:
    """Write ``report.html`` anew; raises as `locate_page` does."""
    path = folder / "report.html"
    write_text(path, render_study(locate_page(folder)))
    return path


def located_claims(document: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The claims of a search, as a report shows them."""
    return tuple(Claim(c["text"], c["outcome"], c["detail"]) for c in document["claims"])


def located_sections(found: Located) -> tuple[Section, ...]:
    """Effects beside controls, the trade-off, and where the weights sit."""
    document = found.document
    return (
        Effects(
            "Before and after, beside the controls",
            "Each row has its own scale: the change from the untouched model with its 95 % interval, for the patch "
            "and for as many units chosen by something else. A claim stands only where the patch does more than they.",
            tuple(_row(proof) for proof in found.proofs),
        ),
        TradeOff(
            "Harm removed against benign cost",
            "Each point is one edit, measured on the selection part; more units from left to right. The dashed line "
            f"is the budget, {document['budget']:g} nats per token.",
            "benign cost",
            "harm removed",
            _lines(found),
            budget=float(document["budget"]),
        ),
        places_section(document),
    )


def _row(proof: Proof) -> EffectRow:
    metric = find_metric(proof.measure)
    effects = [Effect("patch", proof.patch.after, proof.patch.difference, proof.patch.interval, emphasis=True)]
    effects += [
        Effect(NAMES.get(name, name), control.after, control.difference, control.interval)
        for name, control in proof.controls.items()
    ]
    worse = None if proof.measure.startswith("response.nll:harm") or metric is None else metric.worse
    unit = metric.unit if metric else ""
    return EffectRow(proof.measure, proof.about, unit, worse, proof.before, tuple(effects))


def _lines(found: Located) -> tuple[TradeOffLine, ...]:
    unit = found.document["unit"]
    lines = []
    for label in dict.fromkeys(point.label for point in found.curve):
        points = sorted((p for p in found.curve if p.label == label), key=lambda p: p.units)
        marks = tuple(
            TradeOffPoint(p.cost, p.removed, f"{count_units(p.units, unit)}, {p.weights:,} weights") for p in points
        )  # fmt: skip
        lines.append(TradeOffLine(NAMES.get(label, label), marks, emphasis=label == "patch"))
    return tuple(lines)


def _notes(document: Mapping[str, Any]) -> Sequence[str]:
    parts = document["examples"]["parts"]
    said = ", ".join(
        f"{harm} harm and {keep} keep for {part.replace('_', ' ')}" for part, (harm, keep) in parts.items()
    )
    return (
        f"Examples by part: {said}. No prompt of a set stands in two of its parts.",
        "Pruning is a causal test, not a guarantee: fine-tuning can bring the behaviour back.",
    )
