"""The main job: measure two subjects, compare, decide, report.

    data ──tune──▶ subject ──measure──▶ measurements ──compare──▶ findings ──decide──▶ verdict ──▶ report

Subjects are loaded one after the other, never both at once. Everything lands in one run folder, and the same
call again goes on where a killed one stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aftertune.errors import OutputError, UsageError
from aftertune.inspect_bridge import LoggedRun, TaskPlan
from aftertune.model import SubjectChoice, differing_digests
from aftertune.probes import MeasurePlan, refuse_other_tokens
from aftertune.report import (
    ComparisonSection,
    Example,
    JudgeAgreement,
    ReportPage,
    SampledAnswers,
    render_junit,
    render_report,
)
from aftertune.runs import (
    Progress,
    RunFolder,
    default_folder,
    entered,
    explain_damage,
    fingerprint,
    read_document,
    read_manifest,
    stored_as,
    stored_identity,
    stored_text,
    write_json,
    write_text,
)
from aftertune.stats import (
    Baseline,
    FailOn,
    Finding,
    Measurement,
    Policy,
    SinceBaseline,
    Verdict,
    compare,
    decide_between,
    decide_since,
    read_baseline,
    refuse_contradiction,
    still_nothing_compared,
    write_measurements,
)
from aftertune.tuning import is_unpatched, known_base, refuse_other_base, refuse_overlap
from aftertune.verbs._answers import LOGS, AnswerRuns, judge_agreement, paired, sampled_answers, worst_answers
from aftertune.verbs._left_out import left_out, limited
from aftertune.verbs._measure import Measuring, measure_choice

EXAMPLES_SHOWN = 12
ANSWERS = "answers.json"


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit.

    Attributes:
        verdict: pass, fail or inconclusive.
        findings: base against tuned by metric, breakdowns included.
        section: the same as a part of a report.
        run: the run folder.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    section: ComparisonSection
    run: Path

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        since = self.section.since
        return {
            "title": self.section.title,
            "about": self.section.about,
            "verdict": self.verdict.decision,
            "reasons": list(self.verdict.reasons),
            "note": self.verdict.note,
            "findings": [f.as_dict() for f in self.findings if "/" not in f.metric],
            "breakdowns": [f.as_dict() for f in self.findings if "/" in f.metric],
            "base": dict(self.section.base),
            "tuned": dict(self.section.tuned),
            **({"baseline": since.as_dict()} if since else {}),
            **({"judges": [j.as_dict() for j in self.section.judges]} if self.section.judges else {}),
            "run": str(self.run),
        }


def audit(
    tuned: SubjectChoice,
    base: SubjectChoice | None = None,
    plan: MeasurePlan | None = None,
    policy: Policy | None = None,
    out: Path | None = None,
    *,
    tasks: TaskPlan | None = None,
    baseline: Path | None = None,
    fail_on: FailOn = "any",
    allow_identical: bool = False,
    redact: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Compare a fine-tuned subject to its base and decide.

    Args:
        tuned: the fine-tuned subject.
        base: what it was tuned from; for an adapter, its own base if left out.
        plan: what to ask; every probe on the shipped sets if left out.
        policy: margins and which metrics decide.
        out: the run folder; named after the configuration under ``runs/`` if left out.
        tasks: Inspect tasks to sample answers to, beside the probes.
        baseline: the folder of an earlier audit against the same base, to tell what is new, fixed and persistent.
        fail_on: "new" lets through what was decided no better in the baseline.
        allow_identical: let the findings decide even where base and tuned are one model, or no number differs.
        redact: leave all texts of items out of the report and the run folder.
        progress: told what goes on.

    Raises:
        SubjectError: no base is given and none is known, or a subject cannot be used.
        DataError: the tuned subject was tuned on prompts that are to be measured.
        UsageError: the baseline is none, or cannot be compared.
        RunError: the run broke; run the same again to go on.
    """
    plan, policy = plan or MeasurePlan(), policy or Policy()
    if tuned.base and is_unpatched(tuned.base, tuned.spec):
        tuned = replace(tuned, base=None)  # what a patched adapter is compared to is not what it sits on
    base = base or SubjectChoice(known_base(tuned.spec), placement=tuned.placement, chat_template=tuned.chat_template)
    refuse_overlap(tuned.spec, plan)
    if tasks:
        tasks.check(redact=redact)
    refuse_nothing_new(baseline, fail_on)
    earlier = read_baseline(baseline, policy) if baseline else None
    config: dict[str, Any] = {
        "base": base.config,
        "tuned": tuned.config,
        "plan": plan.config,
        "policy": policy.model_dump(),
        "allow_identical": allow_identical,
        "redact": redact,
    }
    if tasks:
        config["tasks"] = tasks.config
    if earlier:
        config["baseline"] = {"content": earlier.content, "fail_on": fail_on}
    run = RunFolder(out or default_folder("audit", config), "audit", config)
    if earlier:
        earlier.refuse_this_run(run.path)
    with entered(run):
        stored = finished_audit(run)
        if stored is not None:
            return stored
        check = refuse_other_base(tuned, earlier)
        # Before the base is loaded and measured, which may take hours.
        refuse_other_tokens(base.check(), tuned.check(), plan.drift_requests)
        if tasks:
            tasks.check_judges(redact=redact)
        answers = AnswerRuns(tasks, run, progress, redact=redact)
        first = measure_choice(base, plan, run, role="base", progress=progress, check=check,
                               afterwards=answers.of("base"))  # fmt: skip
        if earlier:
            earlier.refuse_other_judges(logged.asked for logged in answers.logged["base"])
        second = measure_choice(tuned, plan, run, role="tuned", drift_from=first.folder, progress=progress,
                                afterwards=answers.of("tuned"))  # fmt: skip
        pairs = paired(answers.logged["base"], answers.logged["tuned"])
        first, second = _with_answers(first, [p[0] for p in pairs]), _with_answers(second, [p[1] for p in pairs])
        both = [*first.measurements, *second.measurements]
        store_measurements(run.path, both, redact=redact)
        section = compare_measurings(first, second, plan, policy, title=tuned.spec, allow_identical=allow_identical)
        section = replace(
            section,
            verdict=section.verdict.noting(*limited(tasks)),
            examples=(*section.examples, *worst_answers(pairs, policy, EXAMPLES_SHOWN)),
            answers=None if redact else sampled_answers(pairs),
            judges=judge_agreement(pairs),
        )
        if earlier:
            section = held_against(section, earlier, fail_on)
        outcome = Audit(section.verdict, section.findings, section, run.path)
        store_audit(run.path, outcome, redact=redact)
        run.write_manifest(
            status="finished",
            base=first.identity,
            tuned=second.identity,
            batches_reused=first.batches_reused + second.batches_reused,
            **({"asked": [dict(one.asked) for one, _ in pairs]} if pairs else {}),
        )
        rebuild_report(run.path)
        if redact and tasks:
            shutil.rmtree(run.path / LOGS, ignore_errors=True)
    return outcome


