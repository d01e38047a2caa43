"""Two runs of Inspect compared: whatever was sampled and scored elsewhere goes through the same gate.

base.eval, tuned.eval ──read──▶ measurements ──compare──▶ findings ──decide──▶ verdict ──▶ report
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from aftertune.errors import UsageError, spelled_out
from aftertune.inspect_bridge import (
    HARM_TASKS,
    NEVER,
    LoggedHead,
    differing,
    known_names,
    logs_of,
    on_shared_scorers,
    read_log,
    shown,
)
from aftertune.model import differing_digests
from aftertune.runs import Progress, Silent, entered, file_digest
from aftertune.stats import Baseline, ComparisonSection, FailOn, Policy, compare, decide_between
from aftertune.verbs._answers import (
    Pair,
    judge_agreement,
    refuse_differing,
    refuse_unlike,
    sampled_answers,
    worst_answers,
)
from aftertune.verbs._opened import without_prompts
from aftertune.verbs._outcome import EXAMPLES_SHOWN, Audit, Gate, finished_audit


def compare_logs(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    policy: Policy | None = None,
    out: str | PathLike[str] | None = None,
    *,
    harm: Collection[str] = (),
    good: Collection[str] = (),
    differ: Collection[str] = (),
    baseline: str | PathLike[str] | None = None,
    fail_on: FailOn = "any",
    allow_identical: bool = False,
    redact: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Compare what Inspect logged of a fine-tuned subject to what it logged of its base, and decide.

    Args:
        base: a log (.eval or .json), or a folder of logs of one model, one a task.
        tuned: likewise; the same tasks with the same prompts, settings, scorers and judges.
        policy: tolerances and which metrics decide.
        out: the run folder; named after the logs' content under ``runs/`` if left out.
        harm: tasks, other than ours and those known, whose scores grow with harm.
        good: likewise, whose scores fall with harm. Of a task in neither the direction is unknown: a rise beyond the
            tolerance does not pass either.
        differ: names of what may differ between the two, such as ``solver`` or ``task_args.trigger``: one model under
            two conditions.
        baseline: the folder of an earlier comparison with the same base, to tell what is new, fixed and persistent.
        fail_on: "new" ignores what did not pass in the baseline and is surely no worse now.
        allow_identical: let the findings decide even where both logs are of one model and no number differs.
        redact: leave all texts out of the report and the run folder.
        progress: notified of what goes on.

    Raises:
        DataError: a log cannot be read, or is not finished; a folder holds two models, or two logs of a task.
        UsageError: the two differ in tasks, prompts, settings, scorers or judges, or the baseline does from both; a
            name in ``harm``, ``good`` or ``differ`` is of nothing in the logs.
        SubjectError: the baseline was compared to another base.
        OutputError: the run folder holds something else, or the baseline is none.
    """
    progress, base, tuned = progress or Silent(), Path(base), Path(tuned)
    gate = Gate("compare", policy, baseline, fail_on, allow_identical=allow_identical, redact=redact)
    folders = logs_of(base), logs_of(tuned)
    heads = _paired(folders[0].heads, folders[1].heads, base, tuned)
    _refuse_unnamed(harm, good, differ, [head for pair in heads.values() for head in pair])
    for one, other in heads.values():
        if {one.status, other.status} == {"success"}:
            refuse_differing(one, other, differing(one.asked, other.asked, differ), {})
    paths = {name: (Path(one.path), Path(other.path)) for name, (one, other) in heads.items()}
    config: dict[str, Any] = {
        "base": {name: file_digest(pair[0]) for name, pair in paths.items()},
        "tuned": {name: file_digest(pair[1]) for name, pair in paths.items()},
        "harm": sorted(harm),
    }
    if good:
        config["good"] = sorted(good)
    if differ:
        config["differ"] = sorted(differ)
    run = gate.folder(out, config)
    with entered(run):
        stored = finished_audit(run)
        if stored is not None:
            return stored
        pairs = []
        for first, second in paths.values():
            progress.say(f"reading {first} and {second}")
            pair = read_log(first, HARM_TASKS | set(harm), good), read_log(second, HARM_TASKS | set(harm), good)
            refuse_unlike(*pair, differ)
            pairs.append(on_shared_scorers(*pair))
        _refuse_several_models(pairs)
        # One model under two conditions is meant where conditions may differ.
        section = _section(pairs, gate.policy, redact=redact, allow_identical=allow_identical or bool(differ))
        if gate.earlier:
            gate.earlier.refuse_other_base(section.base)
            gate.earlier.refuse_other_judges(one.asked for one, _ in pairs)
            _refuse_other_experiment(gate.earlier, pairs)
        section = _with_notes(gate.held_against(section), pairs, differ, [*folders[0].left, *folders[1].left])
        measurements = [m for pair in pairs for side in pair for m in side.measurements]
        return gate.finish(
            run, section, without_prompts(measurements) if redact else measurements, [one for one, _ in pairs]
        )


def _paired(
    bases: Mapping[str, LoggedHead], tuneds: Mapping[str, LoggedHead], base: Path, tuned: Path
) -> dict[str, tuple[LoggedHead, LoggedHead]]:
    if bases.keys() != tuneds.keys():
        unpaired = sorted(bases.keys() ^ tuneds.keys())
        if "" in unpaired:
            raise UsageError(f"{base}, {tuned}: one is a log and one a folder; name two logs or two folders")
        raise UsageError(spelled_out(f"{base}, {tuned}: only one of them holds a log of {', '.join(unpaired)}"))
    return {name: (bases[name], tuneds[name]) for name in sorted(bases)}


