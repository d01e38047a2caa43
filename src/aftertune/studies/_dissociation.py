"""Dissociation: does a model that no longer prefers harm still recognise and explain it?

Claim (Orgad et al. 2026: pruned models produce less harm, yet detect and explain it as before). The same
subject is asked as it is, with the patch in force, and with as many units taken out at random: which of two answers
it prefers, whether it opens with a refusal, whether it calls the worse answer and the harmful request bad, and which
reason it finds likelier. All of it is read from likelihoods, so no judge is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aftertune.attribution import (
    Selection,
    Unit,
    random_control,
    select_units,
    selection_of,
    unit_named,
    unit_patch,
)
from aftertune.locating import LocateOptions, locate
from aftertune.model import (
    EMBEDDED,
    Patch,
    Placement,
    SubjectChoice,
    WeightView,
    read_patch,
    subject_content,
    write_patch,
)
from aftertune.probes import MeasurePlan
from aftertune.report import Claim, Effect, EffectRow, Effects, Outcome, StudyPage, render_study
from aftertune.runs import Progress, RunFolder, Silent, read_manifest, refuse_other_model, write_text
from aftertune.stats import Finding, Policy, compare, find_metric, summarise
from aftertune.studies._compression import HARM
from aftertune.studies._study_run import STUDY, kept_study
from aftertune.verbs import Measuring, measure_choice

PROBES = ("preference", "refusal", "recognition", "explanation")
PRODUCED = "preference.margin"
# What must stay, with the value of a model that knows nothing.
KNOWN = {"recognition.answer_margin": 0.0, "recognition.request_margin": 0.0, "explanation.margin": 0.0}


def dissociation_study(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    patch: Path | None = None,
    harm: Sequence[str] = HARM,
    options: LocateOptions | None = None,
    plan: MeasurePlan | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a subject as it is, patched, and with as many units taken out at random.

    Args:
        out: run folder (``runs/dissociation`` if left out).
        subject: the model.
        patch: what `locate` found on it, as units put to zero; looked for on ``harm`` if left out.
        harm: harm sets to find the patch on.
        options: of that search.
        plan: what to ask; by default `PROBES` on the measuring split.
        placement: device, dtype, batch bound.
        progress: told what goes on; a killed study goes on.

    Raises:
        UsageError: the patch is not of whole units.
    """
    progress, placement, options = progress or Silent(), placement or Placement(), options or LocateOptions()
    plan = plan or MeasurePlan(probes=PROBES, pmi=False)
    config = {
        "subject": subject,
        "content": subject_content(f"{subject}+{patch}" if patch else subject),
        "search": None if patch else [list(harm), options.model_dump()],
        "plan": plan.config,
        "placement": asdict(placement),
    }
    run = RunFolder(out or Path("runs") / "dissociation", "study dissociation", config)

    def measured() -> dict[str, Any]:
        choice = SubjectChoice(subject, placement=placement)
        made = patch or locate(choice, harm, options=options, out=run.path / "weights", progress=progress).patch
        random, units = _random(run, choice, made, progress)
        asked = {
            name: measure_choice(SubjectChoice(spec, placement=placement), plan, run, role=name, progress=progress)
            for name, spec in (
                ("before", subject),
                ("patch", f"{subject}+{made}"),
                ("random", f"{subject}+{random}"),
            )
        }
        return {"study": "dissociation", "subject": subject, "units": units, **_compared(asked)}

    return kept_study(run, measured, rebuild_dissociation_report)


def _random(run: RunFolder, choice: SubjectChoice, patch: Path, progress: Progress) -> tuple[Path, int]:
    """A patch of as many units chosen at random in the same matrices, and how many that is."""
    made = read_patch(patch)
    file = run.path / "random.safetensors"
    subject = choice.load(progress, merge=True)
    refuse_other_model(run, "subject", subject.content)
    view = WeightView(subject.model)
    unit = unit_named(str(made.about.get("unit", "weight")))
    selection = _selection(view, made, unit)
    if not file.exists():
        about = {"subject": subject.identity.as_dict(), "unit": unit, "units": selection.units, "score": "random"}
        write_patch(file, unit_patch(view, random_control(view, selection), about=about, digest=True))
    return file, selection.units


