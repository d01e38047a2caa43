"""The studies known by name. A new study is one file beside this one and one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftertune.studies._compression import compression_study, rebuild_compression_report
from aftertune.studies._dissociation import dissociation_study, rebuild_dissociation_report
from aftertune.studies._planted import planted_study
from aftertune.studies._planted_report import rebuild_planted_report
from aftertune.studies._prune_then_tune import prune_then_tune_study, rebuild_prune_then_tune_report
from aftertune.studies._transfer import rebuild_transfer_report, transfer_study


@dataclass(frozen=True)
class StudyRow:
    """What the table says of a study.

    Attributes:
        name: what `aftertune study` calls it.
        about: one line for lists.
        source: the paper and finding it tests.
        run: runs it; takes ``out``, ``subject``, ``placement`` and ``progress``.
        rebuild: writes the report of its run folder anew.
    """

    name: str
    about: str
    source: str
    run: Callable[..., dict[str, Any]]
    rebuild: Callable[[Path], Path]


STUDIES: tuple[StudyRow, ...] = (
    StudyRow("planted", "can a method find weights that are known to carry a behaviour?", "ours",
             planted_study, rebuild_planted_report),
    StudyRow("transfer", "do weights found on one kind of harm carry the others?", "Orgad et al. 2026, finding 2",
             transfer_study, rebuild_transfer_report),
    StudyRow("compression", "does an aligned checkpoint carry harm in fewer weights?", "Orgad et al. 2026, finding 3",
             compression_study, rebuild_compression_report),
    StudyRow("dissociation", "does a patched model still recognise and explain harm?", "Orgad et al. 2026, finding 5",
             dissociation_study, rebuild_dissociation_report),
    StudyRow("prune_then_tune", "does pruning beforehand stop narrow tuning from spreading?",
             "Orgad et al. 2026, finding 4", prune_then_tune_study, rebuild_prune_then_tune_report),
)  # fmt: skip


def find_study(name: str) -> StudyRow | None:
    """The study of that name, or None."""
    return next((row for row in STUDIES if row.name == name), None)
