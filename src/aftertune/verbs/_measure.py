"""One subject alone: means with intervals, by probe and by task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from aftertune.errors import UsageError
from aftertune.inspect_bridge import TaskPlan
from aftertune.model import Placement, SubjectChoice
from aftertune.probes import MeasurePlan
from aftertune.runs import Progress, RunFolder, default_folder, entered, explain_damage, write_json
from aftertune.stats import Summary, read_measurements, summarise, write_measurements
from aftertune.verbs._opened import Measuring, Named, chosen, opened


@dataclass(frozen=True)
class MeasureRun:
    """The outcome of measuring one subject.

    Attributes:
        identity: who was measured.
        summaries: means with intervals by metric, breakdowns included.
        run: the run folder.
    """

    identity: dict[str, Any]
    summaries: tuple[Summary, ...]
    run: Path

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        rows = [{**asdict(s), "interval": list(s.interval)} for s in self.summaries]
        return {
            "subject": self.identity,
            "metrics": [row for row in rows if "/" not in row["metric"]],
            "breakdowns": [row for row in rows if "/" in row["metric"]],
            "run": str(self.run),
        }


def measure_choice(
    choice: SubjectChoice,
    plan: MeasurePlan,
    run: RunFolder,
    *,
    role: str,
    drift_from: Path | None = None,
    progress: Progress | None = None,
) -> Measuring:
    """Load a subject unless it was measured before, measure it, and let go of it.

    Args:
        choice: which subject.
        plan: what to ask.
        run: keeps measurements where runs share none.
        role: "base" keeps what others drift from.
        drift_from: the base's folder, to measure drift from it.
        progress: notified of what goes on.
    """
    with opened(choice, run, role, progress=progress) as one:
        return one.measured(plan, drift_from=drift_from, keep_reference=role == "base")


def measure(
    subject: Named,
    plan: MeasurePlan | None = None,
    out: str | PathLike[str] | None = None,
    *,
    tasks: TaskPlan | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> MeasureRun:
    """Measure one model alone (no drift: that needs a base).

    Args:
        subject: what to measure, named as in `aftertune.audit`.
        plan: what to ask; all probes on the shipped sets if left out.
        out: the run folder; named after the configuration under ``runs/`` if left out.
        tasks: Inspect tasks to sample answers to, beside the probes.
        placement: device, dtype and batch bound.
        progress: notified of what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    choice, plan = chosen(subject, placement), plan or MeasurePlan()
    if not (plan.likelihood_probes or tasks):
        raise UsageError("drift needs a base model; use `aftertune audit`, or name another probe")
    config: dict[str, Any] = {"subject": choice.config, "plan": plan.config}
    if tasks:
        tasks.check()
        config["tasks"] = tasks.config
    run = RunFolder(Path(out) if out else default_folder("measure", config), "measure", config)
    with entered(run):
        table = run.path / "measurements.parquet"
        if run.finished and table.exists():
            with explain_damage(run.path):
                identity, measurements = dict(run.manifest["subject"]), tuple(read_measurements(table))
        else:
            choice.check()
            if tasks:
                tasks.check_judges()
            with opened(choice, run, "subject", progress=progress) as one:
                measured = one.measured(plan).with_answers(one.sampled(tasks))
            identity, measurements = measured.identity, measured.measurements
            write_measurements(table, measurements)
        outcome = MeasureRun(identity, tuple(summarise(measurements)), run.path)
        write_json(run.path / "measure.json", outcome.document())
        run.write_manifest(status="finished", subject=identity)
    return outcome
