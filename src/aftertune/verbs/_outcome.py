"""What an audit found: held against a baseline, stored in its run folder, read back from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from aftertune.data import DOMAINS
from aftertune.errors import OutputError, UsageError
from aftertune.inspect_bridge import LoggedRun, TaskPlan
from aftertune.model import differing_digests
from aftertune.probes import MeasurePlan, probe_rows
from aftertune.runs import (
    RunFolder,
    default_folder,
    explain_damage,
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
    ComparisonSection,
    Example,
    FailOn,
    Finding,
    JudgeAgreement,
    Measurement,
    Policy,
    SampledAnswers,
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
from aftertune.verbs._draw import draw, junit
from aftertune.verbs._opened import Measuring

EXAMPLES_SHOWN = 12
_ANSWERS = "answers.json"


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit.

    Attributes:
        section: verdict, findings, examples and both subjects, as a report shows them.
        run: the run folder.
    """

    section: ComparisonSection
    run: Path

    @property
    def verdict(self) -> Verdict:
        """Pass, fail or inconclusive."""
        return self.section.verdict

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Base against tuned by metric, breakdowns included."""
        return self.section.findings

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints, and ``verdict.json`` holds."""
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
            **({"judges": [asdict(j) for j in self.section.judges]} if self.section.judges else {}),
            "run": str(self.run),
        }


class Gate:
    """What `audit` and `compare_logs` share: a policy, a baseline, a run folder, and how both end.

    Args:
        verb: "audit" or "compare".
        policy: tolerances and which metrics decide.
        baseline: the folder of an earlier run of the verb.
        fail_on: "new" ignores what did not pass in the baseline and is surely no worse now.
        allow_identical: let the findings decide even where both are one model.
        redact: leave all texts out of the run folder.

    Raises:
        UsageError: ``fail_on`` needs a baseline.
        OutputError: the baseline is none.
        PolicyError: the baseline was decided by other rules.
    """

    def __init__(
        self, verb: Any, policy: Policy | None, baseline: str | PathLike[str] | None, fail_on: FailOn, *,
        allow_identical: bool, redact: bool,
    ) -> None:  # fmt: skip
        self.policy, self.fail_on, self.allow_identical, self.redact = (
            policy or Policy(),
            fail_on,
            allow_identical,
            redact,
        )
        if baseline is None and fail_on != "any":
            raise UsageError(f"--fail-on {fail_on}: needs an earlier run to tell what is new; name one with --baseline")
        self.verb = verb
        self.earlier: Baseline | None = read_baseline(Path(baseline), self.policy, verb) if baseline else None

    def folder(self, out: str | PathLike[str] | None, config: Mapping[str, Any]) -> RunFolder:
        """The run folder: as named, else after the configuration under ``runs/``."""
        full = {
            **config,
            "policy": self.policy.model_dump(),
            "allow_identical": self.allow_identical,
            "redact": self.redact,
            **({"baseline": {"content": self.earlier.content, "fail_on": self.fail_on}} if self.earlier else {}),
        }
        run = RunFolder(Path(out) if out else default_folder(self.verb, full), self.verb, full)
        if self.earlier:
            self.earlier.refuse_this_run(run.path)
        return run

    def held_against(self, section: ComparisonSection) -> ComparisonSection:
        """A section with what changed since the baseline, and the verdict that follows."""
        if self.earlier is None:
            return section
        since = self.earlier.since(section.findings, self.fail_on)
        verdict = decide_since(section.verdict, section.findings, since)
        return replace(section, verdict=still_nothing_compared(section.verdict, verdict), since=since)

    def finish(
        self,
        run: RunFolder,
        section: ComparisonSection,
        measurements: Sequence[Measurement],
        asked: Iterable[LoggedRun],
        **facts: Any,
    ) -> Audit:
        """Store what was found, finish the run and draw its report."""
        write_measurements(run.path / "measurements.parquet", measurements)
        outcome = Audit(section, run.path)
        store_audit(run.path, outcome, redact=self.redact)
        tasks = [dict(one.asked) for one in asked]
        run.write_manifest(
            status="finished",
            base=dict(section.base),
            tuned=dict(section.tuned),
            **facts,
            **({"asked": tasks} if tasks else {}),
        )
        draw(run.path)
        return outcome


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


def left_out(plan: MeasurePlan, decides: Callable[[str], bool]) -> Iterator[str]:
    """What a plan leaves out of what an audit asks by default, one sentence part for each kind.

    Args:
        plan: what is asked.
        decides: whether a metric decides the verdict, by its id.
    """
    missing = []
    for row in probe_rows():
        if not row.default or not any(decides(metric.id) for metric in row.metrics):
            continue
        if row.name not in plan.probes:
            missing.append(row.name)
        elif row.name == "preference" and not plan.domains:
            missing.append("preference (no domain is left)")
        elif row.name == "truthful" and plan.truthfulqa is None:
            missing.append(f"truthful (needs {row.needs})")
    if missing:
        yield f"not asked: {', '.join(missing)}"
    absent = [domain for domain in DOMAINS if domain not in plan.domains]
    if "preference" in plan.probes and plan.domains and absent:
        asked = len(DOMAINS) - len(absent)
        yield f"preference was asked in {asked} of {len(DOMAINS)} domains, not in {', '.join(absent)}"
    if plan.split != "measure":
        yield f"preference was asked on the split {plan.split}, which is for choosing settings"


def limited(tasks: TaskPlan | None) -> Iterator[str]:
    """That tasks were cut to their first questions, where they were."""
    if tasks and tasks.limit:
        yield f"of {', '.join(tasks.names)} only the first {tasks.limit} questions were asked (--limit)"


def store_audit(folder: Path, outcome: Audit, *, redact: bool = False) -> None:
    """Write verdict, examples, sampled answers and JUnit of an audit into ``folder``."""
    section = outcome.section
    if section.answers and not redact:
        write_json(folder / _ANSWERS, asdict(section.answers))
    examples = [{**asdict(e), "texts": {} if redact else dict(e.texts)} for e in section.examples]
    write_json(folder / "examples.json", examples)
    write_text(folder / "junit.xml", junit(section))
    write_json(folder / "verdict.json", outcome.document())


def finished_audit(run: RunFolder) -> Audit | None:
    """What a finished run found, read back; None while it is under way."""
    if not run.finished:
        return None
    section = stored_section(run.path)
    if not (run.path / "report.html").exists():  # killed just before it was written, or removed since
        draw(run.path)
    return Audit(section, run.path)


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
        answers = folder / _ANSWERS  # absent where nothing was sampled, with --redact, and from older versions
        section = ComparisonSection(
            title=stored_text(document, "title"),
            about=stored_text(document, "about"),
            verdict=stored_as(
                Verdict, {"decision": document["verdict"], "reasons": document["reasons"], "note": document["note"]}
            ),
            base=stored_identity(document, "base"),
            tuned=stored_identity(document, "tuned"),
            findings=tuple(Finding.from_dict(f) for f in (*document["findings"], *document["breakdowns"])),
            examples=tuple(stored_as(Example, e) for e in read_document(folder / "examples.json")),
            since=SinceBaseline.from_dict(since) if since else None,
            answers=SampledAnswers.from_dict(read_document(answers)) if answers.exists() else None,
            judges=tuple(stored_as(JudgeAgreement, j) for j in document.get("judges", ())),
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
    return Policy.model_validate(read_manifest(folder)["config"]["policy"])
