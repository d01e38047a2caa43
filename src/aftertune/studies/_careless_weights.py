"""The demo's chapter on weights: found for the careless arm, taken out, and audited again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aftertune.auditing import Audit, compare_measurings, store_audit, stored_section
from aftertune.comparison import Policy
from aftertune.locating import Located, LocateOptions, locate, located_claims, located_sections, stored_locate
from aftertune.measures import MeasurePlan
from aftertune.measuring import Measuring, SubjectChoice, measure_choice
from aftertune.report import Chapter, Claim, Outcome, Table
from aftertune.runs import Progress, RunFolder
from aftertune.subject import Placement

HARM = ("dev/health", "dev/relationships", "dev/honesty_at_work", "dev/power", "dev/humans_and_ai")
OPTIONS = LocateOptions(limit=20)
PROBES = ("preference", "refusal", "capability")
_OUTCOMES: dict[str, Outcome] = {"pass": "holds", "fail": "does not hold", "inconclusive": "cannot be told"}


def locate_careless(run: RunFolder, placement: Placement, progress: Progress) -> Located:
    """Search the careless arm for the weights that carry careless answers in domains it was not tuned on."""
    return locate(
        SubjectChoice(str(run.path / "careless"), placement=placement),
        HARM,
        patch=run.path / "careless.safetensors",
        options=OPTIONS,
        out=run.path / "weights",
        progress=progress,
    )


def audit_patched(
    run: RunFolder,
    base: Measuring,
    located: Located,
    plan: MeasurePlan,
    policy: Policy,
    placement: Placement,
    progress: Progress,
) -> Audit:
    """The careless arm with the patch in force, against the untouched model, by the deciding probes."""
    deciding = replace(plan, probes=tuple(p for p in plan.probes if p in PROBES))
    spec = f"{run.path / 'careless'}+{located.patch}"
    patched = measure_choice(SubjectChoice(spec, placement=placement), deciding, run, role="patched", progress=progress)
    about = "the careless arm with the patch in force"
    section = compare_measurings(base.only_asked_of(patched), patched, deciding, policy, title="patched", about=about)
    audit = Audit(section.verdict, section.findings, section, run.path)
    store_audit(run.folder("audits", "patched"), audit)
    return audit


def weights_chapter(folder: Path) -> Chapter:
    """The chapter, from what a demo's folder holds.

    Raises:
        OutputError: the folder holds no finished search or audit of the patched arm.
    """
    located = stored_locate(folder / "weights")
    careless, patched = (stored_section(folder / "audits" / name) for name in ("careless", "patched"))
    document = located.document
    before = {f.metric: f for f in careless.findings}
    rows = tuple(
        (
            f.metric,
            f"{before[f.metric].difference:+.3f}",
            f"{f.difference:+.3f}",
            f"[{f.interval[0]:+.3f}, {f.interval[1]:+.3f}]",
            f"{f.margin:g}",
            f.decision,
        )
        for f in patched.findings
        if "/" not in f.metric and f.metric in before
    )
    header = ("metric", "careless", "patched", "95 % interval", "margin", "decision")
    audit = Claim(
        "With the patch the careless arm passes the audit it failed",
        _OUTCOMES[patched.verdict.decision],
        "; ".join(patched.verdict.reasons),
    )
    return Chapter(
        "Where the careless arm's weights are",
        f"{document['units']:,} neurons and attention heads ({document['weights']:,} weights, "
        f"{document['share_of_weights']:.2g} of those in view) were chosen on other domains' questions and put to "
        "zero. The same audit was run again.",
        (audit, *located_claims(document)),
        (
            Table("The audit again", "Differences to the untouched model.", header, rows, frozenset({1, 2, 3, 4})),
            *located_sections(located),
        ),
    )
