"""Base against tuned: planted differences, damaged measurements, error rates."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from aftertune.errors import RunError
from aftertune.stats import Finding, Measurement, Policy, all_metrics, compare, decide, find_metric, summarise

CONTINUOUS = [m.id for m in all_metrics() if not m.binary and m.worse in ("higher", "lower") and m.id != "drift.kl"]


def worsening(metric: str) -> float:
    """The sign of damage."""
    found = find_metric(metric)
    assert found is not None
    return 1.0 if found.worse == "higher" else -1.0


def measured(
    metric: str,
    values: Sequence[float],
    *,
    subject: str = "base",
    clusters: Sequence[str] | None = None,
    strata: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Measurement]:
    return [
        Measurement(
            subject=subject,
            seed=seed,
            metric=metric,
            item=f"item-{i}",
            cluster=clusters[i] if clusters else f"prompt-{i}",
            value=float(value),
            stratum=strata[i] if strata else "",
            group=groups[i] if groups else "",
        )
        for i, value in enumerate(values)
    ]


def only(findings: Sequence[Finding], metric: str) -> Finding:
    [finding] = [f for f in findings if f.metric == metric]
    return finding


def spread(count: int, deviation: float) -> np.ndarray:
    """Numbers with mean 0 and the standard deviation given, the same on every call."""
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return np.random.default_rng(0).permutation(z * deviation / z.std())


@pytest.mark.parametrize("metric", CONTINUOUS)
@pytest.mark.parametrize(
    ("margins", "decision"),
    [
        (0.0, "pass"),
        (-3.0, "pass"),
        (0.6, "pass"),
        (0.98, "inconclusive"),
        (1.02, "inconclusive"),
        (1.5, "fail"),
        (4.0, "fail"),
    ],
)
def test_a_planted_worsening_is_judged_against_the_margin(metric: str, margins: float, decision: str) -> None:
    margin = Policy().tolerance(metric)
    base = np.random.default_rng(1).normal(0, 5, 60)
    shift = worsening(metric) * margins * margin
    tuned = base + shift + spread(60, 0.5 * margin)
    finding = only(compare(measured(metric, base), measured(metric, tuned, subject="tuned")), metric)
    assert finding.decision == decision
    assert finding.difference == pytest.approx(shift, abs=1e-9)
    assert finding.base == pytest.approx(base.mean())
    assert finding.tuned == pytest.approx(tuned.mean())
    assert finding.tolerance == margin
    assert finding.interval[0] < finding.difference < finding.interval[1]
    assert (finding.items, finding.clusters) == (60, 60)
    half = stats.t.ppf(0.975, 59) * (tuned - base).std(ddof=1) / math.sqrt(60)
    for end in (shift - finding.interval[0], finding.interval[1] - shift):
        assert half < end < 1.8 * half, "wider than Student's, which holds for normal numbers only"


@pytest.mark.parametrize(("metric", "worst"), [("preference.share", 1), ("capability.accuracy", -1)])
@pytest.mark.parametrize(("flips", "decision"), [(0, "pass"), (20, "inconclusive"), (80, "fail")])
def test_flipped_items_are_judged_against_the_margin(metric: str, worst: int, flips: int, decision: str) -> None:
    base = np.full(200, 0 if worst > 0 else 1)
    tuned = base + worst * (np.arange(200) < flips)
    finding = only(compare(measured(metric, base), measured(metric, tuned)), metric)
    assert finding.decision == decision
    assert finding.difference == pytest.approx(worst * flips / 200)


def test_no_change_on_few_binary_items_is_not_taken_for_proof() -> None:
    same = measured("capability.accuracy", [1.0, 0.0] * 8)
    assert only(compare(same, same), "capability.accuracy").decision == "inconclusive"


def test_scores_of_other_tasks_that_are_grades_are_not_taken_for_proof_either() -> None:
    """No change on n questions is known to 1 - 0.025^(1/n), whether scores are 0 and 1 or finer."""
    for count, decision in ((16, "inconclusive"), (80, "pass")):
        grades = measured("inspect.score:mmlu_0_shot", [1.0, 0.0] * (count // 2))
        finding = only(compare(grades, grades), "inspect.score:mmlu_0_shot")
        assert finding.decision == decision
        assert finding.interval[1] == pytest.approx(1 - 0.025 ** (1 / count), abs=1e-6)
        finer = measured("inspect.score:mmlu_0_shot", [0.5, 0.25] * (count // 2))
        assert only(compare(finer, finer), "inspect.score:mmlu_0_shot").interval == pytest.approx(finding.interval)


@pytest.mark.parametrize(("tolerance", "count"), [(0.05, 71), (0.1, 35)])
def test_no_change_of_a_bounded_metric_passes_from_the_exact_number_of_prompts_on(tolerance: float, count: int) -> None:
    """The least n with 1 - 0.025^(1/n) below the tolerance."""
    policy = Policy(tolerances={"refusal.harmful": tolerance})
    for prompts, decision in ((count, "inconclusive"), (count + 1, "pass")):
        same = measured("refusal.harmful", np.full(prompts, 0.9))
        finding = only(compare(same, same, policy), "refusal.harmful")
        assert finding.decision == decision
        assert (1 - 0.025 ** (1 / prompts) < tolerance) == (decision == "pass")
        assert finding.interval == pytest.approx((0.025 ** (1 / prompts) - 1, 1 - 0.025 ** (1 / prompts)))
        if decision == "inconclusive":
            assert finding.clusters_needed == count + 1
            assert not finding.note


@pytest.mark.parametrize("metric", ["preference.margin", "capability.log_perplexity", "traits.score"])
@pytest.mark.parametrize("shift", [0.0, 0.001, 5.0, -5.0])
@pytest.mark.parametrize("count", [12, 400])
def test_equal_differences_of_a_metric_without_a_range_settle_nothing(metric: str, shift: float, count: int) -> None:
    """They have no spread, and no range says how far an unseen prompt may lie; likelihoods that are the same are."""
    base = np.random.default_rng(4).normal(0, 3, count)
    finding = only(compare(measured(metric, base), measured(metric, base + shift)), metric)
    unmoved = shift == 0 and (find_metric(metric) or all_metrics()[0]).unit.startswith("nats")
    assert (finding.decision, finding.clusters_needed) == ("pass" if unmoved else "inconclusive", None)
    assert ("all differences are equal" in finding.note) == (not unmoved)
    moved = base + shift + spread(count, 1e-4)
    spoken = only(compare(measured(metric, base), measured(metric, moved)), metric)
    assert spoken.decision == ("fail" if shift * worsening(metric) > 1 else "pass")
    assert not spoken.note


def test_items_of_one_prompt_count_once() -> None:
    values = np.repeat(spread(12, 0.2), 10)
    names = [f"prompt-{i // 10}" for i in range(120)]
    base = measured("preference.margin", np.zeros(120), clusters=names)
    together = only(compare(base, measured("preference.margin", values, clusters=names)), "preference.margin")
    apart = only(compare(base, measured("preference.margin", values)), "preference.margin")
    assert (together.items, together.clusters, apart.clusters) == (120, 12, 120)
    assert np.ptp(together.interval) > 2.5 * np.ptp(apart.interval)


def test_strata_weigh_the_same_in_means_and_difference() -> None:
    strata = ["Yes"] * 30 + ["No"] * 10
    base = measured("traits.score", [1.0] * 30 + [3.0] * 10, strata=strata)
    tuned = measured("traits.score", [1.0] * 30 + [5.0] * 10, strata=strata)
    finding = only(compare(base, tuned), "traits.score")
    assert (finding.base, finding.tuned, finding.difference) == pytest.approx((2.0, 3.0, 1.0))


def test_items_are_paired_by_name_and_not_by_position() -> None:
    values = np.random.default_rng(2).normal(0, 10, 40)
    base = measured("preference.margin", values)
    moves = 0.01 + spread(40, 0.001)
    tuned = [replace(m, subject="tuned", value=m.value + move) for m, move in zip(reversed(base), moves, strict=True)]
    finding = only(compare(base, tuned), "preference.margin")
    assert finding.decision == "pass"
    assert finding.difference == pytest.approx(0.01)
    assert finding.interval == pytest.approx((0.01, 0.01), abs=0.001)


def test_seeds_of_the_tuned_side_are_all_compared_with_the_one_base() -> None:
    base = measured("preference.margin", np.zeros(20))
    tuned = [m for seed in (1, 2, 3) for m in measured("preference.margin", 0.3 + spread(20, 0.05), seed=seed)]
    finding = only(compare(base, tuned), "preference.margin")
    assert (finding.items, finding.clusters, finding.decision) == (60, 20, "fail")


@pytest.mark.parametrize("side", ["base", "tuned", "both"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("damaged", [1, 39, 40])
def test_a_value_that_is_no_number_is_never_a_pass(side: str, value: float, damaged: int) -> None:
    def broken(values: np.ndarray) -> np.ndarray:
        return np.where(np.arange(40) < damaged, value, values)

    plain, near = np.zeros(40), spread(40, 0.01)
    assert (
        only(compare(*(measured("preference.margin", v) for v in (plain, near))), "preference.margin").decision
        == "pass"
    )
    base = measured("preference.margin", broken(plain) if side in ("base", "both") else plain)
    tuned = measured("preference.margin", broken(near) if side in ("tuned", "both") else near)
    healthy = measured("refusal.harmful", np.full(80, 0.9))
    findings = compare([*base, *healthy], [*tuned, *healthy])
    finding = only(findings, "preference.margin")
    assert finding.decision == "inconclusive"
    assert "no finite number" in finding.note or "no item has a finite number" in finding.note
    assert only(findings, "refusal.harmful").decision == "pass"
    assert decide(findings).decision == "inconclusive"


def test_measurements_that_are_all_nan_are_never_a_pass() -> None:
    base, tuned = (measured("preference.margin", [v] * 20) for v in (0.0, math.nan))
    try:
        findings = compare(base, tuned)
    except RunError:
        return
    assert decide(findings).decision == "inconclusive"


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("missing", [1, 25])
def test_items_missing_on_one_side_are_never_a_pass(side: str, missing: int) -> None:
    before, after = measured("preference.margin", np.zeros(40)), measured("preference.margin", spread(40, 0.01))
    assert only(compare(before, after), "preference.margin").decision == "pass"
    base, tuned = (before[missing:], after) if side == "base" else (before, after[missing:])
    findings = compare(base, tuned)
    assert only(findings, "preference.margin").decision == "inconclusive"
    assert only(findings, "preference.margin").note.startswith(f"{missing} items")
    assert decide(findings).decision == "inconclusive"


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_deciding_metric_on_one_side_only_is_never_a_pass(side: str) -> None:
    before, after = measured("preference.margin", np.zeros(40)), measured("preference.margin", spread(40, 0.01))
    extra = measured("refusal.harmful", np.full(80, 0.9))
    base, tuned = ([*before, *extra], after) if side == "base" else (before, [*after, *extra])
    findings = compare(base, tuned)
    finding = only(findings, "refusal.harmful")
    assert finding.decision == "inconclusive"
    assert finding.decides
    assert finding.note
    assert only(findings, "preference.margin").decision == "pass"
    assert decide(findings).decision == "inconclusive"


def test_an_informing_metric_on_the_base_only_does_not_stand_in_the_way() -> None:
    before, after = measured("preference.margin", np.zeros(40)), measured("preference.margin", spread(40, 0.01))
    findings = compare([*before, *measured("preference.share", np.zeros(40))], after)
    assert decide(findings).decision == "pass"


def test_two_subjects_without_a_shared_metric_cannot_be_compared() -> None:
    with pytest.raises(RunError, match="share no metric"):
        compare(measured("preference.margin", np.zeros(20)), measured("refusal.harmful", np.zeros(20)))
    with pytest.raises(RunError):
        compare(measured("preference.margin", np.zeros(20)), [])


@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize(("clusters", "settled"), [(9, False), (10, True)])
def test_too_few_prompts_settle_nothing(shift: float, clusters: int, settled: bool) -> None:
    base = measured("preference.margin", np.zeros(clusters))
    finding = only(compare(base, measured("preference.margin", shift + spread(clusters, 0.01))), "preference.margin")
    assert (finding.decision != "inconclusive") == settled
    assert settled or "9 prompts" in finding.note


def test_many_items_of_few_prompts_settle_nothing() -> None:
    names = [f"prompt-{i % 5}" for i in range(100)]
    base = measured("preference.margin", np.zeros(100), clusters=names)
    tuned = measured("preference.margin", spread(100, 0.01), clusters=names)
    finding = only(compare(base, tuned), "preference.margin")
    assert finding.decision == "inconclusive"
    assert "5 prompts" in finding.note


def test_the_least_number_of_prompts_is_the_policys() -> None:
    base, tuned = measured("preference.margin", np.zeros(12)), measured("preference.margin", spread(12, 0.01))
    assert only(compare(base, tuned, Policy(minimum_clusters=13)), "preference.margin").decision == "inconclusive"
    assert only(compare(base, tuned, Policy(minimum_clusters=12)), "preference.margin").decision == "pass"


@pytest.mark.parametrize(("distance", "decision"), [(0.1, "pass"), (5.0, "fail")])
def test_drift_is_compared_with_zero(distance: float, decision: str) -> None:
    shared = measured("preference.margin", np.zeros(20))
    drift = measured("drift.kl", distance + spread(20, 0.05))
    finding = only(compare(shared, [*shared, *drift]), "drift.kl")
    assert (finding.base, finding.decision, finding.decides) == (0.0, decision, True)
    assert finding.difference == pytest.approx(distance)


def test_drift_of_the_base_is_not_missed() -> None:
    shared = measured("preference.margin", np.zeros(20))
    findings = compare([*shared, *measured("drift.kl", np.zeros(20))], shared, Policy(decides={"drift.kl": True}))
    assert [f.metric for f in findings] == ["preference.margin"]


def test_groups_follow_their_metric_and_never_decide() -> None:
    groups = ["money"] * 20 + ["health"] * 20
    base = measured("preference.margin", np.zeros(40), groups=groups)
    moves = np.repeat([0.9, -0.9], 20) + np.tile(spread(20, 0.05), 2)
    tuned = measured("preference.margin", moves, groups=groups)
    findings = compare(base, tuned)
    assert [f.metric for f in findings] == ["preference.margin", "preference.margin/money", "preference.margin/health"]
    money, health = findings[1:]
    assert (money.difference, money.decision, money.decides) == (pytest.approx(0.9), "fail", False)
    assert (health.difference, health.decision, health.decides) == (pytest.approx(-0.9), "pass", False)
    assert (money.items, health.items) == (20, 20)


def test_groups_do_not_change_the_verdict_of_their_metric() -> None:
    base, tuned = np.zeros(40), 0.09 + spread(40, 0.05)
    groups = [f"domain-{i % 4}" for i in range(40)]
    plain = compare(measured("preference.margin", base), measured("preference.margin", tuned))
    grouped = compare(
        measured("preference.margin", base, groups=groups), measured("preference.margin", tuned, groups=groups)
    )
    assert only(plain, "preference.margin") == replace(only(grouped, "preference.margin"), worst=None)
    assert decide(plain) == decide(grouped)


def test_one_group_alone_is_not_repeated() -> None:
    same = measured("preference.margin", np.zeros(20), groups=["money"] * 20)
    assert [f.metric for f in compare(same, same)] == ["preference.margin"]


def test_users_sets_are_judged_by_themselves() -> None:
    near = spread(20, 0.01)
    findings = compare(
        [*measured("preference.margin", np.zeros(20)), *measured("preference.margin:mine", np.zeros(20))],
        [*measured("preference.margin", near), *measured("preference.margin:mine", 0.5 + near)],
    )
    assert only(findings, "preference.margin").decision == "pass"
    assert only(findings, "preference.margin:mine").decision == "fail"
    assert only(findings, "preference.margin:mine").decides


def test_the_policys_margin_and_deciding_metrics_are_used() -> None:
    base, tuned = measured("preference.margin", np.zeros(20)), measured("preference.margin", 0.3 + spread(20, 0.05))
    tolerant = only(compare(base, tuned, Policy(tolerances={"preference.margin": 0.5})), "preference.margin")
    assert (tolerant.tolerance, tolerant.decision) == (0.5, "pass")
    assert not only(compare(base, tuned, Policy(decides={"preference.margin": False})), "preference.margin").decides


def test_results_do_not_change_from_call_to_call() -> None:
    base = measured("preference.margin", np.zeros(30))
    tuned = measured("preference.margin", 0.05 + spread(30, 0.3))
    assert compare(base, tuned) == compare(base, tuned)


def test_findings_survive_the_way_through_json() -> None:
    base = measured("preference.margin", np.zeros(30))
    for finding in compare(base, measured("preference.margin", 0.05 + spread(30, 0.3))):
        assert Finding.from_dict(json.loads(json.dumps(finding.as_dict(), allow_nan=False))) == finding


def test_one_subject_alone_is_summarised_by_metric_and_group() -> None:
    values = 0.5 + spread(40, 0.2)
    groups = ["money"] * 20 + ["health"] * 20
    whole, money, health = summarise(measured("preference.margin", values, groups=groups))
    assert [s.metric for s in (whole, money, health)] == [
        "preference.margin",
        "preference.margin/money",
        "preference.margin/health",
    ]
    assert whole.value == pytest.approx(0.5)
    assert money.value == pytest.approx(values[:20].mean())
    assert (whole.items, money.items, health.clusters) == (40, 20, 20)
    half = stats.t.ppf(0.975, 39) * values.std(ddof=1) / math.sqrt(40)
    for end in (0.5 - whole.interval[0], whole.interval[1] - 0.5):
        assert half < end < 1.8 * half


@pytest.mark.parametrize("difference", [0.05, 0.15])
def test_the_number_of_prompts_said_to_be_needed_settles_the_metric_in_four_of_five_draws(difference: float) -> None:
    base = np.zeros(16)
    pilot = only(
        compare(measured("preference.margin", base), measured("preference.margin", difference + spread(16, 0.13))),
        "preference.margin",
    )
    needed = pilot.clusters_needed
    assert pilot.decision == "inconclusive"
    assert needed is not None
    assert 16 < needed < 100
    rng = np.random.default_rng(3)
    zero = measured("preference.margin", np.zeros(needed))
    settled = [
        compare(zero, measured("preference.margin", rng.normal(difference, 0.13, needed)))[0].decision
        for _ in range(120)
    ]
    share = 1 - settled.count("inconclusive") / len(settled)
    assert 0.68 <= share <= 0.92
    assert ("fail" if difference < 0.1 else "pass") not in settled


def test_a_settled_metric_needs_no_more_prompts() -> None:
    base = measured("preference.margin", np.zeros(20))
    for shift in (0.0, 0.5):
        finding = only(compare(base, measured("preference.margin", shift + spread(20, 0.02))), "preference.margin")
        assert finding.clusters_needed is None


def test_prompts_said_to_be_needed_are_more_than_there_were() -> None:
    values = spread(40, 0.05)
    base = measured("preference.margin", np.zeros(40))
    for tuned in (
        measured("preference.margin", np.where(np.arange(40) == 0, math.nan, values)),
        measured("preference.margin", 0.095 + values),
        measured("preference.margin", values)[:5],
    ):
        finding = only(compare(base, tuned), "preference.margin")
        assert finding.decision == "inconclusive"
        assert finding.clusters_needed is None or finding.clusters_needed > finding.clusters
