"""One subject, measured: load it when its turn comes, run the plan, let go of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aftertune.errors import UsageError
from aftertune.model import Subject, SubjectChoice
from aftertune.probes import REFERENCE, Measured, MeasurePlan, measure_subject
from aftertune.runs import Progress, RunFolder, Silent, default_folder, entered, explain_damage, fingerprint, write_json
from aftertune.stats import Measurement, Summary, read_measurements, summarise, write_measurements


@dataclass(frozen=True)
class Measuring:
    """One subject, measured.

    Attributes:
        identity: who it is.
        measurements: every number.
        batches_reused: forward passes an interrupted run had done already.
        folder: its journal and drift reference.
    """

    identity: dict[str, Any]
    measurements: tuple[Measurement, ...]
    batches_reused: int
    folder: Path

    def only_asked_of(self, other: Measuring) -> Measuring:
        """The numbers on what another subject was asked too, where that was asked less."""
        asked = {(m.metric, m.item) for m in other.measurements}
        return replace(self, measurements=tuple(m for m in self.measurements if (m.metric, m.item) in asked))


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
    check: Callable[[Subject], None] = lambda subject: None,
    afterwards: Callable[[Subject], None] = lambda subject: None,
) -> Measuring:
    """Load a subject, measure it, and let go of it.

    Args:
        choice: which subject.
        plan: what to ask.
        run: where journals are kept, by the subject's digest.
        role: "base" or "tuned", for progress lines.
        drift_from: the base's folder, to measure drift from it; None stores a reference instead.
        progress: told what goes on.
        check: called with the loaded subject before the first forward pass.
        afterwards: called with it after the last, before it is let go of.
    """
    progress = progress or Silent()
    progress.say(f"loading {role}: {choice.spec}")
    subject = choice.load(progress)
    check(subject)
    identity = subject.identity.as_dict()
    kind = "tuned" if drift_from else "base"
    key = fingerprint({**subject.content, "plan": plan.config, "role": kind})[:16]
    folder = run.folder("measurements", key)
    measured: Measured = measure_subject(
        subject,
        plan,
        folder,
        drift_from=drift_from / REFERENCE if drift_from and plan.drift_requests else None,
        keep_reference=role == "base" and bool(plan.drift_requests),
        progress=progress,
    )
    afterwards(subject)
    del subject
    release_memory()
    return Measuring(identity, measured.measurements, measured.batches_reused, folder)


def release_memory() -> None:
    """Give back what a subject that was let go of held, accelerators' memory too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    choice: SubjectChoice, plan: MeasurePlan, out: Path | None = None, *, progress: Progress | None = None
) -> MeasureRun:
    """Measure one subject alone (no drift: that needs a base).

    Args:
        choice: which subject.
        plan: what to ask.
        out: the run folder; named after the configuration under ``runs/`` if left out.
        progress: told what goes on.
    """
    if not plan.likelihood_probes:
        raise UsageError("drift is a distance from a base, which one model alone has not; name another probe")
    config = {"subject": choice.config, "plan": plan.config}
    run = RunFolder(out or default_folder("measure", config), "measure", config)
    with entered(run):
        table = run.path / "measurements.parquet"
        if run.finished and table.exists():
            with explain_damage(run.path):
                identity, measurements = dict(run.manifest["subject"]), tuple(read_measurements(table))
        else:
            choice.check()
            measured = measure_choice(choice, plan, run, role="subject", progress=progress)
            identity, measurements = measured.identity, measured.measurements
            write_measurements(table, measurements)
        outcome = MeasureRun(identity, tuple(summarise(measurements)), run.path)
        write_json(run.path / "measure.json", outcome.document())
        run.write_manifest(status="finished", subject=identity)
    return outcome