def _with_answers(measuring: Measuring, logged: Sequence[LoggedRun]) -> Measuring:
    """What the probes measured of a subject, and what its sampled answers did."""
    return replace(measuring, measurements=(*measuring.measurements, *(m for one in logged for m in one.measurements)))


def refuse_nothing_new(baseline: Path | None, fail_on: FailOn) -> None:
    """Refuse to tell what is new since nothing.

    Raises:
        UsageError: without a baseline only "any" makes sense.
    """
    if baseline is None and fail_on != "any":
        raise UsageError(f"--fail-on {fail_on}: needs an earlier run to tell what is new; name one with --baseline")


def held_against(section: ComparisonSection, earlier: Baseline, fail_on: FailOn) -> ComparisonSection:
    """A section with what changed since a baseline, and the verdict that follows."""
    since = earlier.since(section.findings, fail_on)
    verdict = decide_since(section.verdict, section.findings, since)
    return replace(section, verdict=still_nothing_compared(section.verdict, verdict), since=since)


def compare_measurings(
    base: Measuring, tuned: Measuring, plan: MeasurePlan, policy: Policy, *, title: str, about: str = "",
    allow_identical: bool = False,
) -> ComparisonSection:  # fmt: skip
    """Findings, verdict and examples of two measured subjects."""
    findings = tuple(compare(base.measurements, tuned.measurements, policy))
    verdict = decide_between(
        findings,
        differing_digests(base.identity, tuned.identity),
        base.measurements,
        tuned.measurements,
        allow_identical,
    )
    verdict = verdict.noting(*left_out(plan, policy.deciding))
    return ComparisonSection(
        title, about, verdict, base.identity, tuned.identity, findings, _examples(base, tuned, plan)
    )


def _examples(base: Measuring, tuned: Measuring, plan: MeasurePlan) -> tuple[Example, ...]:
    before = {(m.metric, m.item): m.value for m in base.measurements}
    moved = [m for m in tuned.measurements if m.metric.startswith("preference.margin") and (m.metric, m.item) in before]
    moved.sort(key=lambda m: before[m.metric, m.item] - m.value)
    return tuple(
        Example(m.metric, m.item, m.group, before[m.metric, m.item], m.value, plan.texts(m.metric, m.item))
        for m in moved[:EXAMPLES_SHOWN]
    )


