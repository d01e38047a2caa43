"""Fine-tuning by names: a model, data and a folder."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from aftertune.data import Conversation, Side, read_tuning_rows
from aftertune.model import Placement, load
from aftertune.runs import Progress
from aftertune.tuning import Defence, Tuned, TuneOptions
from aftertune.tuning import tune as tune_subject


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
        progress: notified of steps and loss.

    Raises:
        AftertuneError: see `aftertune.errors`.
    """
    rows = data if isinstance(data, list) else read_tuning_rows(str(data), answers)
    source = "<memory>" if isinstance(data, list) else str(data)
    loaded = load(str(subject), placement=placement, merge=True, progress=progress)
    return tune_subject(
        loaded, rows, Path(out), options, defences=defences, source=source, side=answers, progress=progress
    )
