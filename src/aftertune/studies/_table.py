"""The studies known by name. A new study is one file beside this one and one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftertune.errors import OutputError
from aftertune.report import StudyPage
from aftertune.runs import read_manifest
from aftertune.studies._compression import compression_page, compression_study
from aftertune.studies._dissociation import dissociation_page, dissociation_study
from aftertune.studies._planted import planted_study
from aftertune.studies._planted_report import planted_page
from aftertune.studies._prune_then_tune import prune_then_tune_page, prune_then_tune_study
from aftertune.studies._transfer import transfer_page, transfer_study


@dataclass(frozen=True)
class StudyRow:
    """What the table says of a study.

    Attributes:
        name: what `aftertune study` calls it.
        about: one line for lists.
        source: the paper and finding it tests.
        run: runs it; takes ``out``, ``subject``, ``placement`` and ``progress``.
        page: makes its report of a finished run's folder.
    """

    name: str
    about: str
    source: str
    run: Callable[..., dict[str, Any]]
    page: Callable[[Path], StudyPage]


STUDIES: tuple[StudyRow, ...] = (
    StudyRow("planted", "can a method find weights that are known to carry a behaviour?", "ours",
             planted_study, planted_page),
    StudyRow("transfer", "do weights found on one kind of harm carry the others?", "Orgad et al. 2026, finding 2",
             transfer_study, transfer_page),
    StudyRow("compression", "does an aligned checkpoint carry harm in fewer weights?", "Orgad et al. 2026, finding 3",
             compression_study, compression_page),
    StudyRow("dissociation", "does a patched model still recognise and explain harm?", "Orgad et al. 2026, finding 5",
             dissociation_study, dissociation_page),
    StudyRow("prune_then_tune", "does pruning beforehand stop narrow tuning from spreading?",
             "Orgad et al. 2026, finding 4", prune_then_tune_study, prune_then_tune_page),
)  # fmt: skip


def find_study(name: str) -> StudyRow | None:
    """The study of that name, or None."""
    return next((row for row in STUDIES if row.name == name), None)


def study_page(folder: Path) -> StudyPage:
    """The report of a finished study.

    Raises:
        OutputError: this version does not know the study.
    """
    verb = str(read_manifest(folder)["verb"])
    row = find_study(verb.removeprefix("study "))
    if row is None:
        raise OutputError(f"{folder}: holds a study this version does not know ({verb})")
    return row.page(folder)
