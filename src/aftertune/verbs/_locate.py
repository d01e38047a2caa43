"""Searching for weights and repairing a fine-tune, each ending with its report."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aftertune import locating
from aftertune.data import Side
from aftertune.locating import Located, LocateOptions, PatchDocument, Repaired
from aftertune.model import Placement
from aftertune.runs import Progress
from aftertune.verbs._draw import draw
from aftertune.verbs._opened import Named, chosen

if TYPE_CHECKING:
    import torch

Sets = Sequence[str | PathLike[str]]
D = TypeVar("D", bound=PatchDocument)


def locate(
    subject: Named,
    harm: Sets,
    keep: Sets = (),
    patch: str | PathLike[str] | None = None,
    *,
    options: LocateOptions | None = None,
    tests: Sets = (),
    out: str | PathLike[str] | None = None,
    store: torch.device | str | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> Located:
    """Find the weights that carry a harm set's answers, write a patch that removes them, and prove it.

    Args:
        subject: whose weights, named as in `audit`.
        harm: contrasts (their misaligned answers) or rows with answers: files, shipped sets, hub sets.
        keep: what must stay likely; the shipped harmless requests if left out.
        patch: the patch file; in the run folder if left out.
        options: unit, score, fractions, budget.
        tests: other harm sets, measured only.
        out: run folder.
        store: device of weight-level gradient sums.
        placement: device, dtype and batch bound, where ``subject`` is a name.
        progress: where progress is shown.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return _drawn(
        locating.locate(
            chosen(subject, placement), _names(harm), _names(keep), _path(patch),
            options=options, tests=_names(tests), out=_path(out), store=store, progress=progress,
        )
    )  # fmt: skip


def repair(
    tuned: Named,
    base: Named,
    harm: Sets,
    task: Sets,
    patch: str | PathLike[str] | None = None,
    *,
    task_answers: Side = "aligned",
    keep: Sets = (),
    options: LocateOptions | None = None,
    out: str | PathLike[str] | None = None,
    store: torch.device | str | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Return the smallest set of a fine-tune's weights to its base that restores safety.

    Args:
        tuned: the fine-tune, named as in `audit`.
        base: what it was tuned from.
        harm: contrasts whose misaligned answers became likelier.
        task: what it was tuned for, whose loss should stay.
        patch: the patch file; in the run folder if left out.
        task_answers: which answers of contrasts the task is.
        keep: other text that must stay likely.
        options: seed, limit, ``prune_fraction``.
        out: run folder.
        store: device of gradient sums.
        placement: device, dtype and batch bound, where models are named.
        progress: where progress is shown.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    return _drawn(
        locating.repair(
            chosen(tuned, placement), chosen(base, placement), _names(harm), _names(task), task_answers,
            _names(keep), _path(patch), options=options, out=_path(out), store=store, progress=progress,
        )
    )  # fmt: skip


def _drawn(found: D) -> D:
    if not (found.run / "report.html").exists():
        draw(found.run)
    return found


def _names(sets: Sets) -> list[str]:
    return [str(name) for name in sets]


def _path(given: str | PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)
