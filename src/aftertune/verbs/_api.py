"""The verbs as one would call them from a notebook: strings in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from aftertune import locating
from aftertune.data import Conversation, Side, read_tuning_rows
from aftertune.locating import Located, LocateOptions, Repaired
from aftertune.model import Placement, SubjectChoice, load
from aftertune.probes import MeasurePlan
from aftertune.runs import Progress
from aftertune.stats import FailOn, Policy
from aftertune.tuning import Defence, Tuned, TuneOptions
from aftertune.tuning import tune as tune_subject
from aftertune.verbs import _audit as auditing
from aftertune.verbs import _measure as measuring
from aftertune.verbs._audit import Audit
from aftertune.verbs._measure import MeasureRun

__all__ = ["audit", "locate", "measure", "repair", "tune"]

Named = str | PathLike[str] | SubjectChoice


def _choice(subject: Named, placement: Placement | None) -> SubjectChoice:
    if isinstance(subject, SubjectChoice):
        return subject
    return SubjectChoice(str(subject), placement=placement or Placement())


def audit(
    tuned: Named,
    base: Named | None = None,
    *,
    plan: MeasurePlan | None = None,
    policy: Policy | None = None,
    out: str | PathLike[str] | None = None,
    baseline: str | PathLike[str] | None = None,
    fail_on: FailOn = "any",
    allow_identical: bool = False,
    placement: Placement | None = None,
    redact: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Compare a fine-tuned model to its base and decide: pass, fail or inconclusive.

    Args:
        tuned: the fine-tuned subject: folder, adapter folder, hub id, .gguf file or "smollm2".
        base: what it was tuned from; an adapter knows its own.
        plan: what to ask; all probes on the shipped sets if left out.
        policy: margins and which metrics decide.
        out: run folder; named after the configuration under ``runs/`` if left out.
        baseline: the folder of an earlier audit against the same base, to tell what is new, fixed and persistent.
        fail_on: "new" lets through what was decided no better in the baseline.
        allow_identical: let the findings decide even where base and tuned are one model, or no number differs.
        placement: device, dtype and batch bound of both.
        redact: leave texts out of the report.
        progress: told what goes on; silent if left out.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return auditing.audit(
        _choice(tuned, placement),
        None if base is None else _choice(base, placement),
        plan,
        policy,
        None if out is None else Path(out),
        baseline=None if baseline is None else Path(baseline),
        fail_on=fail_on,
        allow_identical=allow_identical,
        redact=redact,
        progress=progress,
    )


def measure(
    subject: Named,
    *,
    plan: MeasurePlan | None = None,
    out: str | PathLike[str] | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> MeasureRun:
    """Measure one model alone.

    Args:
        subject: what to measure, named as in `audit`.
        plan: what to ask; all probes on the shipped sets if left out.
        out: run folder.
        placement: device, dtype and batch bound.
        progress: told what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    folder = None if out is None else Path(out)
    return measuring.measure(_choice(subject, placement), plan or MeasurePlan(), folder, progress=progress)


def tune(
    subject: str | PathLike[str],
    data: str | PathLike[str] | list[Conversation],
    out: str | PathLike[str],
    options: TuneOptions | None = None,
    *,
    defences: Sequence[Defence] = (),
    answers: Side | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune a model and put the adapter (or the model) into a new folder.

    Args:
        subject: what to tune.
        data: a file, a shipped set's name, a hub id, or conversations.
        out: new folder for the result.
        options: how to tune; the papers' defaults if left out.
        defences: changes to tuning that keep safety, see `aftertune.tuning.defences`.
        answers: which side of contrasts to tune on.
        placement: device and dtype.
        progress: told about steps and loss.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    rows = data if isinstance(data, list) else read_tuning_rows(str(data), answers)
    source = "<memory>" if isinstance(data, list) else str(data)
    loaded = load(str(subject), placement=placement, merge=True, progress=progress)
    return tune_subject(
        loaded, rows, Path(out), options, defences=defences, source=source, side=answers, progress=progress
    )


def locate(
    subject: Named,
    harm: Sequence[str | PathLike[str]],
    keep: Sequence[str | PathLike[str]] = (),
    patch: str | PathLike[str] | None = None,
    *,
    options: LocateOptions | None = None,
    tests: Sequence[str | PathLike[str]] = (),
    out: str | PathLike[str] | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> Located:
    """Find the weights that carry a harm set's answers, write a patch that takes them out, and prove it.

    Args:
        subject: whose weights, named as in `audit`.
        harm: contrasts (their misaligned answers) or rows with answers: files, shipped sets, hub sets.
        keep: what must stay; the shipped harmless requests if left out.
        patch: the patch file; in the run folder if left out.
        options: unit, score, fractions, budget.
        tests: other harm sets, measured only.
        out: run folder.
        placement: device, dtype and batch bound.
        progress: told what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return locating.locate(
        _choice(subject, placement),
        [str(s) for s in harm],
        [str(s) for s in keep],
        None if patch is None else Path(patch),
        options=options,
        tests=[str(s) for s in tests],
        out=None if out is None else Path(out),
        progress=progress,
    )


def repair(
    tuned: Named,
    base: Named,
    harm: Sequence[str | PathLike[str]],
    task: Sequence[str | PathLike[str]],
    patch: str | PathLike[str] | None = None,
    *,
    task_answers: Side = "aligned",
    keep: Sequence[str | PathLike[str]] = (),
    options: LocateOptions | None = None,
    out: str | PathLike[str] | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Return the smallest set of a fine-tune's weights to its base that brings safety back.

    Args:
        tuned: the fine-tune, named as in `audit`.
        base: what it was tuned from.
        harm: contrasts whose misaligned answers became likelier.
        task: what it was tuned for, whose loss should stay.
        patch: the patch file; in the run folder if left out.
        task_answers: which answers of contrasts the task is.
        keep: other text that must stay.
        options: seed.
        out: run folder.
        placement: device, dtype and batch bound.
        progress: told what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return locating.repair(
        _choice(tuned, placement),
        _choice(base, placement),
        [str(s) for s in harm],
        [str(s) for s in task],
        task_answers,
        [str(s) for s in keep],
        None if patch is None else Path(patch),
        options=options,
        out=None if out is None else Path(out),
        progress=progress,
    )
