"""Running a plan on one subject, finished batches never twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aftertune.data import Request
from aftertune.data import ask as ask_prompt
from aftertune.errors import SubjectError
from aftertune.model import Chat, Subject
from aftertune.probes._asking import ask
from aftertune.probes._drift import measure_drift, refuse_other_answers, write_reference
from aftertune.probes._plan import MeasurePlan
from aftertune.runs import Journal, Progress, Silent, file_digest
from aftertune.stats import Measurement

REFERENCE = "drift.safetensors"


@dataclass(frozen=True)
class Measured:
    """What one subject gave.

    Attributes:
        measurements: every number.
        batches_reused: forward passes that an earlier, interrupted run had done already.
    """

    measurements: tuple[Measurement, ...]
    batches_reused: int


def measure_subject(
    subject: Subject,
    plan: MeasurePlan,
    folder: Path,
    *,
    seed: int = 0,
    drift_from: Path | None = None,
    keep_reference: bool = False,
    progress: Progress | None = None,
) -> Measured:
    """Run every probe of ``plan``; the journal in ``folder`` lets a killed run go on.

    Args:
        subject: what to measure.
        plan: what to ask.
        folder: where the journal is kept; one subject, one plan, one folder.
        seed: training seed of the subject, recorded with each number.
        drift_from: the base's stored distributions, to measure drift against.
        keep_reference: store this subject's distributions in ``folder`` for others to drift from.
        progress: told about batches.

    Raises:
        UsageError: an item does not fit the model's context.
        SubjectError: drift is asked for between subjects that tokenise its answers differently.
        NumericalError: a value is NaN or infinite.
    """
    progress = progress or Silent()
    journal = Journal(folder / "journal.jsonl")
    requests = plan.drift_requests
    if requests and drift_from is not None:
        refuse_other_answers(subject, requests, drift_from)
    measurements, reused = ask(subject, plan.likelihood_probes, journal, progress=progress, seed=seed)
    if requests and keep_reference and not _is_whole(folder / REFERENCE, journal):
        with progress.task("drift reference", len(requests)) as step:
            write_reference(subject, requests, folder / REFERENCE, step)
        journal.record(REFERENCE, file_digest(folder / REFERENCE))
    if requests and drift_from is not None:
        with progress.task("drift", len(requests)) as step:
            drifts, known = measure_drift(subject, requests, drift_from, journal, seed, step)
        reused += known
        measurements += drifts
    return Measured(tuple(measurements), reused)


def refuse_other_tokens(base: Chat | None, tuned: Chat | None, requests: Sequence[Request]) -> None:
    """Refuse drift between models that render the answers to other tokens, before either is loaded.

    Args:
        base: tokenizer and template of the base; None where they are not at hand yet.
        tuned: likewise.
        requests: whose answers drift looks at.

    Raises:
        SubjectError: an answer is tokenised differently.
    """
    if base is None or tuned is None:
        return
    for request in requests:
        turns = ask_prompt(request.prompt)
        if base.response(turns, request.response) != tuned.response(turns, request.response):
            raise SubjectError(
                f"{tuned.name}: renders the answer of {request.id} to other tokens than the base, so drift has no "
                "meaning; use the base's tokenizer and chat template, or leave drift out"
            )


def _is_whole(reference: Path, journal: Journal) -> bool:
    """Whether an earlier run wrote the reference to its end and nobody changed it since."""
    if not reference.is_file() or REFERENCE not in journal:
        return False
    return bool(journal[REFERENCE] == file_digest(reference))
