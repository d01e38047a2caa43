"""Which checkpoint compresses better, from curves whose better one is known."""

from __future__ import annotations

from typing import Any

import pytest

from aftertune.data import shipped_contrasts
from aftertune.locating import Point
from aftertune.studies._compression import checkpoint_row, compression_outcome, safety_rows

BUDGET = 0.05


def curve(removed: float) -> list[Point]:
    """A patch that removes so much per budget spent, beyond which all is cheap, and controls that remove far more."""

    def point(label: str, units: int, cost: float, gain: float) -> Point:
        return Point(label, "snip-guarded", units / 100, 0.0, units, units, gain, cost, {})

    inside = [point("patch", k, BUDGET * k / 4, removed * k / 4) for k in (1, 2, 3, 4)]
    beyond = point("patch", 8, 2 * BUDGET, 50.0 - 50 * removed)
    return [*inside, beyond, *(point(label, 4, 0.001, 9.0) for label in ("random", "opposite", "guarded, keep 0"))]


def claims(outcome: str) -> list[dict[str, Any]]:
    """Only the first of them is of the patch's own effect."""
    other = "does not hold" if outcome == "holds" else "holds"
    return [{"text": "it falls", "outcome": outcome}, {"text": "more than random", "outcome": other}]


@pytest.mark.parametrize(
    ("before", "aligned", "outcome"),
    [
        ((0.1, "holds"), (0.4, "holds"), "holds"),
        ((0.1, "inconclusive"), (0.4, "holds"), "holds"),
        ((0.4, "holds"), (0.1, "holds"), "does not hold"),
        ((0.4, "holds"), (0.1, "inconclusive"), "does not hold"),
        ((0.1, "holds"), (0.4, "inconclusive"), "inconclusive"),
        ((0.4, "does not hold"), (0.1, "holds"), "inconclusive"),
        ((0.2, "holds"), (0.2, "holds"), "does not hold"),
    ],
)
def test_the_better_checkpoint_is_told_if_its_own_patch_holds(
    before: tuple[float, str], aligned: tuple[float, str], outcome: str
) -> None:
    rows = [checkpoint_row(curve(removed), claims(held), BUDGET) for removed, held in (before, aligned)]
    assert compression_outcome(rows) == outcome


def test_a_row_is_of_the_patch_within_the_budget() -> None:
    row = checkpoint_row(curve(0.4), claims("holds"), BUDGET)
    assert [p["label"] for p in row["points"]] == ["patch"] * 5
    assert row["removed_within_budget"] == pytest.approx(0.4)
    assert row["mean_removed"] == pytest.approx(0.2, rel=1e-2)  # a straight line from nothing to 0.4
    assert row["claims"] == claims("holds")


def test_it_is_aligned_on_both_halves_of_the_safety_set_and_searched_on_neither() -> None:
    rows = safety_rows()
    assert len(rows) > 100
    prompts = {m.content for row in rows for m in row.messages if m.role == "user"}
    assert not prompts & {c.prompt for c in shipped_contrasts("dev")}
