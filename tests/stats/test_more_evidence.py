"""More evidence never weakens a verdict, and what that costs: error rates and power, simulated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from aftertune.stats import Finding, Measurement, Policy, all_metrics, compare, decide, find_metric

# Continuous metrics that decide by default, without what else would decide on a pass.
FREE = ("preference.margin", "capability.log_perplexity", "drift.kl", "preference.margin:own", "preference.margin:two")


def measured(metric: str, worsenings: Sequence[float] | NDArray[np.float64]) -> list[Measurement]:
    """One number for each prompt."""
    return [Measurement("s", 0, metric, f"i{i}", f"p{i}", float(v)) for i, v in enumerate(worsenings)]


def against_zero(rows: list[Measurement], policy: Policy | None = None) -> dict[str, Finding]:
    """Findings against a base whose every number is 0."""
    return {f.metric: f for f in compare([replace(m, value=0.0) for m in rows], rows, policy)}


def exactly(mean: float, deviation: float, count: int) -> NDArray[np.float64]:
    """Numbers with this very mean and standard deviation."""
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return np.asarray(mean + deviation * z / z.std(ddof=1))


def holm_rejects(p_values: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Whether Holm 1979 rejects each hypothesis, one family a row: what the verdict did before."""
    order = np.argsort(p_values, axis=1)
    ranked = np.take_along_axis(p_values, order, axis=1) * (p_values.shape[1] - np.arange(p_values.shape[1]))
    stepped = np.maximum.accumulate(ranked, axis=1) <= level
    out = np.zeros_like(stepped)
    np.put_along_axis(out, order, stepped, axis=1)
    return out


# --- monotone -------------------------------------------------------------------------------------------


def test_a_metric_is_decided_alike_alone_and_among_many() -> None:
    """The borderline failures that a correction over all metrics would take back."""
    failing = measured("preference.margin", exactly(0.133, 0.255, 288))
    alone = against_zero(failing)["preference.margin"]
    assert alone.decision == "fail"
    assert 0.01 < alone.p_value < 0.025
    many = [*failing]
    for metric in FREE[1:]:
        many += measured(metric, exactly(0.0, 0.01, 40))
        found = against_zero(many)
        assert found["preference.margin"] == alone
        assert decide(list(found.values())).decision == "fail"


levels = st.tuples(st.sampled_from([-3.0, 0.0, 0.7, 1.0, 1.25, 1.6, 4.0]), st.sampled_from([0.05, 0.6, 1.5]))


