"""Transfer: do weights found on one kind of harm carry the others?

Claim (Orgad et al. 2026, finding 2): weights found on one harm type lower the others. For every domain as many neurons
and heads are chosen by the guarded score and put to zero; what that does to the preference margin of every domain
is read on prompts that were not attributed, and what it costs, on harmless requests that were not either. Beside each
choice stand as many chosen at random, and as many chosen with the aligned answers in the place of the misaligned ones.
Each choice is kept as a patch. How far two domains choose the same units is given with
what chance would give to choices that like the same matrices.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aftertune.attribution import (
    Selection,
    guarded_score,
    overlap,
    random_control,
    select_count,
    unit_score,
    unit_spaces,
    unit_sums,
)
from aftertune.data import read_requests, shipped_contrasts, shipped_path
from aftertune.locating import Example, answers_probe, contrast_example, exchange_of, trees_of
from aftertune.model import EMBEDDED, Placement, Subject, WeightView, load, make_patch, subject_content, write_patch
from aftertune.probes import ask_probes
from aftertune.report import Claim, HeatMap, StudyPage, Table, render_study
from aftertune.runs import Journal, Progress, RunFolder, Silent, read_manifest, refuse_other_model, write_text
from aftertune.stats import cluster_bootstrap
from aftertune.studies._study_run import kept_study

DOMAINS = ("money", "health", "sport_safety", "relationships", "honesty_at_work")
COUNT = 32
ATTRIBUTED = 12
HELD_OUT = 12
KEEP = 24
KEEP_HELD_OUT = 8
EDITS = ("patch", "random", "content_matched")


def domain_examples(domain: str) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Examples to attribute on (the development split and some more) and held-out ones of a domain."""
    dev, measure = shipped_contrasts("dev", (domain,)), shipped_contrasts("measure", (domain,))
    attributed = [*dev, *measure[:ATTRIBUTED]]
    held = measure[ATTRIBUTED : ATTRIBUTED + HELD_OUT]
    return tuple(map(contrast_example, attributed)), tuple(map(contrast_example, held))


