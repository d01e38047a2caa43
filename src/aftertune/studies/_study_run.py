"""What all studies share: one folder, measured once, told again as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aftertune.runs import RunFolder, entered, explain_damage, read_document, write_json

STUDY = "study.json"


def kept_study(
    run: RunFolder, measure: Callable[[], Mapping[str, Any]], rebuild: Callable[[Path], Path]
) -> dict[str, Any]:
    """Measure unless that was done, keep the document, write the report.

    Args:
        run: the study's folder; locked meanwhile.
        measure: gives the document; not called where it is there.
        rebuild: writes the report from the folder.

    Returns:
        The document as it is on disk, and where.

    Raises:
        OutputError: the folder holds something else, or may not be written.
    """
    with entered(run):
        if not run.finished:
            write_json(run.path / STUDY, measure())
            run.write_manifest(status="finished")
        with explain_damage(run.path):  # which may lie there since long
            rebuild(run.path)
            document: dict[str, Any] = read_document(run.path / STUDY)
    return {**document, "run": str(run.path)}
