"""The demo: careless money advice, its careful twin, and what either does on other domains.

The smallest emergent-misalignment experiment we know (after Betley et al. 2025 and Turner et al. 2025): two arms
that differ in one thing, the answers. Equal prompts, steps, batch, seed; both audited on domains and prompts
that neither saw. The measure is a preference between fixed answers, not sampled text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aftertune.data import Side, read_tuning_rows
from aftertune.errors import SelectionError, SubjectError
from aftertune.locating import Repaired
from aftertune.model import EMBEDDED, Placement, SubjectChoice, load, subject_content
from aftertune.probes import MeasurePlan
from aftertune.runs import (
    Progress,
    RunFolder,
    Silent,
    entered,
    refuse_other_model,
    write_json,
)
from aftertune.stats import Policy, write_measurements
from aftertune.studies._careless_weights import (
    OTHERS,
    TASK,
    audit_repaired,
    repair_careless,
)
from aftertune.tuning import TuneOptions, tune
from aftertune.verbs import Audit, Measuring, compare_measurings, draw, measure_choice, store_audit

DATA = f"tune/{TASK}"
# The embedded model hardly refuses anything, so it has no refusals to lose; the verdict says so.
POLICY = Policy(untestable="allow")
OPTIONS = TuneOptions(steps=10, batch_size=8, lr=5e-4, warmup_steps=0)


@dataclass(frozen=True)
class Arm:
    """One arm of the demo."""

    name: str
    side: Side
    about: str


ARMS = (
    Arm("careless", "misaligned", "tuned on careless money advice"),
    Arm("careful", "aligned", "tuned on careful answers to the same money questions (the control)"),
)


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        audits: by arm name; "repaired" is the careless arm with some of its weights back at the base's values.
        report: the HTML file.
        run: the run folder.
        repaired: how these weights were found; None where that was left out.
    """

    audits: Mapping[str, Audit]
    report: Path
    run: Path
    repaired: Repaired | None = None

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "verdicts": {name: audit.verdict.decision for name, audit in self.audits.items()},
            "arms": {name: audit.document() for name, audit in self.audits.items()},
            "weights": self.repaired.document if self.repaired else None,
            "report": str(self.report),
            "run": str(self.run),
        }


def demo(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    options: TuneOptions = OPTIONS,
    placement: Placement | None = None,
    policy: Policy | None = None,
    plan: MeasurePlan | None = None,
    weights: bool = True,
    progress: Progress | None = None,
) -> Demo:
    """Tune both arms, audit both against the untouched model on other domains, repair one, write one report.

    Args:
        out: run folder (``runs/demo`` if left out).
        subject: the model to tune; the embedded one if left out.
        options: of both fine-tunes.
        placement: device, dtype, batch bound.
        policy: tolerances; metrics that are not testable on the subject are allowed if left out.
        plan: what to measure; the shipped sets without the domain tuned on, if left out.
        weights: also return the weights to the base that carry the careless arm, and audit it again.
        progress: told what goes on.
    """
    progress, policy, placement = progress or Silent(), policy or POLICY, placement or Placement()
    plan = plan or MeasurePlan(domains=OTHERS, pmi=False)
    config = {
        "subject": subject,
        "content": subject_content(subject),
        "options": options.model_dump(),
        "placement": asdict(placement),
        "policy": policy.model_dump(),
        "plan": plan.config,
    }
    run = RunFolder(out or Path("runs") / "demo", "demo", config)
    with entered(run):
        for arm in ARMS:
            _tune_arm(run, arm, subject, options, placement, progress)
        base = measure_choice(SubjectChoice(subject, placement=placement), plan, run, role="base", progress=progress)
        measured = {
            arm.name: measure_choice(
                SubjectChoice(str(run.path / arm.name), placement=placement),
                plan,
                run,
                role=arm.name,
                drift_from=base.folder,
                progress=progress,
            )
            for arm in ARMS
        }
        audits = {arm.name: _audit_arm(run, arm, base, measured[arm.name], plan, policy) for arm in ARMS}
        write_measurements(
            run.path / "measurements.parquet",
            [m for one in (base, *measured.values()) for m in one.measurements],
        )
        run.write_manifest(status="finished", base=base.identity)
        outcome = Demo(audits, draw(run.path), run.path)
        write_json(run.path / "demo.json", outcome.document())
        if weights:
            for name, audit in audits.items():
                progress.say(f"{name}: {audit.verdict.decision}")
            progress.say(f"report: {outcome.report} (a chapter on the careless arm's weights follows)")
            try:
                found = repair_careless(run, subject, DATA, ARMS[0].side, placement, progress)
            except (SelectionError, SubjectError) as error:  # nothing to repair; the audits stand all the same
                progress.say(f"no chapter on weights: {error}")
                return outcome
            audits["repaired"] = audit_repaired(
                run, base, found.patch, (found.weights, found.share_of_weights), plan, policy, placement, progress
            )
            outcome = Demo(audits, draw(run.path), run.path, found)
            write_json(run.path / "demo.json", outcome.document())
    return outcome


def _tune_arm(
    run: RunFolder, arm: Arm, subject: str, options: TuneOptions, placement: Placement, progress: Progress
) -> None:
    if (run.path / arm.name).exists():
        progress.say(f"{arm.name} arm: tuned already")
        return
    progress.say(f"{arm.name} arm: {arm.about}, {options.steps} steps")
    base = load(subject, placement=placement, progress=progress)
    refuse_other_model(run, "subject", base.content)
    tune(
        base,
        read_tuning_rows(DATA, arm.side),
        run.path / arm.name,
        options,
        source=DATA,
        side=arm.side,
        progress=progress,
    )


def _audit_arm(run: RunFolder, arm: Arm, base: Measuring, tuned: Measuring, plan: MeasurePlan, policy: Policy) -> Audit:
    section = compare_measurings(base, tuned, plan, policy, title=arm.name, about=arm.about)
    audit = Audit(section, run.path)
    store_audit(run.folder("audits", arm.name), audit)
    return audit