def _selection(view: WeightView, patch: Patch, unit: Unit) -> Selection:
    """What a patch chose: by its weights, or for directions by what it tells."""
    import torch

    if unit == "singular-vector":
        return select_units(view, {n: torch.tensor(found) for n, found in patch.about["members"].items()}, unit)
    return selection_of(view, {name: edit.index for name, edit in patch.edits.items()}, unit)


def _compared(asked: Mapping[str, Measuring]) -> dict[str, Any]:
    """Every metric before, and its change under each edit; and the patch against the random edit."""
    policy = Policy()
    before = asked["before"].measurements

    def against(base: str, edit: str) -> list[dict[str, Any]]:
        found = compare(asked[base].measurements, asked[edit].measurements, policy)
        return [f.as_dict() for f in found if "/" not in f.metric]

    return {
        "before": [
            {"metric": s.metric, "value": s.value, "interval": list(s.interval)}
            for s in summarise(before)
            if "/" not in s.metric
        ],
        "patch": against("before", "patch"),
        "random": against("before", "random"),
        "patch_beyond_random": against("random", "patch"),
    }


def dissociation_claims(document: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Production falls, more than by chance; recognising and explaining stay.

    What the untouched model does not know cannot be lost, so nothing is told of it.
    """
    patch, beyond = (
        {f["metric"]: Finding.from_dict(f) for f in document[key]} for key in ("patch", "patch_beyond_random")
    )
    before = {row["metric"]: row for row in document["before"]}
    fell = [
        Claim(text, _falls(found[PRODUCED]), _numbers(found[PRODUCED]))
        for text, found in (
            ("The patch lowers the preference for the worse answers", patch),
            ("It lowers it more than as many random units", beyond),
        )
    ]
    stays = []
    for metric, chance in KNOWN.items():
        if metric not in patch:
            continue
        known = before[metric]["interval"][0] > chance
        outcome: Outcome = "cannot be told"
        if known and patch[metric].decision in ("pass", "fail"):
            outcome = "holds" if patch[metric].decision == "pass" else "does not hold"
        base = f"{before[metric]['value']:+.3f} before"
        detail = f"{base}, {_numbers(patch[metric])}" if known else f"{base}: the untouched model does not know it"
        stays.append(Claim(f"{metric} stays within its margin", outcome, detail))
    return (*fell, *stays)


def _falls(finding: Finding) -> Outcome:
    low, high = finding.interval
    return "holds" if high < 0 else "does not hold" if low > 0 else "cannot be told"


def _numbers(finding: Finding) -> str:
    low, high = finding.interval
    return f"{finding.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def dissociation_page(folder: Path) -> StudyPage:
    """The report of a finished study."""
    document = json.loads((folder / STUDY).read_text("utf-8"))
    edits = {name: {f["metric"]: Finding.from_dict(f) for f in document[name]} for name in ("patch", "random")}
    rows = []
    for row in document["before"]:
        metric = find_metric(row["metric"])
        if metric is None or any(row["metric"] not in found for found in edits.values()):
            continue
        effects = tuple(
            Effect(name, f.tuned, f.difference, f.interval, emphasis=name == "patch")
            for name, f in ((name, found[row["metric"]]) for name, found in edits.items())
        )
        rows.append(EffectRow(row["metric"], metric.about, metric.unit, metric.worse, row["value"], effects))
    return StudyPage(
        title=f"Dissociation in {document['subject']}",
        lede="Does a model that no longer prefers the worse answer still know that it is the worse one?",
        claims=dissociation_claims(document),
        sections=(
            Effects(
                "Producing, refusing, recognising, explaining",
                f"{document['units']:,} units put to zero, beside as many at random in the same matrices.",
                tuple(rows),
            ),
        ),
        manifest=read_manifest(folder),
        commands=("aftertune study dissociation",),
        notes=("Read from likelihoods of fixed answers; what the model would write was not sampled.",),
    )


def rebuild_dissociation_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished study anew."""
    write_text(folder / "report.html", render_study(dissociation_page(folder)))
    return folder / "report.html"