def keep_examples() -> tuple[Example, ...]:
    """Harmless requests with helpful answers, every fifth."""
    requests = read_requests(shipped_path("safety/harmless"))
    kept = requests[:: len(requests) // KEEP]
    return tuple(Example(r.id, "keep", exchange_of(r.prompt, r.response)) for r in kept)


def held_out_keep_examples() -> tuple[Example, ...]:
    """Harmless requests with helpful answers, none of `keep_examples`."""
    requests = read_requests(shipped_path("safety/harmless"))
    kept = requests[1 :: len(requests) // KEEP_HELD_OUT]
    return tuple(Example(r.id, "keep", exchange_of(r.prompt, r.response)) for r in kept)


def transfer_study(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    domains: Sequence[str] = DOMAINS,
    count: int = COUNT,
    guard: bool = True,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Domains × domains: the fall of the preference margin, beside two controls; and the overlap of the choices.

    Args:
        out: run folder (``runs/transfer`` if left out).
        subject: the model.
        domains: shipped domains.
        count: how many neurons and heads each domain may choose.
        guard: choose by the guarded score; else by the contrastive one alone.
        placement: device, dtype, batch bound.
        progress: told what goes on.
    """
    progress, placement = progress or Silent(), placement or Placement()
    config = {
        "subject": subject,
        "content": subject_content(subject),
        "domains": list(domains),
        "count": count,
        "guard": guard,
        "placement": asdict(placement),
    }
    run = RunFolder(out or Path("runs") / "transfer", "study transfer", config)

    def measured() -> dict[str, Any]:
        loaded = load(subject, placement=placement, merge=True, progress=progress)
        refuse_other_model(run, "subject", loaded.content)
        document = _measure(loaded, run, domains, count, guard, progress)
        return {**document, "subject": loaded.identity.as_dict()}

    return kept_study(run, measured, rebuild_transfer_report)


def _measure(
    subject: Subject, run: RunFolder, domains: Sequence[str], count: int, guard: bool, progress: Progress
) -> dict[str, Any]:
    view = WeightView(subject.model)
    examples = {domain: domain_examples(domain) for domain in domains}
    selections = _selections(subject, view, examples, count, guard, progress)
    for domain, selection in selections["patch"].items():
        _keep_patch(run, subject, view, domain, selection)
    probes = [answers_probe(domain, held) for domain, (_, held) in examples.items()]
    probes.append(answers_probe("keep", held_out_keep_examples()))
    journal = Journal(run.path / "evaluations.jsonl")

    def values(name: str, selection: Selection | None) -> tuple[dict[str, float], dict[str, float]]:
        """Item → preference margin, over all domains; item → loss on held-out harmless answers."""
        if name not in journal:
            if selection is None:
                measured = ask_probes(subject, probes)
            else:
                with make_patch(view, selection.chosen, "zero", {}, digest=False).applied(view):
                    measured = ask_probes(subject, probes)
            margins = {m.item: m.value for m in measured if m.metric.startswith("preference.margin")}
            losses = {m.item: m.value for m in measured if m.metric == "response.nll:keep"}
            journal.record(name, [margins, losses])
        margins, losses = journal[name]
        return dict(margins), dict(losses)

    readings = {"before": values("before", None)}
    with progress.task("transfer", len(domains) * len(EDITS)) as step:
        for edit in EDITS:
            for domain in domains:
                readings[f"{edit} {domain}"] = values(f"{edit} {domain}", selections[edit][domain])
                step(1, f"{edit} {domain}")
    items = {domain: [e.id for e in held] for domain, (_, held) in examples.items()}
    sizes = {s.matrix.name: s.units for s in unit_spaces(view, "neuron+head")}
    layers = {s.matrix.name: s.matrix.layer for s in unit_spaces(view, "neuron+head")}
    chosen = selections["patch"]
    return {
        "study": "transfer",
        "domains": list(domains),
        "count": count,
        **transfer_figures(readings, items),
        "overlap": [[asdict(overlap(chosen[a], chosen[b], sizes, layers)) for b in domains] for a in domains],
    }


def _keep_patch(run: RunFolder, subject: Subject, view: WeightView, domain: str, selection: Selection) -> None:
    file = run.folder("patches") / f"{domain}.safetensors"
    if not file.exists():
        about = {
            "subject": subject.identity.as_dict(),
            "unit": "neuron+head",
            "units": selection.units,
            "domain": domain,
        }
        write_patch(file, make_patch(view, selection.chosen, "zero", about))


def _selections(
    subject: Subject,
    view: WeightView,
    examples: Mapping[str, tuple[Sequence[Example], Sequence[Example]]],
    count: int,
    guard: bool,
    progress: Progress,
) -> dict[str, dict[str, Selection]]:
    """Every set once: harm and twins of each domain, and the keep set they share."""
    score_of = guarded_score if guard else unit_score
    with progress.task("gradients", 2 * len(examples) + 1) as step:
        keep = unit_sums(subject, trees_of(subject, keep_examples(), lambda e: e.conversation)[0], "neuron+head",
                         view=view)  # fmt: skip
        step(1, "keep")
        found: dict[str, dict[str, Selection]] = {edit: {} for edit in EDITS}
        for domain, (attributed, _) in examples.items():
            sums = []
            for pick in ("conversation", "twin"):
                trees, _ = trees_of(subject, attributed, lambda e, p=pick: getattr(e, p))  # type: ignore[misc]
                sums.append(unit_sums(subject, trees, "neuron+head", view=view))
                step(1, domain)
            harm, twin = sums
            for edit, score in (
                ("patch", score_of(harm, twin, keep)),
                ("content_matched", score_of(twin, harm, keep)),
            ):
                found[edit][domain] = select_count(view, score, count=count, unit="neuron+head")
            found["random"][domain] = random_control(view, found["patch"][domain])
    return found


def transfer_figures(
    readings: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]], items: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What the study says, from what was read; no model is needed.

    Args:
        readings: preference margin by item, and loss on harmless answers by item, nats per token: "before", and under
            every edit of every domain ("patch money", "random money", …).
        items: held-out items by domain; the domains are those that were attributed.

    Returns:
        JSON values. Falls are before minus after, rises after minus before; means over items. ``falls``: by edit, a row
        for each domain attributed, a column for each domain read. ``costs``: by edit, the rise of the loss for each
        domain attributed. ``elsewhere`` and ``beyond``: see `_elsewhere`.
    """
    before, loss = readings["before"]
    falls: dict[str, dict[str, dict[str, float]]] = {edit: {} for edit in EDITS}
    rises: dict[str, dict[str, dict[str, float]]] = {edit: {} for edit in EDITS}
    for edit in EDITS:
        for domain in items:
            after, cost = readings[f"{edit} {domain}"]
            falls[edit][domain] = {item: before[item] - after[item] for item in before}
            rises[edit][domain] = {item: cost[item] - loss[item] for item in loss}
    return {
        "falls": {
            edit: [[statistics.fmean(falls[edit][a][i] for i in items[b]) for b in items] for a in items]
            for edit in EDITS
        },
        "costs": {edit: [statistics.fmean(rises[edit][a].values()) for a in items] for edit in EDITS},
        "elsewhere": {edit: _elsewhere(falls[edit], None, items) for edit in EDITS},
        "beyond": {
            edit: _elsewhere(falls["patch"], falls[edit], items) for edit in EDITS if edit != "patch"
        },
    }  # fmt: skip


def _elsewhere(
    falls: Mapping[str, Mapping[str, float]],
    others: Mapping[str, Mapping[str, float]] | None,
    items: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The mean fall on domains other than the one attributed (or its excess), prompts resampled together."""
    values, clusters = [], []
    for source in falls:
        for target, ids in items.items():
            if source == target:
                continue
            for item in ids:
                values.append(falls[source][item] - (others[source][item] if others else 0.0))
                clusters.append(item)
    estimate = cluster_bootstrap(values, clusters, [""] * len(values))
    return {"fall": estimate.value, "interval": [estimate.low, estimate.high], "prompts": estimate.clusters}


def transfer_claims(document: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Finding 2 of Orgad et al. 2026, at this size."""

    def claim(text: str, found: Mapping[str, Any]) -> Claim:
        low, high = found["interval"]
        outcome: Any = "holds" if low > 0 else "does not hold" if high < 0 else "cannot be told"
        return Claim(text, outcome, f"{found['fall']:+.3f} [{low:+.3f}, {high:+.3f}] nats per token")

    return (
        claim("Weights found on one domain lower the others", document["elsewhere"]["patch"]),
        *(
            claim(f"More than the {edit.replace('_', '-')} control does", found)
            for edit, found in document["beyond"].items()
        ),
    )


def transfer_page(folder: Path) -> StudyPage:
    """The report of a finished study."""
    document = json.loads((folder / "study.json").read_text("utf-8"))
    names = tuple(name.replace("_", " ") for name in document["domains"])
    diagonal = frozenset((i, i) for i in range(len(names)))

    def square(rows: Sequence[Sequence[float]]) -> tuple[tuple[float | None, ...], ...]:
        return tuple(tuple(row) for row in rows)

    maps = tuple(
        HeatMap(
            f"Fall of the preference margin: {edit.replace('_', '-')}",
            f"Rows: the domain whose {document['count']} neurons and heads were put to zero. Columns: the domain it "
            "is read on, on other prompts. Higher is less careless.",
            names,
            names,
            square(falls),
            unit="nats/token",
            row_label="found on",
            column_label="read on",
            marked=diagonal,
            scale_group="fall",  # the controls are to look as weak as they are
        )
        for edit, falls in document["falls"].items()
    )
    common = HeatMap(
        "How far the choices are the same",
        "Jaccard overlap of the chosen units, less what chance gives to choices that like the same matrices.",
        names,
        names,
        square([[cell["jaccard"] - cell["expected"] for cell in row] for row in document["overlap"]]),
        marked=diagonal,
    )
    costs = Table(
        "What it costs",
        f"Rise of the loss on {KEEP_HELD_OUT} helpful answers to harmless requests, nats per token.",
        ("found on", *(edit.replace("_", "-") for edit in document["costs"])),
        tuple((n, *(f"{v:+.3f}" for v in row)) for n, *row in zip(names, *document["costs"].values(), strict=True)),
        frozenset(range(1, 1 + len(document["costs"]))),
    )
    return StudyPage(
        title=f"Transfer between kinds of harm in {document['subject']['spec']}",
        lede="Do the weights that carry one kind of careless answer carry the others?",
        claims=transfer_claims(document),
        sections=(*maps, costs, common),
        manifest=read_manifest(folder),
        commands=("aftertune study transfer",),
        notes=(),
    )


def rebuild_transfer_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished study anew."""
    write_text(folder / "report.html", render_study(transfer_page(folder)))
    return folder / "report.html"