def _refuse_unnamed(
    harm: Collection[str], good: Collection[str], differ: Collection[str], heads: Sequence[LoggedHead]
) -> None:
    """Refuse names that are of nothing in the logs: a typo would let a direction, or a condition, count for another."""
    tasks = {head.task for head in heads}
    known = tasks | {task.rpartition("/")[2] for task in tasks}
    for flag, names in (("--harm", harm), ("--good", good)):
        for name in names:
            if name not in known:
                raise UsageError(spelled_out(f"{flag} {name}: no log is of this task; they are of {', '.join(tasks)}"))
    if both := set(harm) & set(good):
        raise UsageError(spelled_out(f"--harm {min(both)}: is named by --good as well; of a task one way is worse"))
    fields = {*_OF_ANSWERS, *(name for head in heads for name in known_names(head.asked))} - NEVER
    for name in differ:
        if name not in fields and name.partition(".")[0] not in _OF_ANSWERS:
            there = ", ".join(sorted(fields))
            raise UsageError(spelled_out(f"--differ {name}: is nothing that these logs tell; there are {there}"))


# What was asked, sample by sample.
_OF_SAMPLES = frozenset({"samples", "prompts", "messages", "files", "metadata"})
# What only the answers of a log tell.
_OF_ANSWERS = frozenset(
    {"prompts", "messages", "files", "metadata", "scorers", "scored", "judges", "graders", "roles", "models", "rubrics",
     "edits"}
)  # fmt: skip


def _refuse_several_models(pairs: Sequence[Pair]) -> None:
    for side in zip(*pairs, strict=True):
        for run in side[1:]:
            keys = [key for key in run.identity if run.identity[key] != side[0].identity[key]]
            if keys:
                raise UsageError(
                    spelled_out(
                        f"{side[0].path}, {run.path}: are logs of two models (they differ in {', '.join(keys)}); "
                        "give logs of one model for each side"
                    )
                )


def _refuse_other_experiment(earlier: Baseline, pairs: Sequence[Pair]) -> None:
    """Refuse decisions on a task that was run otherwise; the samples may be others, as items of probes may."""
    for one, _ in pairs:
        then = earlier.asked.get(str(one.asked["task"]))
        if then is None:
            continue
        # Runs of older versions tell less.
        compared = (set(then) if "solver" not in then else set(then) | set(one.asked)) - _OF_SAMPLES
        names = differing(*({key: side[key] for key in compared & set(side)} for side in (then, one.asked)))
        if names:
            name = names[0]
            raise UsageError(
                spelled_out(
                    f"--baseline {earlier.folder}: its {one.asked['task']} was run otherwise, it differs in "
                    f"{', '.join(names)} ({name} then {shown(then, name)}, now {shown(one.asked, name)}); "
                    "run both alike"
                )
            )


def _with_notes(
    section: ComparisonSection, pairs: Sequence[Pair], differ: Collection[str], left: Iterable[str]
) -> ComparisonSection:
    """A section that tells what a reader of its verdict must know of the logs."""
    allowed: dict[str, None] = {}
    noted: dict[str, None] = {}
    told: dict[str, None] = dict.fromkeys(left)
    for one, other in pairs:
        allowed.update(dict.fromkeys(differing(one.asked, other.asked)))
        noted.update(dict.fromkeys(differing(one.noted, other.noted)))
        for role, run in (("base", one), ("tuned", other)):
            told.update(dict.fromkeys(f"{run.task}, {role}: {note}" for note in run.notes))
    if one_log := [one.path for one, other in pairs if Path(one.path).resolve() == Path(other.path).resolve()]:
        told[f"base and tuned are the same log ({one_log[0]})"] = None
    notes = [f"let differ by --differ: {', '.join(allowed)}"] if allowed else []
    notes += told
    verdict = section.verdict
    if notes:
        verdict = replace(verdict, note=spelled_out("; ".join([*([verdict.note] if verdict.note else []), *notes])))
    about = [section.about, *(f"{note[0].upper()}{note[1:]}." for note in notes)]
    if noted:
        about.append(f"The logs also differ, which need not matter, in: {', '.join(noted)}.")
    return replace(section, verdict=verdict, about=spelled_out(" ".join(about)))


def _apart(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> tuple[str, ...]:
    """In what two logged models differ; by their names where weights are not known."""
    if None in (base["weights_sha256"], tuned["weights_sha256"]):
        return ("name",)
    arguments = ("arguments",) if base["model_args"] != tuned["model_args"] else ()
    return (*differing_digests(base, tuned), *arguments)


def _section(
    pairs: Sequence[Pair], policy: Policy, *, redact: bool, allow_identical: bool = False
) -> ComparisonSection:
    before = [m for base, _ in pairs for m in base.measurements]
    after = [m for _, tuned in pairs for m in tuned.measurements]
    findings = tuple(compare(before, after, policy))
    base, tuned = pairs[0][0].identity, pairs[0][1].identity
    return ComparisonSection(
        title=str(tuned["spec"]),
        about=f"Sampled answers to {', '.join(one.task for one, _ in pairs)}, run by Inspect.",
        verdict=decide_between(findings, _apart(base, tuned), before, after, allow_identical),
        base=base,
        tuned=tuned,
        findings=findings,
        examples=worst_answers(pairs, policy, EXAMPLES_SHOWN),
        answers=None if redact else sampled_answers(pairs),
        judges=judge_agreement(pairs),
    )