@settings(max_examples=15, deadline=None)
@given(st.lists(levels, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_what_is_measured_besides_never_changes_a_metrics_decision(worlds: list[tuple[float, float]], order) -> None:  # type: ignore[no-untyped-def]
    sets = {}
    for metric, (level, spread) in zip(FREE, worlds, strict=False):
        margin = Policy().tolerance(metric)
        sets[metric] = measured(metric, exactly(level * margin, spread * margin, 20))
    alone = {metric: against_zero(rows)[metric] for metric, rows in sets.items()}
    names = list(sets)
    order.shuffle(names)
    together: list[Measurement] = []
    failed = False
    for name in names:
        together += sets[name]
        found = against_zero(together)
        assert found == {known: alone[known] for known in found}
        verdict = decide(list(found.values())).decision
        assert verdict == "fail" or not failed
        failed = verdict == "fail"
    assert failed == any(f.decision == "fail" for f in alone.values())


DECISIONS = ("pass", "fail", "inconclusive", "not testable")


@given(st.lists(st.tuples(st.sampled_from(DECISIONS), st.booleans(), st.booleans()), max_size=7), st.data())
def test_no_further_finding_takes_a_failure_back(drawn: list[tuple[str, bool, bool]], data) -> None:  # type: ignore[no-untyped-def]
    def made(decision: str, decides: bool, allowed: bool) -> Finding:
        return Finding(
            "preference.margin", 0, 0, 0, (0, 0), 0.1, decision, decides, "higher", 9, 9, 0.4,  # type: ignore[arg-type]
            allowed=allowed and decision == "not testable",
        )  # fmt: skip

    findings = [made(*one) for one in drawn]
    before = decide(findings).decision
    assert (before == "fail") == any(f.decides and f.decision == "fail" for f in findings)
    extra = made(*data.draw(st.tuples(st.sampled_from(DECISIONS), st.booleans(), st.booleans())))
    at = data.draw(st.integers(0, len(findings)))
    after = decide([*findings[:at], extra, *findings[at:]]).decision
    if before == "fail":
        assert after == "fail"
    if before == "inconclusive" and any(f.stands_in_the_way for f in findings):
        assert after != "pass"
    if extra.stands_in_the_way:
        assert after != "pass"


@pytest.mark.parametrize("level", [1.2, 1.6, 3.0])
def test_more_prompts_of_the_same_kind_never_take_a_failure_back(level: float) -> None:
    decisions = [
        against_zero(measured("preference.margin", exactly(level * 0.1, 0.15, n)))["preference.margin"].decision
        for n in (12, 24, 48, 96, 192, 384)
    ]
    assert decisions == sorted(decisions, key=("inconclusive", "fail").index)
    assert decisions[-1] == "fail"


# --- error rates and power ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [24])
def test_each_metric_at_its_tolerance_fails_as_rarely_as_promised(count: int) -> None:
    """The least favourable truth: every metric exactly at its tolerance. The promise is one for each metric."""
    rng, audits, fails, passes, verdicts = np.random.default_rng(11), 40, 0, 0, 0
    metrics = FREE[:3]
    for _ in range(audits):
        rows = []
        for metric in metrics:
            margin = Policy().tolerance(metric)
            rows += measured(metric, rng.normal(margin, 1.5 * margin, count))
        found = list(against_zero(rows).values())
        fails += sum(f.decision == "fail" for f in found)
        passes += sum(f.decision == "pass" for f in found)
        verdicts += decide(found).decision == "fail"
    trials = audits * len(metrics)
    assert fails <= stats.binom.ppf(0.999, trials, 0.03)
    assert passes <= stats.binom.ppf(0.999, trials, 0.03)
    assert verdicts <= stats.binom.ppf(0.999, audits, 1 - 0.97 ** len(metrics))


def test_a_harmless_model_does_not_fail_the_more_metrics_decide() -> None:
    """At no effect the tolerance is far away, so the claims do not add up to anything."""
    rng = np.random.default_rng(12)
    for _ in range(20):
        rows = [row for metric in FREE for row in measured(metric, rng.normal(0, Policy().tolerance(metric), 24))]
        assert decide(list(against_zero(rows).values())).decision != "fail"


def simulated(deciding: int, worsening: float, runs: int = 120_000) -> tuple[float, float, float, float]:
    """Chances of a failure by t-tests of 48 prompts, in per cent: verdict by ours and Holm, one metric by ours and Holm.

    The first metric is ``worsening`` standard errors beyond the tolerance, the others are exactly at it (0) or, for
    power, at no effect: four standard errors below.
    """
    rng, n = np.random.default_rng(deciding), 48
    means = np.full((runs, deciding), 0.0 if worsening == 0 else -4.0)
    means[:, 0] = worsening
    z = rng.normal(means, 1.0)
    t = z / np.sqrt(rng.chisquare(n - 1, (runs, deciding)) / (n - 1))
    p = stats.t.sf(t, n - 1)
    ours, holm = p <= 0.025, holm_rejects(p, 0.025)
    return tuple(100 * float(x.mean()) for x in (ours.any(1), holm.any(1), ours[:, 0], holm[:, 0]))  # type: ignore[return-value]


def test_the_documented_error_rates_and_powers_are_what_is_simulated() -> None:
    page = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", page, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 4, 7, 12]
    for row in rows:
        deciding = int(row[0])
        wrong, wrong_holm, *_ = simulated(deciding, 0.0)
        _, _, power, power_holm = simulated(deciding, 2.85)
        assert [float(x) for x in row[1:]] == pytest.approx([wrong, wrong_holm, power, power_holm], abs=0.6)
        assert wrong == pytest.approx(100 * (1 - 0.975**deciding), abs=0.5)
        assert wrong <= 2.5 * deciding + 0.3


@pytest.mark.parametrize("truth", [0.05, 0.16])
def test_the_prompts_said_to_be_needed_settle_it_in_four_of_five_runs_whatever_else_decides(truth: float) -> None:
    pilot = measured("preference.margin", exactly(truth, 0.2, 40))
    others = [row for metric in FREE[1:] for row in measured(metric, exactly(0.0, 0.01, 12))]
    found = against_zero([*pilot, *others])["preference.margin"]
    assert found.decision == "inconclusive"
    assert found.clusters_needed is not None
    assert found.clusters_needed == against_zero(pilot)["preference.margin"].clusters_needed
    rng, runs = np.random.default_rng(6), 100
    expected = "fail" if truth > 0.1 else "pass"
    settled = sum(
        against_zero(measured("preference.margin", rng.normal(truth, 0.2, found.clusters_needed)))[
            "preference.margin"
        ].decision
        == expected
        for _ in range(runs)
    )
    assert 0.68 <= settled / runs <= 0.92


def test_a_count_is_given_only_where_more_prompts_would_settle_it() -> None:
    rows = measured("preference.margin", exactly(0.09, 0.2, 40))
    assert against_zero(rows)["preference.margin"].clusters_needed
    broken = [replace(rows[0], value=float("nan")), *rows[1:]]
    assert against_zero(broken)["preference.margin"].clusters_needed is None
    few = against_zero(measured("preference.margin", exactly(0.3, 0.2, 6)))["preference.margin"]
    assert few.decision == "inconclusive"
    assert few.clusters_needed is not None
    assert few.clusters_needed >= 10


# --- what decides by default ----------------------------------------------------------------------------


def test_what_decides_by_default() -> None:
    probes = {m.id for m in all_metrics() if m.decides and find_metric(m.id) is m and m.id.partition(".")[0] in {
        "preference", "traits", "refusal", "capability", "truthful", "drift", "recognition", "explanation", "response",
    }}  # fmt: skip
    assert probes == {
        "preference.margin", "traits.yes_bias", "refusal.harmful", "refusal.harmless", "capability.log_perplexity",
        "capability.choice_probability", "truthful.mc2", "drift.kl",
    }  # fmt: skip


@pytest.mark.parametrize("metric", [m.id for m in all_metrics() if m.decides and m.unit not in ("share", "score")])
def test_damage_in_any_deciding_metric_fails_alone(metric: str) -> None:
    """And an improvement as large does not."""
    found = find_metric(metric)
    assert found is not None
    values = exactly(0.5, 0.02, 400)
    base = measured(metric, np.zeros(400) if metric == "drift.kl" else values)
    shift = (-1 if found.worse == "lower" else 1) * 5 * found.tolerance * np.linspace(0.9, 1.1, 400)
    damaged = measured(metric, (0 if metric == "drift.kl" else values) + shift)
    assert decide(compare(base, damaged)).decision == "fail"
    better = measured(metric, values - shift)
    expected = "fail" if found.worse == "either" else "pass"
    if metric != "drift.kl":
        assert decide(compare(base, better, Policy(untestable="allow"))).decision == expected
