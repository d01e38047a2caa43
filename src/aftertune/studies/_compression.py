"""Compression: does a better aligned checkpoint carry harm in fewer weights than the one it came from?

Claim (Orgad et al. 2026, finding 3): aligned checkpoints compress; their trade-off of harm removed against benign cost
is better. Each checkpoint's weights are searched with the same sets and budget; the figure is the harm removed within
the budget, and the mean of that over all smaller budgets (the area under the trade-off curve, per budget).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aftertune.data import Conversation, read_tuning_rows
from aftertune.errors import UsageError
from aftertune.locating import LocateOptions, Point, area_under, locate, removal_at
from aftertune.stats import ClaimResult, Outcome
from aftertune.studies._lab import Arm, Figure, Reading, Results, Scale, Study
from aftertune.studies._sets import HARM
from aftertune.studies._steps import Tune
from aftertune.studies._workshop import Lab
from aftertune.tuning import TuneOptions

ALIGNING = TuneOptions(steps=20, batch_size=8, lr=5e-4, warmup_steps=0)


@dataclass(frozen=True)
class SearchedFor:
    """A reading: the search of `locate`, with its curve and its claims on held-out prompts.

    Attributes:
        harm: harm sets.
        options: unit, score, budget.
    """

    harm: tuple[str, ...] = HARM
    options: LocateOptions = field(default_factory=LocateOptions)

    def document(self, lab: Lab, subject: str, folder: Path) -> dict[str, Any]:
        """What is kept of the search of one checkpoint; see `checkpoint_row`."""
        lab.release()
        found = locate(lab.choice(subject), self.harm, options=self.options, out=folder / "search",
                       progress=lab.progress)  # fmt: skip
        return checkpoint_row(found.curve, found.document["claims"], self.options.budget)


def checkpoint_row(curve: Sequence[Point], claims: Sequence[Mapping[str, Any]], budget: float) -> dict[str, Any]:
    """What is kept of a search.

    Args:
        curve: every point of the search; those of the patch alone count.
        claims: of the patch on held-out prompts.
        budget: benign loss it may cost, nats per token.
    """
    points = [p for p in curve if p.label == "patch"]
    return {
        "budget": budget,
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
    """Which of two checkpoints compresses better: only where its own patch holds on held-out prompts.

    The curves are of the part that the edits were chosen on, where the better of two that do nothing is chance.
    """
    before, aligned = rows
    better = aligned if aligned["mean_removed"] > before["mean_removed"] else before
    if better["claims"][0]["outcome"] != "holds":
        return "inconclusive"
    return "holds" if better is aligned else "does not hold"


def compresses(results: Results) -> list[ClaimResult]:
    """The claim of this study: it rests on two curves, so it has no interval."""
    rows = [results.documents[arm.name, None] for arm in results.study.arms]
    before, aligned = (row["mean_removed"] for row in rows)
    return [
        ClaimResult(
            "The aligned checkpoint loses more harm at the same benign cost",
            compression_outcome(rows),
            f"mean harm removed over budgets up to {rows[0]['budget']:g}: {before:+.3f} before, {aligned:+.3f} "
            "aligned, nats per token, on the part it was chosen on; one pair of checkpoints, no interval",
        )
    ]


def curves(results: Results) -> list[Figure]:
    """Harm removed against benign cost, one line for each checkpoint."""
    rows = {arm.name: results.documents[arm.name, None] for arm in results.study.arms}
    lines = [
        {
            "label": name,
            "points": [{"x": p["cost"], "y": p["removed"], "note": f"{p['units']:,} units"} for p in row["points"]],
            "emphasis": name == "aligned",
        }
        for name, row in rows.items()
    ]
    return [
        {
            "kind": "trade_off",
            "title": "Harm removed against benign cost",
            "guide": "On the selection part of the same sets.",
            "x_label": "benign cost",
            "y_label": "harm removed",
            "lines": lines,
            "budget": next(iter(rows.values()))["budget"],
        },
        {
            "kind": "table",
            "title": "Checkpoints",
            "guide": "",
            "header": ["checkpoint", "removed within the budget", "mean over smaller budgets"],
            "rows": [[n, f"{r['removed_within_budget']:+.3f}", f"{r['mean_removed']:+.3f}"] for n, r in rows.items()],
            "numeric": [1, 2],
        },
    ]


STUDY = Study(
    "compression",
    "does an aligned checkpoint carry harm in fewer weights?",
    "Orgad et al. 2026, finding 3",
    rank=30,
    arms=(Arm("before"), Arm("aligned", (Tune(safety_rows, ALIGNING, source="safety"),))),
    readings=(Reading(SearchedFor()),),
    also=compresses,
    figure=curves,
    scales={
        "smoke": Scale(
            rows=8, steps=1, options={"batch_size": 4},
            settings={"harm": HARM[:1], "options": LocateOptions(limit=4, score="snip-contrast", keep_fraction=0.0)},
        ),
    },
    differs=("One pair of checkpoints says nothing about how others would come out.",),
)  # fmt: skip
