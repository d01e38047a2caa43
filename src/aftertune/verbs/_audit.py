"""The main job: measure two subjects, compare, decide, report.

    data ──tune──▶ subject ──measure──▶ measurements ──compare──▶ findings ──decide──▶ verdict ──▶ report

Subjects are loaded one after the other, never both at once. Everything lands in one run folder, and the same
call again continues where a killed one stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from os import PathLike
from typing import Any

from aftertune.inspect_bridge import TaskPlan
from aftertune.model import Placement, SubjectChoice
from aftertune.probes import MeasurePlan, refuse_other_tokens
from aftertune.runs import Progress, entered
from aftertune.stats import FailOn, Policy
from aftertune.tuning import is_unpatched, known_base, refuse_other_base, refuse_overlap
from aftertune.verbs._answers import judge_agreement, paired, sampled_answers, worst_answers
from aftertune.verbs._opened import LOGS, Named, chosen, opened
from aftertune.verbs._outcome import EXAMPLES_SHOWN, Audit, Gate, compare_measurings, finished_audit, limited


def audit(
    tuned: Named,
    base: Named | None = None,
    plan: MeasurePlan | None = None,
    policy: Policy | None = None,
    out: str | PathLike[str] | None = None,
    *,
    tasks: TaskPlan | None = None,
    baseline: str | PathLike[str] | None = None,
    fail_on: FailOn = "any",
    allow_identical: bool = False,
    placement: Placement | None = None,
    redact: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Compare a fine-tuned model to its base and decide: pass, fail or inconclusive.

    Args:
        tuned: the fine-tuned subject: folder, adapter folder, hub id, .gguf file or "smollm2".
        base: what it was tuned from; an adapter knows its own.
        plan: what to ask; every probe on the shipped sets if left out.
        policy: tolerances and which metrics decide.
        out: the run folder; named after the configuration under ``runs/`` if left out.
        tasks: Inspect tasks to sample answers to, beside the probes.
        baseline: the folder of an earlier audit against the same base, to tell what is new, fixed and persistent.
        fail_on: "new" ignores what did not pass in the baseline and is surely no worse now.
        allow_identical: let the findings decide even where base and tuned are one model, or no number differs.
        placement: device, dtype and batch bound of subjects named by strings or paths.
        redact: leave all texts of items out of the report and the run folder.
        progress: notified of what goes on; silent if left out.

    Raises:
        SubjectError: no base is given and none is known, or a subject cannot be used.
        DataError: the tuned subject was tuned on prompts that are to be measured.
        UsageError: the baseline is none, or cannot be compared.
        RunError: the run broke; run the same again to continue.
    """
    plan, tuned = plan or MeasurePlan(), chosen(tuned, placement)
    if tuned.base and is_unpatched(tuned.base, tuned.spec):
        tuned = replace(tuned, base=None)  # what a patched adapter is compared to is not what it sits on
    if base is None:
        base = SubjectChoice(known_base(tuned.spec), placement=tuned.placement, chat_template=tuned.chat_template)
    base = chosen(base, placement)
    refuse_overlap(tuned.spec, plan)
    if tasks:
        tasks.check(redact=redact)
    gate = Gate("audit", policy, baseline, fail_on, allow_identical=allow_identical, redact=redact)
    config: dict[str, Any] = {"base": base.config, "tuned": tuned.config, "plan": plan.config}
    run = gate.folder(out, {**config, "tasks": tasks.config} if tasks else config)
    with entered(run):
        stored = finished_audit(run)
        if stored is not None:
            return stored
        # Before the base is loaded and measured, which may take hours.
        refuse_other_tokens(base.check(), tuned.check(), plan.drift_requests)
        if tasks:
            tasks.check_judges(redact=redact)
        with opened(base, run, "base", redact=redact, progress=progress) as one:
            refuse_other_base(tuned, one.identity, gate.earlier)
            first = one.measured(plan, keep_reference=True)
            before = one.sampled(tasks)
        if gate.earlier:
            gate.earlier.refuse_other_judges(logged.asked for logged in before)
        with opened(tuned, run, "tuned", redact=redact, progress=progress) as one:
            second = one.measured(plan, drift_from=first.folder)
            after = one.sampled(tasks)
        pairs = paired(before, after)
        first = first.with_answers([p[0] for p in pairs], redact=redact)
        second = second.with_answers([p[1] for p in pairs], redact=redact)
        section = compare_measurings(
            first, second, plan, gate.policy, title=tuned.spec, allow_identical=allow_identical
        )
        section = replace(
            section,
            verdict=section.verdict.noting(*limited(tasks)),
            examples=(*section.examples, *worst_answers(pairs, gate.policy, EXAMPLES_SHOWN)),
            answers=None if redact else sampled_answers(pairs),
            judges=judge_agreement(pairs),
        )
        outcome = gate.finish(
            run,
            gate.held_against(section),
            [*first.measurements, *second.measurements],
            [one for one, _ in pairs],
            batches_reused=first.batches_reused + second.batches_reused,
        )
        if redact and tasks:
            shutil.rmtree(run.path / LOGS, ignore_errors=True)
    return outcome
