"""Compression: does a better aligned checkpoint carry harm in fewer weights than the one it came from?

Claim (Orgad et al. 2026, finding 3): aligned checkpoints compress; their trade-off of harm removed against benign cost
is better. Each checkpoint's weights are searched with the same sets and budget; the figure is the harm removed within
the budget, and the mean of that over all smaller budgets (the area under the trade-off curve, per budget).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aftertune.data import Conversation, read_tuning_rows
from aftertune.errors import UsageError
from aftertune.locating import LocateOptions, Point, area_under, locate, removal_at
from aftertune.model import EMBEDDED, Placement, SubjectChoice, load, subject_content
from aftertune.report import Claim, Outcome, StudyPage, Table, TradeOff, TradeOffLine, TradeOffPoint, render_study
from aftertune.runs import Progress, RunFolder, Silent, read_manifest, refuse_other_model, write_text
from aftertune.studies._study_run import kept_study
from aftertune.tuning import TuneOptions, tune

ALIGNING = TuneOptions(steps=20, batch_size=8, lr=5e-4, warmup_steps=0)
HARM = ("dev/health", "dev/sport_safety", "dev/relationships", "dev/honesty_at_work")


def compression_study(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    aligned: str | None = None,
    harm: Sequence[str] = HARM,
    options: LocateOptions | None = None,
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search two checkpoints with the same sets and compare their trade-off curves.

    Args:
        out: run folder (``runs/compression`` if left out).
        subject: the earlier checkpoint.
        aligned: the later one; if left out, ``subject`` is tuned on the shipped safety set.
        harm: harm sets.
        options: unit, score, budget.
        placement: device, dtype, batch bound.
        progress: told what goes on.
    """
    progress, placement, options = progress or Silent(), placement or Placement(), options or LocateOptions()
    config = {
        "subject": subject, "aligned": aligned, "harm": list(harm), "options": options.model_dump(),
        "content": [subject_content(spec) for spec in (subject, aligned) if spec],
        "placement": asdict(placement), "aligning": None if aligned else ALIGNING.model_dump(),
    }  # fmt: skip
    run = RunFolder(out or Path("runs") / "compression", "study compression", config)
    return kept_study(run, lambda: _run(run, subject, aligned, harm, options, placement, progress),
                      rebuild_compression_report)  # fmt: skip


def _run(
    run: RunFolder, subject: str, aligned: str | None, harm: Sequence[str], options: LocateOptions,
    placement: Placement, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    if aligned is None:
        aligned = str(run.path / "checkpoint")  # beside the search's own folder
        if not Path(aligned).exists():
            progress.say("tuning on the safety set")
            base = load(subject, placement=placement, merge=True)
            refuse_other_model(run, "subject", base.content)
            tune(base, safety_rows(), Path(aligned), ALIGNING,
                 source="safety", progress=progress)  # fmt: skip
    rows = []
    for name, spec in (("before", subject), ("aligned", aligned)):
        found = locate(SubjectChoice(spec, placement=placement), harm, options=options,
                       out=run.path / name, progress=progress)  # fmt: skip
        rows.append(checkpoint_row(name, spec, found.curve, found.document["claims"], options.budget))
    return {"study": "compression", "budget": options.budget, "checkpoints": rows}


def checkpoint_row(
    name: str, spec: str, curve: Sequence[Point], claims: Sequence[Mapping[str, Any]], budget: float
) -> dict[str, Any]:
    """What is kept of the search of one checkpoint.

    Args:
        name: "before" or "aligned".
        spec: the checkpoint.
        curve: every point of the search; those of the patch alone count.
        claims: of the patch on held-out prompts.
        budget: benign loss it may cost, nats per token.
    """
    points = [p for p in curve if p.label == "patch"]
    return {
        "checkpoint": name,
        "spec": spec,
        "removed_within_budget": removal_at(points, budget),
        "mean_removed": area_under(points, budget),
        "points": [asdict(p) for p in points],
        "claims": list(claims),
    }


def safety_rows() -> list[Conversation]:
    """Refusals of harmful requests and helpful answers to their look-alikes, in turn."""
    harmful, harmless = read_tuning_rows("safety/harmful"), read_tuning_rows("safety/harmless")
    if len(harmful) != len(harmless):
        raise UsageError("the two halves of the safety set differ in length")
    return [row for pair in zip(harmful, harmless, strict=True) for row in pair]


def compression_outcome(rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Which checkpoint compresses better, told only if its own patch holds on held-out prompts.

    The curves are of the part that the edits were chosen on, where the better of two that do nothing is chance.
    """
    before, aligned = rows
    better = aligned if aligned["mean_removed"] > before["mean_removed"] else before
    if better["claims"][0]["outcome"] != "holds":
        return "cannot be told"
    return "holds" if better is aligned else "does not hold"


def compression_page(folder: Path) -> StudyPage:
    """The report of a finished study."""
    document = json.loads((folder / "study.json").read_text("utf-8"))
    rows: list[Mapping[str, Any]] = document["checkpoints"]
    before, aligned = (row["mean_removed"] for row in rows)
    lines = tuple(
        TradeOffLine(
            row["checkpoint"],
            tuple(TradeOffPoint(p["cost"], p["removed"], f"{p['units']:,} units") for p in row["points"]),
            emphasis=row["checkpoint"] == "aligned",
        )
        for row in rows
    )
    return StudyPage(
        title="Compression of two checkpoints",
        lede="Does alignment gather what carries harm in fewer weights?",
        claims=(
            Claim(
                "The aligned checkpoint loses more harm at the same benign cost",
                compression_outcome(rows),
                f"mean harm removed over budgets up to {document['budget']:g}: {before:+.3f} before, {aligned:+.3f} "
                "aligned, nats per token, on the part it was chosen on; one pair of checkpoints, no interval",
            ),
        ),
        sections=(
            TradeOff(
                "Harm removed against benign cost",
                "On the selection part of the same sets.",
                "benign cost",
                "harm removed",
                lines,
                budget=document["budget"],
            ),
            Table(
                "Checkpoints",
                "",
                ("checkpoint", "removed within the budget", "mean over smaller budgets"),
                tuple((r["spec"], f"{r['removed_within_budget']:+.3f}", f"{r['mean_removed']:+.3f}") for r in rows),
                frozenset({1, 2}),
            ),
        ),
        manifest=read_manifest(folder),
        commands=("aftertune study compression",),
        notes=("One pair of checkpoints says nothing of how it would come out with others.",),
    )


def rebuild_compression_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished study anew."""
    write_text(folder / "report.html", render_study(compression_page(folder)))
    return folder / "report.html"
