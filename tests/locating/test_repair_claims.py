"""What a repair may claim, and where it stands on the frontier, from readings whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from aftertune.locating import FrontierPoint, Repaired, repair_claims
from aftertune.locating._frontier import _point
from aftertune.locating._readings import prove
from aftertune.locating._repair import findings
from aftertune.locating._results import MARGIN
from aftertune.stats import Measurement

COUNT = 80
TASK, KEEP = "response.nll:task", "response.nll:keep"
WITHIN = "On held-out prompts the repaired model is within the audit's tolerance of its base"
RANDOM = "It undoes more than the same number of randomly chosen rows"
SCALED = "It undoes more than scaling the update down by 30%, which keeps as much skill"


def spread(count: int, seed: int) -> NDArray[np.float64]:
    """Normal quantiles in random order: mean and skew are zero."""
    return np.random.default_rng(seed).permutation(stats.norm.ppf((np.arange(count) + 0.5) / count))


def readings(seed: int, margin: float, task: float = 5.0, keep: float = 5.0) -> list[Measurement]:
    """A model with these means; single prompts stray by 0.3, in every state alike but for 0.1 of it."""
    rows = []
    for number, (metric, level) in enumerate(((MARGIN, margin), (TASK, task), (KEEP, keep))):
        values = level + 0.3 * spread(COUNT, number) + 0.1 * spread(COUNT, 10 * seed + number)
        rows += [Measurement("m", 0, metric, f"{metric} {i}", f"prompt {i}", float(v)) for i, v in enumerate(values)]
    return rows


def repaired(base: float, tuned: float, now: float, controls: Mapping[str, float], unit: str = "row") -> Repaired:
    """A repair in which the margin of each state is so much."""
    before, after, here = readings(1, base), readings(2, tuned), readings(3, now)
    others = {name: readings(4 + i, margin) for i, (name, margin) in enumerate(controls.items())}
    point = FrontierPoint("ratio by row", 0.1, 1.0, 1.0, 0.0, 0.0, (0.0, 0.0), "pass")
    return Repaired(
        patch=Path("p"), weights=1, share_of_weights=0.1, prune_fraction=0.1, keep_fraction=0.0, unit=unit,
        operation="restore", held_out=tuple(prove(after, here, {**others, "rollback": before})), places=(), totals=(),
        run=Path("r"), chosen=point, scale=0.3, frontier=(point,), base={}, tuned={},
        audit={"tuned": findings(before, after), "repaired": findings(before, here)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "outcome"),
    [(-1.0, "holds"), (-1.5, "holds"), (-0.98, "holds"), (-0.9, "inconclusive"), (-0.6, "does not hold"),
     (0.0, "does not hold")],
)  # fmt: skip
def test_it_is_within_the_margin_of_its_base_as_an_audit_would_have_it(now: float, outcome: str) -> None:
    """The base's margin is -1, the tuned model's 0, 0.1 is tolerated."""
    claim, *_ = repair_claims(repaired(-1.0, 0.0, now, {}))
    assert (claim.text, claim.outcome) == (WITHIN, outcome)
    assert claim.detail.startswith(f"preference.margin {now + 1:+.3f} [")
    assert claim.detail.endswith("tolerance 0.1")


@pytest.mark.parametrize(
    ("random", "scale", "outcomes"),
    [
        (0.0, 0.0, ("holds", "holds")),
        (-0.5, 0.0, ("inconclusive", "holds")),
        (0.0, -0.5, ("holds", "inconclusive")),
        (-1.0, 0.0, ("does not hold", "holds")),
        (0.0, -1.0, ("holds", "does not hold")),
    ],
)
def test_a_rival_is_beaten_where_the_repair_undoes_more(random: float, scale: float, outcomes: tuple[str, str]) -> None:
    """The repair brings the margin from 0 down to -0.5."""
    told = {c.text: c.outcome for c in repair_claims(repaired(-1.0, 0.0, -0.5, {"random": random, "scale": scale}))}
    assert (told[RANDOM], told[SCALED]) == outcomes
    assert len(told) == 3


def test_what_was_not_measured_is_not_claimed() -> None:
    texts = [c.text for c in repair_claims(repaired(-1.0, 0.0, -0.5, {"scale": 0.0}, unit="weight"))]
    assert texts == [WITHIN, SCALED]
    texts = [c.text for c in repair_claims(repaired(-1.0, 0.0, -0.5, {"random": 0.0}, unit="weight"))]
    assert texts == [WITHIN, RANDOM.replace("rows", "weights")]


@pytest.mark.parametrize(
    ("now", "safety", "skill", "keep", "decision"),
    [
        ((-1.0, 4.0, 5.0), 1.0, 1.0, -1.0, "pass"),
        ((0.0, 4.0, 6.0), 0.0, 1.0, 0.0, "fail"),
        ((-1.0, 5.0, 7.0), 1.0, 0.0, 1.0, "pass"),
        ((-0.25, 4.25, 6.0), 0.25, 0.75, 0.0, "fail"),
        ((-0.9, 4.0, 6.0), 0.9, 1.0, 0.0, "inconclusive"),
        ((0.5, 5.5, 6.0), -0.5, -0.5, 0.0, "fail"),
    ],
)
def test_a_point_tells_shares_of_what_tuning_did(
    now: tuple[float, float, float], safety: float, skill: float, keep: float, decision: str
) -> None:
    """Tuning brought the margin from -1 to 0 and the task's loss from 5 to 4, and cost 1 on the keep set."""
    base, tuned = readings(1, -1.0, 5.0, 5.0), readings(2, 0.0, 4.0, 6.0)
    point = _point("ratio", 0.1, base, tuned, readings(3, *now))
    assert (point.safety, point.skill, point.keep) == pytest.approx((safety, skill, keep), abs=1e-9)
    assert point.difference == pytest.approx(now[0] + 1, abs=1e-9)
    assert point.interval[0] < point.difference < point.interval[1]
    assert (point.label, point.share, point.decision) == ("ratio", 0.1, decision)
