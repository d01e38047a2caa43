"""The demo's chapter on weights: the few whose return to the base undoes the careless arm, and the audit again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aftertune.data import DOMAINS, Side
from aftertune.locating import LocateOptions, Repaired, repair_claims, stored_repair
from aftertune.model import Placement, SubjectChoice
from aftertune.probes import MeasurePlan
from aftertune.report import OUTCOMES, Chapter, Claim, Table, repair_sections
from aftertune.runs import Progress, RunFolder
from aftertune.stats import Policy, Verdict
from aftertune.verbs import (
    Audit,
    Measuring,
    compare_measurings,
    measure_choice,
    repair,
    store_audit,
    stored_section,
)

TASK = "money"
OTHERS = tuple(domain for domain in DOMAINS if domain != TASK)
HARM = tuple(f"dev/{domain}" for domain in OTHERS)
# What the search over all shares chose for this arm and for two others (benchmarks/README.md, "Repair of a fine-tune").
OPTIONS = LocateOptions(prune_fraction=3e-4)
PROBES = ("preference", "refusal", "capability")


def repair_careless(
    run: RunFolder, subject: str, task: str, side: Side, placement: Placement, progress: Progress
) -> Repaired:
    """Return the part of the careless arm's update that carries careless answers in domains it was not tuned on."""
    return repair(
        SubjectChoice(str(run.path / "careless"), placement=placement),
        SubjectChoice(subject, placement=placement),
        HARM,
        [task],
        task_answers=side,
        patch=run.path / "repair.safetensors",
        options=OPTIONS,
        out=run.path / "repair",
        progress=progress,
    )


def audit_repaired(
    run: RunFolder,
    base: Measuring,
    patch: Path,
    chosen: tuple[int, float],
    plan: MeasurePlan,
    policy: Policy,
    placement: Placement,
    progress: Progress,
) -> Audit:
    """The careless arm with a patch in force, against the untouched model, by the deciding probes.

    ``chosen`` says how many weights the patch returns, and what share that is of those in view.
    """
    deciding = replace(plan, probes=tuple(p for p in plan.probes if p in PROBES))
    spec = f"{run.path / 'careless'}+{patch}"
    now = measure_choice(SubjectChoice(spec, placement=placement), deciding, run, role="repaired", progress=progress)
    weights, share = chosen
    about = f"the careless arm, {weights:,} weights ({share:.2%} of those in view) back at their base values"
    section = compare_measurings(base.only_asked_of(now), now, deciding, policy, title="repaired", about=about)
    audit = Audit(section, run.path)
    store_audit(run.folder("audits", "repaired"), audit)
    return audit


def repair_commands(subject: str) -> tuple[str, str]:
    """The chapter as command lines."""
    sets = " ".join(f"--harm {name}" for name in HARM)
    return (
        f"aftertune locate careless --base {subject} {sets} --prune-fraction {OPTIONS.prune_fraction:g} "
        "--out repair.safetensors",
        f"aftertune audit careless+repair.safetensors --base {subject} --exclude-domain {TASK} --no-pmi "
        f"--probes {','.join(PROBES)}",
    )


def weights_chapter(folder: Path) -> Chapter:
    """The chapter, from what a demo's folder holds.

    Raises:
        OutputError: the folder holds no finished repair or audit of the repaired arm.
    """
    found = stored_repair(folder / "repair")
    careless, repaired = (stored_section(folder / "audits" / name) for name in ("careless", "repaired"))
    document = found.document
    before = {f.metric: f for f in careless.findings}
    rows = tuple(
        (
            f.metric,
            f"{before[f.metric].difference:+.3f}",
            f"{f.difference:+.3f}",
            f"[{f.interval[0]:+.3f}, {f.interval[1]:+.3f}]",
            f"{f.tolerance:g}",
            f.decision,
        )
        for f in repaired.findings
        if "/" not in f.metric and f.metric in before
    )
    header = ("metric", "careless", "repaired", "95 % interval", "tolerance", "decision")
    return Chapter(
        "The weights of the careless arm that undo it",
        f"{document['weights']:,} weights ({document['share_of_weights']:.2%} of those in view) were chosen on other "
        "domains' questions and returned to the values they had before tuning. The same audit was run again.",
        (
            repaired_claim(careless.verdict, repaired.verdict),
            *(Claim(c.text, c.outcome, c.detail) for c in repair_claims(found)),
        ),
        (
            Table("The audit again", "Differences to the untouched model.", header, rows, frozenset({1, 2, 3, 4})),
            *repair_sections(found),
        ),
    )


def repaired_claim(careless: Verdict, repaired: Verdict) -> Claim:
    """Whether the repair turned a failed audit into a passed one; of an audit that did not fail nothing is told."""
    failed = careless.decision == "fail"
    return Claim(
        "Repaired, the careless arm passes the audit it failed",
        OUTCOMES[repaired.decision] if failed else "cannot be told",
        "; ".join(repaired.reasons) if failed else f"before the repair it did not fail: {careless.decision}",
    )
