"""Two runs of Inspect compared: whatever was sampled and scored elsewhere goes through the same gate.

base.eval, tuned.eval ──read──▶ measurements ──compare──▶ findings ──decide──▶ verdict ──▶ report
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aftertune.answers import Pair, judge_agreement, refuse_unlike, sampled_answers, worst_answers
from aftertune.auditing import (
    EXAMPLES_SHOWN,
    Audit,
    finished_audit,
    held_against,
    rebuild_report,
    refuse_nothing_new,
    store_audit,
    store_measurements,
)
from aftertune.comparison import FailOn, Policy, compare, decide_between, read_baseline
from aftertune.errors import DataError, UsageError
from aftertune.measures import HARM_TASKS, logged_task, read_log
from aftertune.measuring import default_folder, entered
from aftertune.report import ComparisonSection
from aftertune.runs import Progress, RunFolder, Silent, file_digest
from aftertune.subject import differing_digests

VERB = "compare"


def compare_logs(
    base: Path,
    tuned: Path,
    policy: Policy | None = None,
    out: Path | None = None,
    *,
    harm: Collection[str] = (),
    baseline: Path | None = None,
    fail_on: FailOn = "any",
    allow_identical: bool = False,
    redact: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Compare what Inspect logged of a fine-tuned subject to what it logged of its base, and decide.

    Args:
        base: a log (.eval or .json), or a folder of logs, one a task.
        tuned: likewise; the same tasks with the same prompts, settings and judges.
        policy: margins and which metrics decide.
        out: the run folder; named after the logs' content under ``runs/`` if left out.
        harm: tasks, other than ours and those known, whose scores grow with harm.
        baseline: the folder of an earlier comparison with the same base, to tell what is new, fixed and persistent.
        fail_on: "new" lets through what was decided no better in the baseline.
        allow_identical: let the findings decide even where both logs are of one model and no number differs.
        redact: leave all texts out of the report and the run folder.
        progress: told what goes on.

    Raises:
        DataError: a log cannot be read, or is not finished.
        UsageError: the two differ in tasks, prompts, settings or judges, or the baseline does from both.
        SubjectError: the baseline was compared to another base.
        OutputError: the run folder holds something else, or the baseline is none.
    """
    policy, progress = policy or Policy(), progress or Silent()
    refuse_nothing_new(baseline, fail_on)
    earlier = read_baseline(baseline, policy, "compare") if baseline else None
    paths = _paired(_logs(base), _logs(tuned), base, tuned)
    config: dict[str, Any] = {
        "base": {name: file_digest(pair[0]) for name, pair in paths.items()},
        "tuned": {name: file_digest(pair[1]) for name, pair in paths.items()},
        "policy": policy.model_dump(),
        "harm": sorted(harm),
        "allow_identical": allow_identical,
        "redact": redact,
    }
    if earlier:
        config["baseline"] = {"content": earlier.content, "fail_on": fail_on}
    run = RunFolder(out or default_folder(VERB, config), VERB, config)
    if earlier:
        earlier.refuse_this_run(run.path)
    with entered(run):
        stored = finished_audit(run)
        if stored is not None:
            return stored
        pairs = []
        for first, second in paths.values():
            progress.say(f"reading {first} and {second}")
            pairs.append((read_log(first, HARM_TASKS | set(harm)), read_log(second, HARM_TASKS | set(harm))))
        for one, other in pairs:
            refuse_unlike(one, other)
        section = _section(pairs, policy, redact=redact, allow_identical=allow_identical)
        if earlier:
            earlier.refuse_other_base(section.base)
            earlier.refuse_other_judges(one.asked for one, _ in pairs)
            section = held_against(section, earlier, fail_on)
        measurements = [m for pair in pairs for side in pair for m in side.measurements]
        store_measurements(run.path, measurements, redact=redact)
        outcome = Audit(section.verdict, section.findings, section, run.path)
        store_audit(run.path, outcome, redact=redact)
        run.write_manifest(
            status="finished",
            base=dict(section.base),
            tuned=dict(section.tuned),
            asked=[dict(one.asked) for one, _ in pairs],
        )
        rebuild_report(run.path)
    return outcome


def _logs(place: Path) -> dict[str, Path]:
    """Logs by task: of a folder the newest of each."""
    if not place.exists():
        raise DataError("no such file", path=str(place))
    if not place.is_dir():
        return {"": place}
    from inspect_ai.log import list_eval_logs

    found: dict[str, Path] = {}
    for info in list_eval_logs(str(place), recursive=False, descending=True):
        path = Path(info.name.removeprefix("file://"))
        found.setdefault(logged_task(path), path)
    if not found:
        raise DataError("holds no log of Inspect (.eval or .json)", path=str(place))
    return found


def _paired(
    bases: Mapping[str, Path], tuneds: Mapping[str, Path], base: Path, tuned: Path
) -> dict[str, tuple[Path, Path]]:
    if bases.keys() != tuneds.keys():
        unpaired = sorted(bases.keys() ^ tuneds.keys())
        if "" in unpaired:
            raise UsageError(f"{base}, {tuned}: one is a log and one a folder; name two logs or two folders")
        raise UsageError(f"{base}, {tuned}: only one of them holds a log of {', '.join(unpaired)}")
    return {name: (bases[name], tuneds[name]) for name in sorted(bases)}


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
