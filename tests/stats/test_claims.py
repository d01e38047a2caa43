"""Claims put to the test: planted worlds, Holm over a study, and what is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from aftertune.stats import (
    ClaimResult,
    ClaimTest,
    Effects,
    Expect,
    Outcome,
    decide_claim,
    decide_claims,
    recipe_mean,
)

EXPECTATIONS: tuple[Expect, ...] = get_args(Expect)


def planted(mean: float, prompts: int = 40, seeds: int = 3, seed: int = 0, spread: float = 0.3) -> Effects:
    """Effects whose mean is exactly as planted, with a spread over prompts, over seeds, and of single answers."""
    rng = np.random.default_rng(seed)
    values = spread * (
        rng.normal(size=(prompts, 1)) + 0.1 * rng.normal(size=(1, seeds)) + 0.3 * rng.normal(size=(prompts, seeds))
    )
    return table(values - values.mean() + mean)


def table(values: NDArray[np.float64], seeded: bool = True) -> Effects:
    items = tuple(f"item-{i}" for i in range(len(values)))
    return Effects(items, items, ("",) * len(items), tuple(range(values.shape[1])) if seeded else (), values)


def claim(effects: Effects, expect: Expect, tolerance: float = 0.0) -> ClaimTest:
    return ClaimTest("A sentence", "preference.margin", effects, expect, tolerance)


def decided(effects: Effects, expect: Expect, tolerance: float = 0.0) -> ClaimResult:
    (found,) = decide_claims([claim(effects, expect, tolerance)])
    return found


def outcomes(tests: Sequence[ClaimTest]) -> list[str]:
    return [found.outcome for found in decide_claims(tests)]


# Two worlds for each kind of claim, and one in which nobody can know


@pytest.mark.parametrize(
    ("expect", "tolerance", "true", "false", "open_"),
    [
        ("lower", 0.0, -0.4, 0.4, 0.01),
        ("lower", 0.2, -0.6, -0.01, -0.21),
        ("higher", 0.0, 0.4, -0.4, -0.01),
        ("higher", 0.2, 0.6, 0.01, 0.19),
        ("within", 0.3, 0.05, 0.8, 0.29),
        ("within", 0.3, -0.05, -0.8, -0.31),
    ],
)
def test_a_claim_holds_where_it_is_true_and_does_not_where_it_is_false(
    expect: Expect, tolerance: float, true: float, false: float, open_: float
) -> None:
    assert decided(planted(true), expect, tolerance).outcome == "holds"
    assert decided(planted(false), expect, tolerance).outcome == "does not hold"
    assert decided(planted(open_), expect, tolerance).outcome == "inconclusive"


@pytest.mark.parametrize("mean", [-0.4, 0.4])
def test_a_sign_turned_turns_the_outcome(mean: float) -> None:
    effects = planted(mean)
    turned = table(np.zeros_like(effects.values)).minus(effects)
    for expect, other in (("lower", "higher"), ("higher", "lower")):
        assert decided(effects, expect).outcome == decided(turned, other).outcome != decided(turned, expect).outcome


def test_what_one_seed_shows_the_recipe_need_not() -> None:
    """Three seeds apart by more than their prompts: each alone is clear, together they leave it open."""
    values = 0.1 * np.random.default_rng(1).normal(size=(60, 1)) + np.array([[0.5, 0.1, -0.2]])
    values = values + 0.01 * np.random.default_rng(2).normal(size=(60, 3))
    alone = [decided(table(values[:, [i]]), "higher") for i in range(3)]
    assert [found.outcome for found in alone] == ["holds", "holds", "does not hold"]
    assert {found.scope for found in alone} == {"this one fine-tune"}
    together = decided(table(values), "higher")
    assert (together.outcome, together.scope, together.seeds) == ("inconclusive", "the recipe", 3)


def test_seeds_that_are_one_file_do_not_make_a_recipe() -> None:
    column = planted(0.4, seeds=1).values
    found = decided(table(np.repeat(column, 4, axis=1)), "higher")
    assert (found.seeds, found.scope) == (1, "this one fine-tune")
    assert found.detail.endswith("the 4 seeds count as 1, since some give the same numbers")


def test_items_of_one_prompt_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(3)
    by_prompt = 0.3 * rng.normal(size=(8, 1)) + 0.01 * rng.normal(size=(8, 3))
    by_prompt += 0.15 - by_prompt.mean()
    effects = table(np.repeat(by_prompt, 20, axis=0))
    assert decided(effects, "higher").outcome == "holds"  # each item on its own
    grouped = replace(effects, clusters=tuple(f"prompt-{i // 20}" for i in range(160)))
    assert decided(grouped, "higher").outcome == "inconclusive"
    assert decided(grouped, "higher").prompts == 8


def test_no_claim_is_made_of_what_is_missing_or_has_no_spread() -> None:
    effects = planted(0.4)
    broken = effects.values.copy()
    broken[2, 1] = math.inf
    found = decided(replace(effects, values=broken), "higher")
    assert found == ClaimResult(
        "A sentence", "inconclusive", "1 of 120 numbers are missing", "preference.margin",
        p_value=1.0, prompts=40, seeds=3, scope="the recipe",
    )  # fmt: skip
    same = decided(table(np.full((40, 1), 0.4)), "higher")
    assert (same.outcome, same.value, same.low, same.high) == ("inconclusive", 0.4, None, None)
    assert same.detail == "+0.4, the same for 40 prompts: nothing is known of the spread"


def test_the_detail_gives_the_numbers_that_are_stored() -> None:
    found = decided(planted(0.4), "higher")
    low, high = recipe_mean(planted(0.4)).interval()
    assert (found.value, found.low, found.high) == (pytest.approx(0.4), low, high)
    assert found.detail == f"+0.4 [{low:+.3g}, {high:+.3g}] over 40 prompts and 3 seeds"
    one_model = decided(table(planted(0.4, seeds=1).values, seeded=False), "higher")
    assert one_model.detail.endswith("over 40 prompts")
    assert one_model.scope == "this model"


# The rule


@given(st.sampled_from(EXPECTATIONS), st.floats(-2, 2), st.floats(0, 2), st.floats(0.01, 1))
def test_the_rule_says_what_every_number_within_the_interval_says(
    expect: Expect, low: float, width: float, tolerance: float
) -> None:
    high = low + width
    inside = np.linspace(low, high, 401)
    true = {"lower": inside < -tolerance, "higher": inside > tolerance, "within": abs(inside) < tolerance}[expect]
    found = decide_claim(expect, low, high, tolerance)
    if found == "holds":
        assert true.all()
    if found == "does not hold":
        assert not true.any()
    if true.any() and not true.all():
        assert found == "inconclusive"


def test_the_edges_belong_to_what_is_not_claimed() -> None:
    assert decide_claim("lower", 0.0, 1.0) == decide_claim("higher", -1.0, 0.0) == "does not hold"
    assert decide_claim("lower", -1.0, 0.0) == decide_claim("higher", 0.0, 1.0) == "inconclusive"
    assert decide_claim("within", -0.1, 0.05, 0.1) == "inconclusive"
    assert decide_claim("within", -math.inf, math.inf, 0.1) == "inconclusive"


@pytest.mark.parametrize(("expect", "tolerance"), [("within", 0.0), ("lower", -0.1), ("higher", math.nan)])
def test_a_tolerance_that_makes_no_claim_is_refused(expect: Expect, tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        decide_claim(expect, -1, 1, tolerance)


# P-values and Holm


def test_within_is_two_one_sided_tests() -> None:
    effects = table(np.random.default_rng(4).normal(0.05, 0.4, size=(50, 1)))
    column = effects.values[:, 0]
    lower = stats.ttest_1samp(column, -0.2, alternative="greater").pvalue
    upper = stats.ttest_1samp(column, 0.2, alternative="less").pvalue
    assert decided(effects, "within", 0.2).p_value == pytest.approx(max(lower, upper))
    far = decided(effects, "within", 0.001).p_value
    assert far == pytest.approx(stats.ttest_1samp(column, 0.001, alternative="greater").pvalue)


@pytest.mark.parametrize("expect", ["lower", "higher"])
def test_a_p_value_is_one_sided_and_of_the_nearer_outcome(expect: Expect) -> None:
    effects = table(np.random.default_rng(5).normal(0.1, 0.4, size=(50, 1)))
    limit = 0.05 if expect == "higher" else -0.05
    two_sided = stats.ttest_1samp(effects.values[:, 0], limit).pvalue
    assert decided(effects, expect, 0.05).p_value == pytest.approx(two_sided / 2)


@given(st.sampled_from(EXPECTATIONS), st.floats(-0.4, 0.4), st.sampled_from([0.8, 0.95, 0.99]))
def test_one_claim_alone_is_decided_by_its_interval(expect: Expect, mean: float, confidence: float) -> None:
    """P-value and interval are one rule: Holm over one claim changes nothing."""
    (found,) = decide_claims([claim(planted(mean), expect, 0.1)], confidence)
    assert found.low is not None
    assert found.high is not None
    assert found.p_value is not None
    assert found.outcome == decide_claim(expect, found.low, found.high, 0.1)
    assert (found.outcome != "inconclusive") == (found.p_value <= (1 - confidence) / 2)


def test_an_outcome_must_survive_holm_over_the_study() -> None:
    weak = claim(planted(0.11), "higher")
    alone = decided(weak.effects, "higher")
    assert alone.outcome == "holds"
    assert 0.01 < (alone.p_value or 0) < 0.025
    study = decide_claims([weak, *[claim(planted(0.0, seed=s), "lower") for s in range(1, 5)]])
    assert study[0].outcome == "inconclusive"
    assert study[0].p_value == pytest.approx(5 * (alone.p_value or 0))
    assert study[0].detail.endswith("by Holm, 0.025 allowed")
    assert (study[0].low, study[0].high) == (alone.low, alone.high)
    sure = decide_claims([weak, *[claim(planted(-0.8, seed=s), "lower") for s in range(1, 5)]])
    assert [found.outcome for found in sure] == ["holds"] * 5


def test_a_claim_of_which_nothing_is_known_counts_among_the_claims() -> None:
    unknown = claim(table(np.full((40, 1), 0.4)), "higher")
    assert outcomes([claim(planted(0.11), "higher"), unknown]) == ["inconclusive", "inconclusive"]


def test_in_studies_of_four_claims_a_wrong_outcome_is_rare() -> None:
    """All four effects are 0, so "higher than 0" is false only by a hair: at the edge, both outcomes are wrong."""
    rng = np.random.default_rng(6)
    wrong, uncorrected, runs = 0, 0, 200
    for _ in range(runs):
        tests = [claim(table(rng.normal(size=(20, 1))), "higher") for _ in range(4)]
        wrong += any(found.outcome == "holds" for found in decide_claims(tests))
        uncorrected += any(decided(test.effects, "higher").outcome == "holds" for test in tests)
    assert wrong / runs <= 0.045  # 2.5 % and twice its standard error
    assert uncorrected / runs >= 0.06  # 9.6 % expected


def test_an_empty_study_has_no_claims() -> None:
    assert decide_claims([]) == []


# Stored


def test_a_result_comes_back_from_json() -> None:
    for found in (
        decided(planted(0.4), "higher"),
        ClaimResult("Short", "holds"),
        ClaimResult("S", "inconclusive", "d"),
    ):
        assert ClaimResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert ClaimResult("Short", "holds", "0.3").as_dict() == {"text": "Short", "outcome": "holds", "detail": "0.3"}


def test_the_first_versions_word_for_inconclusive_is_read() -> None:
    found = ClaimResult.from_dict({"text": "Harm falls", "outcome": "cannot be told", "detail": ""})
    assert found == ClaimResult("Harm falls", "inconclusive")
    assert found.as_dict()["outcome"] == "inconclusive"


@pytest.mark.parametrize(
    ("stored", "field"),
    [
        ({"text": "T"}, "outcome"),
        ({"text": "T", "outcome": "maybe"}, "outcome"),
        ({"text": "T", "outcome": "holds", "odds": 1}, "odds"),
        ({"text": "T", "outcome": "holds", "value": "much"}, "value"),
        ({"text": "T", "outcome": "holds", "high": math.inf}, "high"),
        ({"text": "T", "outcome": "holds", "scope": "everybody"}, "scope"),
    ],
)
def test_what_is_no_result_is_refused(stored: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ClaimResult.from_dict(stored)


def test_outcomes_are_three() -> None:
    assert get_args(Outcome) == ("holds", "does not hold", "inconclusive")
