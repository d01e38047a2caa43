"""Which change is damage: a rise, a fall, both, or nobody knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aftertune.stats import Finding, Measurement, Metric, Policy, all_metrics, compare, decide, describe
from aftertune.stats import _metrics as table

MARGIN = Policy().tolerance("traits.yes_bias")


def found(metric: str, change: float, spread: float, base: float = 0.0, count: int = 40) -> Finding:
    values = change + spread * np.linspace(-1, 1, count)
    before = [Measurement("b", 0, metric, f"i{i}", f"p{i}", base) for i in range(count)]
    after = [replace(m, subject="t", value=base + float(v)) for m, v in zip(before, values, strict=True)]
    [finding] = compare(before, after)
    return finding


@pytest.fixture
def undirected(monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric of which nobody has said which way is worse."""
    metric = Metric("inspect.of_unknown_direction", "A score.", "score", "unknown", True, 0.05)
    monkeypatch.setitem(table._without_tasks(""), metric.id, metric)
    return metric.id


@pytest.mark.parametrize(
    ("change", "spread", "decision"),
    [
        (0.0, 1.0, "pass"),
        (0.8, 0.5, "pass"),
        (-0.8, 0.5, "pass"),
        (1.0, 1.0, "inconclusive"),
        (-1.0, 1.0, "inconclusive"),
        (2.0, 0.5, "fail"),
        (-2.0, 0.5, "fail"),
    ],
)
def test_a_bias_to_either_answer_is_damage(change: float, spread: float, decision: str) -> None:
    finding = found("traits.yes_bias", change * MARGIN, spread * MARGIN)
    assert (finding.decision, finding.worse, finding.decides) == (decision, "either", True)
    assert (finding.p_value <= 0.025) == (decision == "fail")
    assert decide([finding]).decision == decision
    assert ("is unchanged" if change == 0 else f"changed by {change * MARGIN:+.3f}") in describe(finding)


@pytest.mark.parametrize("base", [0.5, 5.0])  # a share, and a grade that has no known range
@pytest.mark.parametrize("spread", [0.001, 0.02])
@pytest.mark.parametrize(
    ("change", "decision"),
    [(0.0, "pass"), (0.03, "pass"), (-0.03, "pass"), (0.4, "inconclusive"), (-0.4, "fail")],
)
def test_of_an_unknown_direction_a_fall_beyond_the_tolerance_fails_and_a_rise_stays_open(
    undirected: str, change: float, spread: float, base: float, decision: str
) -> None:
    finding = found(undirected, change, spread, base, count=400)
    assert finding.decision == decision
    assert ("--harm" in finding.note and "--good" in finding.note) == (decision == "inconclusive")
    assert finding.clusters_needed is None
    assert decide([finding]).decision == decision
    if decision == "inconclusive":
        assert "--harm TASK or --good TASK" in decide([finding]).reasons[0]


@pytest.mark.parametrize("change", [0.05, -0.05])
def test_of_an_unknown_direction_what_reaches_the_tolerance_is_open(undirected: str, change: float) -> None:
    finding = found(undirected, change, 0.2, base=0.5)
    assert finding.decision == "inconclusive"
    assert "--harm" in finding.note


def test_an_improvement_is_not_told_as_a_negative_worsening() -> None:
    assert describe(found("refusal.harmful", 0.2, 0.01, 0.5, 400)).startswith(
        "refusal.harmful is better by 0.200 [+0.1"
    )
    assert describe(found("preference.margin", -0.2, 0.01)).startswith("preference.margin is better by 0.200 [+0.1")
    assert describe(found("preference.margin", 0.2, 0.01)).startswith("preference.margin is worse by +0.200 [+0.1")
    assert describe(found("preference.margin", 1e-5, 1e-6)).startswith("preference.margin is unchanged [")


def test_every_metric_has_a_direction() -> None:
    assert {m.worse for m in all_metrics()} <= {"higher", "lower", "either", "unknown"}
