"""The report of an audit, or of a comparison of logs, from its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.report._sections import ReportPage
from aftertune.runs import explain_damage, read_manifest
from aftertune.verbs import stored_section


def audit_page(folder: Path) -> ReportPage:
    """The report of a finished audit or comparison, from what its folder holds."""
    manifest, section = read_manifest(folder), stored_section(folder)
    with explain_damage(folder):
        return ReportPage(
            title=f"Audit of {section.title}",
            lede=f"{section.title} against {section.base['spec']}",
            sections=(section,),
            manifest=manifest,
            commands=(str(manifest.get("command", "")),),
            notes=(*((section.verdict.note,) if section.verdict.note else ()), *_marks(manifest)),
            redact=bool(manifest["config"].get("redact")),
        )


def _marks(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be said of the judges that a run rests on."""
    graders = dict.fromkeys(
        str(n) for task in manifest.get("asked", ()) for names in task["graders"].values() for n in names
    )
    if not graders:
        return ()
    from aftertune.judges import offline_note  # brings Inspect with it

    return tuple(filter(None, map(offline_note, graders)))
