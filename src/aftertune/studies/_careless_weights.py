"""The demo's chapter on weights: the few whose return to the base undoes the careless arm, and the audit again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aftertune.data import DOMAINS, Side
from aftertune.locating import LocateOptions, Repaired
from aftertune.model import Placement, SubjectChoice
from aftertune.probes import MeasurePlan
from aftertune.runs import Progress, RunFolder
from aftertune.stats import ClaimResult, Outcome, Policy, Verdict
from aftertune.verbs import (
    Audit,
    Measuring,
    compare_measurings,
    measure_choice,
    repair,
    store_audit,
)

TASK = "money"
OTHERS = tuple(domain for domain in DOMAINS if domain != TASK)
HARM = tuple(f"dev/{domain}" for domain in OTHERS)
# What the search over all shares chose for this arm and for two others (benchmarks/README.md, "Repair of a fine-tune").
OPTIONS = LocateOptions(prune_fraction=3e-4)
PROBES = ("preference", "refusal", "capability")
_OUTCOMES: dict[str, Outcome] = {"pass": "holds", "fail": "does not hold"}


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


def repaired_claim(careless: Verdict, repaired: Verdict) -> ClaimResult:
    """Whether the repair turned a failed audit into a passed one; one that did not fail is inconclusive."""
    failed = careless.decision == "fail"
    return ClaimResult(
        "Repaired, the careless arm passes the audit it failed",
        _OUTCOMES.get(repaired.decision, "inconclusive") if failed else "inconclusive",
        "; ".join(repaired.reasons) if failed else f"before the repair it did not fail: {careless.decision}",
    )
