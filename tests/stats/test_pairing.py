"""Which numbers are held against which: by item and seed, nothing lost, strata alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from aftertune.stats import Finding, Measurement, compare, decide

MARGIN, PROSE, DRIFT = "preference.margin", "capability.log_perplexity", "drift.kl"


def readings(
    shift: float = 0.0, *, metric: str = MARGIN, count: int = 40, seed: int = 0, noise: int = 0
) -> list[Measurement]:
    """One number for each of so many prompts; ``noise`` tells states apart by 0.01."""
    values = np.random.default_rng(7).normal(size=count) + shift
    if noise:
        values = values + 0.01 * np.random.default_rng(noise).normal(size=count)
    return [Measurement("m", seed, metric, f"i{i}", f"p{i}", float(v)) for i, v in enumerate(values)]


def found(base: list[Measurement], tuned: list[Measurement], metric: str = MARGIN) -> Finding:
    [finding] = [f for f in compare(base, tuned) if f.metric == metric]
    return finding


def test_each_seed_is_held_against_its_own_base() -> None:
    """The second seed's base and tuned model both lie higher by 3: tuning moved nothing in either."""
    base = [*readings(), *readings(3.0, seed=1)]
    tuned = [*readings(noise=1), *readings(3.0, seed=1, noise=2)]
    finding = found(base, tuned)
    assert finding.difference == pytest.approx(0.0, abs=0.01)
    assert (finding.items, finding.clusters) == (80, 40)
    assert finding.decision == "pass"


def test_several_seeds_of_tuning_share_one_base() -> None:
    finding = found(readings(), [*readings(0.5, noise=1), *readings(0.7, seed=1, noise=2)])
    assert finding.difference == pytest.approx(0.6, abs=0.01)
    assert (finding.items, finding.clusters, finding.decision) == (80, 40, "fail")


@pytest.mark.parametrize("shift", [0.0, 2.0])
@pytest.mark.parametrize("lost", ["absent", "NaN", "NaN before", "infinite"])
def test_an_item_without_two_numbers_leaves_it_open(shift: float, lost: str) -> None:
    """Neither a pass nor a fail, whatever the others say."""
    base, tuned = readings(), readings(shift, noise=1)
    if lost == "absent":
        tuned = tuned[1:]
    elif lost == "NaN before":
        base[0] = replace(base[0], value=math.nan)
    else:
        tuned[0] = replace(tuned[0], value=math.nan if lost == "NaN" else math.inf)
    finding = found(base, tuned)
    assert finding.decision == "inconclusive"
    assert finding.note.startswith("1 items")
    assert finding.items == 39
    assert found(base[1:], [m for m in tuned if m.item != "i0"]).decision == ("fail" if shift else "pass")


def test_many_answers_to_few_prompts_are_few() -> None:
    base = [replace(m, cluster=f"p{i % 9}") for i, m in enumerate(readings(count=90))]
    tuned = [replace(m, cluster=f"p{i % 9}") for i, m in enumerate(readings(2.0, count=90, noise=1))]
    finding = found(base, tuned)
    assert (finding.decision, finding.clusters, finding.items) == ("inconclusive", 9, 90)


def test_what_was_asked_of_the_base_alone_is_missed() -> None:
    findings = compare([*readings(), *readings(metric=PROSE)], readings(noise=1))
    missing = next(f for f in findings if f.metric == PROSE)
    assert (missing.decision, missing.decides, missing.items) == ("inconclusive", True, 0)
    assert decide(findings).decision == "inconclusive"
    assert decide(compare(readings(), readings(noise=1))).decision == "pass"


def test_strata_weigh_the_same() -> None:
    """Of three items in four everything is worse by 1, of the others nothing."""

    def placed(rows: list[Measurement]) -> list[Measurement]:
        return [replace(m, stratum="few" if i % 4 == 0 else "many") for i, m in enumerate(rows)]

    tuned = [replace(m, value=m.value + (i % 4 != 0)) for i, m in enumerate(readings(noise=1))]
    finding = found(placed(readings()), placed(tuned))
    assert finding.difference == pytest.approx(0.5, abs=0.01)
    assert finding.tuned - finding.base == pytest.approx(0.5, abs=0.01)


def test_drift_is_held_against_nothing() -> None:
    """A base has no distance from itself, whatever number stands there."""
    drifted = [replace(m, value=abs(m.value)) for m in readings(metric=DRIFT)]
    expected = np.mean([m.value for m in drifted])
    for base in (readings(), [*readings(), *drifted]):
        finding = found(base, [*readings(noise=1), *drifted], DRIFT)
        assert finding.difference == pytest.approx(expected)


def test_an_item_is_not_an_observation_where_its_prompt_is_another_s_too() -> None:
    """Four answers to each of 40 prompts that move alike are 40 observations."""
    base, tuned = readings(), [replace(m, value=m.value + 0.1 * (i % 5)) for i, m in enumerate(readings(noise=1))]
    often = [[replace(m, item=f"{m.item} {k}") for m in rows for k in range(4)] for rows in (base, tuned)]
    once, four = found(base, tuned), found(*often)
    assert (once.clusters, four.clusters, four.items) == (40, 40, 160)
    assert four.interval == pytest.approx(once.interval, abs=1e-9)