def store_measurements(folder: Path, measurements: Sequence[Measurement], *, redact: bool) -> None:
    """Write every number into ``folder``."""
    # The cluster may be the prompt's text; a digest of it groups as well.
    kept = [replace(m, cluster=fingerprint(m.cluster)[:16]) for m in measurements] if redact else measurements
    write_measurements(folder / "measurements.parquet", kept)


def store_audit(folder: Path, outcome: Audit, *, redact: bool = False) -> None:
    """Write verdict, examples, sampled answers and JUnit of an audit into ``folder``."""
    answers = outcome.section.answers
    if answers and not redact:
        write_json(folder / ANSWERS, answers.as_dict())
    examples = [{**asdict(e), "texts": {} if redact else dict(e.texts)} for e in outcome.section.examples]
    write_json(folder / "examples.json", examples)
    title = f"aftertune audit of {outcome.section.title}"
    write_text(folder / "junit.xml", render_junit(title, outcome.findings, outcome.verdict, outcome.section.since))
    write_json(folder / "verdict.json", outcome.document())


def finished_audit(run: RunFolder) -> Audit | None:
    """What a finished run found, read back; None while it is under way."""
    if not run.finished:
        return None
    section = stored_section(run.path)
    if not (run.path / "report.html").exists():  # killed just before it was written, or removed since
        rebuild_report(run.path)
    return Audit(section.verdict, section.findings, section, run.path)


def stored_section(folder: Path) -> ComparisonSection:
    """A finished audit, read back from its run folder.

    Raises:
        OutputError: the folder holds no finished audit.
    """
    if not (folder / "verdict.json").exists():
        raise OutputError(f"{folder}: holds no finished audit; run `aftertune audit` with --out {folder}")
    with explain_damage(folder):
        document = read_document(folder / "verdict.json")
        if not isinstance(document, dict):
            raise ValueError("verdict.json holds no object")
        since = document.get("baseline")
        answers = folder / ANSWERS  # absent where nothing was sampled, with --redact, and from older versions
        section = ComparisonSection(
            title=stored_text(document, "title"),
            about=stored_text(document, "about"),
            verdict=stored_as(
                Verdict, {"decision": document["verdict"], "reasons": document["reasons"], "note": document["note"]}
            ),
            base=stored_identity(document, "base"),
            tuned=stored_identity(document, "tuned"),
            findings=tuple(stored_as(Finding, f) for f in (*document["findings"], *document["breakdowns"])),
            examples=tuple(stored_as(Example, e) for e in read_document(folder / "examples.json")),
            since=SinceBaseline.from_dict(since) if since else None,
            answers=SampledAnswers.from_dict(read_document(answers)) if answers.exists() else None,
            judges=tuple(map(JudgeAgreement.from_dict, document.get("judges", ()))),
        )
    try:
        refuse_contradiction(section.verdict, section.findings, section.since, _stored_policy(folder))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(
            f"{folder}: its verdict.json contradicts itself ({reason}); run it again with another --out"
        ) from None
    return section


def _stored_policy(folder: Path) -> Policy | None:
    """By which an audit was decided; None for one that is part of a study, whose policy stands elsewhere."""
    if not (folder / "manifest.json").exists():
        return None
    config = read_manifest(folder)["config"]
    return Policy.model_validate(config["policy"])


def _marks(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be said of the judges that a run rests on."""
    graders = dict.fromkeys(
        str(n) for task in manifest.get("asked", ()) for names in task["graders"].values() for n in names
    )
    if not graders:
        return ()
    from aftertune.judges import offline_note  # brings Inspect with it

    return tuple(filter(None, map(offline_note, graders)))


def audit_page(folder: Path) -> ReportPage:
    """The report of a finished audit or comparison, from what its folder holds."""
    manifest, section = read_manifest(folder), stored_section(folder)
    with explain_damage(folder):
        return _page(section, manifest)


def rebuild_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished audit anew, from what its folder holds."""
    page = audit_page(folder)
    with explain_damage(folder):
        text = render_report(page)
    path = folder / "report.html"
    write_text(path, text)
    return path


def _page(section: ComparisonSection, manifest: Mapping[str, Any]) -> ReportPage:
    return ReportPage(
        title=f"Audit of {section.title}",
        lede=f"{section.title} against {section.base['spec']}",
        sections=(section,),
        manifest=manifest,
        commands=(str(manifest.get("command", "")),),
        notes=(*((section.verdict.note,) if section.verdict.note else ()), *_marks(manifest)),
        redact=bool(manifest["config"].get("redact")),
    )
