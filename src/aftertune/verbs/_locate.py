"""Finding and returning weights, by names."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from aftertune import locating
from aftertune.data import Side
from aftertune.locating import Located, LocateOptions, Repaired
from aftertune.model import Placement
from aftertune.runs import Progress
from aftertune.verbs._opened import Named, chosen

if TYPE_CHECKING:
    import torch


def locate(
    subject: Named,
    harm: Sequence[str | PathLike[str]],
    keep: Sequence[str | PathLike[str]] = (),
    patch: str | PathLike[str] | None = None,
    *,
    options: LocateOptions | None = None,
    tests: Sequence[str | PathLike[str]] = (),
    out: str | PathLike[str] | None = None,
    store: torch.device | str | None = None,
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
        store: device of weight-level accumulators.
        placement: device, dtype and batch bound.
        progress: notified of what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return locating.locate(
        chosen(subject, placement),
        [str(s) for s in harm],
        [str(s) for s in keep],
        None if patch is None else Path(patch),
        options=options,
        tests=[str(s) for s in tests],
        out=None if out is None else Path(out),
        store=store,
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
    store: torch.device | str | None = None,
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
        store: device of weight-level accumulators.
        placement: device, dtype and batch bound.
        progress: notified of what goes on.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return locating.repair(
        chosen(tuned, placement),
        chosen(base, placement),
        [str(s) for s in harm],
        [str(s) for s in task],
        task_answers,
        [str(s) for s in keep],
        None if patch is None else Path(patch),
        options=options,
        out=None if out is None else Path(out),
        store=store,
        progress=progress,
    )
