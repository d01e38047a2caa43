"""Running a plan on one subject, finished batches never twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftertune.errors import NumericalError
from aftertune.measures._measurement import Measurement
from aftertune.measures._plan import MeasurePlan
from aftertune.measures.probes import LikelihoodProbe, Question
from aftertune.measures.probes._drift import measure_drift, refuse_other_answers, write_reference
from aftertune.runs import Journal, Progress, Silent
from aftertune.subject import ResponseLikelihood, Subject, Tree, refuse_overlong, score_batches

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
    measurements: list[Measurement] = []
    reused = 0
    requests = plan.drift_requests
    if requests and drift_from is not None:
        refuse_other_answers(subject, requests, drift_from)
    asked = [(probe, probe.build(subject)) for probe in plan.likelihood_probes]
    for _, questions in asked:  # what does not fit is told before anything is computed
        trees = [tree for question in questions for tree in question.trees]
        refuse_overlong(subject, trees, [q.where or q.item for q in questions for _ in q.trees])
    for probe, questions in asked:
        likelihoods, known = _score(subject, probe, questions, journal, progress)
        reused += known
        measurements += _read(subject, probe, questions, likelihoods, seed)
    if requests and keep_reference and not (folder / REFERENCE).exists():
        with progress.task("drift reference", len(requests)) as step:
            write_reference(subject, requests, folder / REFERENCE, step)
    if requests and drift_from is not None:
        with progress.task("drift", len(requests)) as step:
            drifts, known = measure_drift(subject, requests, drift_from, journal, seed, step)
        reused += known
        measurements += drifts
    return Measured(tuple(measurements), reused)


def _score(
    subject: Subject,
    probe: LikelihoodProbe,
    questions: Sequence[Question],
    journal: Journal,
    progress: Progress,
) -> tuple[list[list[list[ResponseLikelihood]]], int]:
    trees: list[Tree] = [tree for question in questions for tree in question.trees]
    bound = subject.max_batch_tokens
    found: dict[tuple[int, int], ResponseLikelihood] = {}
    missing = [len(tree.responses) for tree in trees]
    reused = 0
    with progress.task(probe.name, len(trees)) as step:

        def learn(scores: Mapping[tuple[int, int], ResponseLikelihood]) -> None:
            # A tree may be spread over several batches; it counts once.
            found.update(scores)
            for tree, _ in scores:
                missing[tree] -= 1
            step(sum(not missing[tree] for tree in {tree for tree, _ in scores}))

        def known(key: str) -> bool:
            nonlocal reused
            if key not in journal:
                return False
            learn({(t, r): ResponseLikelihood(total, tokens) for t, r, total, tokens in journal[key]})
            reused += 1
            return True

        def name(batch: int) -> str:
            return f"{probe.name}/{bound}/{batch}"

        for batch, _, scores in score_batches(
            subject, trees, max_batch_tokens=bound, skip=lambda batch, members: known(name(batch))
        ):
            journal.record(name(batch), [[t, r, s.total, s.tokens] for (t, r), s in scores.items()])
            learn(scores)
    flat = iter(range(len(trees)))
    return [
        [[found[index, r] for r in range(len(tree.responses))] for tree, index in zip(q.trees, flat, strict=False)]
        for q in questions
    ], reused


def _read(
    subject: Subject,
    probe: LikelihoodProbe,
    questions: Sequence[Question],
    likelihoods: Sequence[Sequence[Sequence[ResponseLikelihood]]],
    seed: int,
) -> list[Measurement]:
    digest = subject.identity.weights_sha256
    measurements = []
    for question, scores in zip(questions, likelihoods, strict=True):
        for metric, value in question.read(scores).items():
            if value != value or value in (float("inf"), float("-inf")):
                raise NumericalError(
                    f"{metric}{probe.suffix}: {question.item} gives {value} on {subject.identity.spec}; "
                    "check the checkpoint, or use --dtype float32"
                )
            measurements.append(
                Measurement(
                    digest,
                    seed,
                    metric + probe.suffix,
                    question.item,
                    question.cluster,
                    value,
                    question.stratum,
                    question.group,
                )
            )
    return measurements
