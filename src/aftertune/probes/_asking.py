"""Asking a subject: a plan in a folder, or likelihood probes in memory; no finished batch is scored twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftertune.data import Request
from aftertune.data import ask as ask_prompt
from aftertune.errors import NumericalError, OutputError, SubjectError, UsageError
from aftertune.model import Chat, PromptAnswers, ResponseLikelihood, Scorer, Subject, as_scorer, refuse_overlong
from aftertune.probes._drift import measure_drift, refuse_other_answers, write_reference
from aftertune.probes._plan import MeasurePlan
from aftertune.probes._probe import LikelihoodProbe, Question
from aftertune.runs import Journal, Phases, Progress, Silent, file_digest
from aftertune.stats import Measurement

REFERENCE = "drift.safetensors"


def ask_probes(
    subject: Subject | Scorer,
    probes: Sequence[LikelihoodProbe],
    *,
    progress: Progress | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    prefix: str = "",
) -> tuple[Measurement, ...]:
    """Measure a subject in memory on some probes, without a plan and a folder.

    For comparing a model before and after an edit. Measurements carry the digest of the weights the subject was
    loaded with, so keep those of either state apart.

    Args:
        subject: what to ask, in the state it is in.
        probes: what to ask it, each of another name.
        progress: told about batches.
        seed: training seed of the subject, recorded with each number.
        journal: finished batches, which are not scored again; none is kept if left out.
        prefix: what keys in the journal begin with; one for each state of the weights and each choice of probes.

    Raises:
        UsageError: two probes of one name, or an item that does not fit the model's context.
        NumericalError: a value is NaN or infinite.
    """
    return tuple(_ask(as_scorer(subject), probes, journal, prefix=prefix, progress=progress or Silent(), seed=seed)[0])


def _ask(
    subject: Scorer,
    probes: Sequence[LikelihoodProbe],
    journal: Journal | None,
    *,
    prefix: str = "",
    progress: Progress,
    seed: int,
) -> tuple[list[Measurement], int]:
    """Measurements as of `ask_probes`, and how many batches the journal held already."""
    name, count = next(iter(Counter(probe.name for probe in probes).most_common(1)), ("", 0))
    if count > 1:
        raise UsageError(f"{count} probes are called {name}; give each a suffix of its own, such as ':harm'")
    asked = [(probe, probe.build(subject)) for probe in probes]
    for _, questions in asked:  # what does not fit is told before anything is computed
        cases = [case for question in questions for case in question.cases]
        refuse_overlong(subject, cases, [q.where or q.item for q in questions for _ in q.cases])
    measurements: list[Measurement] = []
    reused = 0
    for probe, questions in asked:
        likelihoods, known = _score(subject, probe, questions, journal, prefix, progress)
        reused += known
        measurements += _read(subject, probe, questions, likelihoods, seed)
    return measurements, reused


def _score(
    subject: Scorer,
    probe: LikelihoodProbe,
    questions: Sequence[Question],
    journal: Journal | None,
    prefix: str,
    progress: Progress,
) -> tuple[list[list[list[ResponseLikelihood]]], int]:
    cases: list[PromptAnswers] = [case for question in questions for case in question.cases]
    bound = subject.bound
    found: dict[tuple[int, int], ResponseLikelihood] = {}
    missing = [len(case.responses) for case in cases]
    reused = 0
    with progress.task(probe.name, len(cases)) as step:

        def learn(scores: Mapping[tuple[int, int], ResponseLikelihood]) -> None:
            # A case may be spread over several batches; it counts once.
            found.update(scores)
            for case, _ in scores:
                missing[case] -= 1
            step(sum(not missing[case] for case in {case for case, _ in scores}))

        def known(key: str) -> bool:
            nonlocal reused
            if journal is None or key not in journal:
                return False
            learn(_stored(journal, key))
            reused += 1
            return True

        def name(batch: int) -> str:
            return f"{prefix}{probe.name}/{bound}/{batch}"

        for batch, _, scores in subject.score(cases, skip=lambda batch, members: known(name(batch))):
            if journal is not None:
                journal.record(name(batch), [[t, r, s.total, s.tokens] for (t, r), s in scores.items()])
            learn(scores)
    flat = iter(range(len(cases)))
    return [
        [[found[index, r] for r in range(len(case.responses))] for case, index in zip(q.cases, flat, strict=False)]
        for q in questions
    ], reused


def _stored(journal: Journal, key: str) -> dict[tuple[int, int], ResponseLikelihood]:
    """Likelihoods of a batch by case and response, as an earlier run wrote them down."""
    found: dict[tuple[int, int], ResponseLikelihood] = {}
    entry: Any = journal[key]
    for row in entry if isinstance(entry, list) else [entry]:
        kinds = [type(value) for value in row] if isinstance(row, list) else []
        if kinds != [int, int, float, int] or row[3] < 1:
            raise OutputError(f"{journal.path}: an entry of {key} is damaged; remove the file to measure anew")
        found[row[0], row[1]] = ResponseLikelihood(row[2], row[3])
    return found


def _read(
    subject: Scorer,
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
    subject: Subject | Scorer,
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
        UsageError: an item does not fit the model's context, or drift is asked of what gives likelihoods alone.
        SubjectError: drift is asked for between subjects that tokenise its answers differently.
        NumericalError: a value is NaN or infinite.
    """
    journal = Journal(folder / "journal.jsonl")
    requests, probes = plan.drift_requests, plan.likelihood_probes
    phases = len(probes) + (bool(requests) and keep_reference) + (bool(requests) and drift_from is not None)
    progress = Phases(progress or Silent(), phases)
    if not isinstance(subject, Subject):
        if requests and (drift_from is not None or keep_reference):
            raise UsageError(
                f"drift compares whole distributions, but {subject.identity.spec} gives likelihoods alone; leave drift "
                "out, or load the model itself"
            )
        measured, known_batches = _ask(subject, probes, journal, progress=progress, seed=seed)
        return Measured(tuple(measured), known_batches)
    if requests and drift_from is not None:
        refuse_other_answers(subject, requests, drift_from)
    measurements, reused = _ask(as_scorer(subject), probes, journal, progress=progress, seed=seed)
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
