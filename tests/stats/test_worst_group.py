"""A mean may hide a group: the worst one is named, and one that is surely worse stands in the way of a pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aftertune.stats import Finding, Measurement, Policy, compare, decide, describe


def found(
    metric: str,
    groups: dict[str, np.ndarray],
    *,
    base: float = 0.5,
    policy: Policy | None = None,
    clusters: int | None = None,
) -> Finding:
    """The whole metric's finding of changes by group."""
    before, after = [], []
    for group, changes in groups.items():
        for i, change in enumerate(changes):
            prompt = f"{group}-{i % clusters if clusters else i}"
            before.append(Measurement("b", 0, metric, f"{group}-{i}", prompt, base, group=group))
            after.append(Measurement("t", 0, metric, f"{group}-{i}", prompt, base + float(change), group=group))
    return next(f for f in compare(before, after, policy) if f.metric == metric)


def around(mean: float, spread: float = 0.05, count: int = 36) -> np.ndarray:
    return mean + spread * np.linspace(-1, 1, count)


def eight(worst: float, metric: str = "preference.margin", **options: object) -> Finding:
    groups = {f"d{i}": around(0.0) for i in range(7)}
    return found(metric, {**groups, "odd": around(worst)}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("metric", "sign"), [("preference.margin", 1), ("capability.choice_probability", -1)])
def test_one_domain_far_beyond_the_tolerance_is_no_pass(metric: str, sign: int) -> None:
    finding = eight(sign * 0.4, metric)
    assert finding.decision == "inconclusive"
    assert finding.worst is not None
    assert (finding.worst.group, finding.worst.clusters, finding.worst.groups) == ("odd", 36, 8)
    assert finding.worst.difference == pytest.approx(sign * 0.4)
    assert "odd" in finding.note
    assert finding.clusters_needed is None, "more prompts would not mend it"
    assert "worst in odd: is worse by +0.400" in describe(finding)
    assert decide([finding]).decision == "inconclusive"


@pytest.mark.parametrize(("metric", "sign"), [("preference.margin", -1), ("capability.choice_probability", 1)])
def test_one_domain_far_better_passes(metric: str, sign: int) -> None:
    finding = eight(sign * 0.4, metric)
    assert finding.decision == "pass"
    assert finding.worst is not None
    assert finding.worst.group != "odd"


def test_either_direction_of_one_group_is_damage_where_either_is() -> None:
    margin = Policy().tolerance("traits.yes_bias")
    for sign in (1, -1):
        finding = eight(sign * 2 * margin, "traits.yes_bias")
        assert finding.decision == "inconclusive"
        assert finding.worst is not None
        assert finding.worst.group == "odd"


def test_a_group_that_is_not_surely_beyond_does_not_stand_in_the_way() -> None:
    rng = np.random.default_rng(0)
    noisy = {f"d{i}": rng.normal(0, 0.29, 36) for i in range(8)}
    finding = found("preference.margin", noisy)
    assert finding.decision == "pass"
    assert finding.worst is not None
    assert finding.worst.interval[0] < 0.1


def test_the_interval_of_the_picked_group_is_wider_than_that_of_a_group_alone() -> None:
    finding = eight(0.4)
    assert finding.worst is not None
    before = [Measurement("b", 0, "preference.margin", f"{i}", f"p{i}", 0.5) for i in range(36)]
    after = [Measurement("t", 0, "preference.margin", f"{i}", f"p{i}", 0.5 + v) for i, v in enumerate(around(0.4))]
    alone = compare(before, after)[0].interval
    at_level = compare(before, after, Policy(confidence=1 - 0.05 / 8))[0].interval
    assert finding.worst.interval[0] < alone[0]
    assert finding.worst.interval == pytest.approx(at_level, abs=2e-3)


def test_equal_domains_rarely_stand_in_the_way_by_chance() -> None:
    """All eight exactly at the tolerance would be noise; all at nothing must hardly ever be."""
    rng = np.random.default_rng(1)
    blocked = 0
    for _ in range(10):
        finding = found("preference.margin", {f"d{i}": rng.normal(0.02, 0.25, 20) for i in range(8)})
        blocked += finding.hides_a_group
    assert blocked <= 1


def test_groups_of_few_prompts_say_nothing() -> None:
    small = {"a": around(0.0, count=60), "b": around(0.0, count=60), "odd": around(0.4, count=9)}
    finding = found("preference.margin", small)
    assert finding.decision == "pass"
    assert finding.worst is not None
    assert (finding.worst.group in "ab", finding.worst.groups) == (True, 2)
    many = found("preference.margin", {**small, "odd": around(0.4, count=10)})
    assert many.decision == "inconclusive"
    repeated = {**small, "odd": around(0.4, count=10)}
    assert found("preference.margin", repeated, clusters=9).worst is None, "nine prompts in each"
    assert found("preference.margin", repeated, policy=Policy(minimum_clusters=11)).decision == "pass"


def test_a_failure_stays_one_and_names_its_worst_group() -> None:
    finding = found("preference.margin", {"a": around(0.3), "b": around(0.9)})
    assert finding.decision == "fail"
    assert finding.worst is not None
    assert finding.worst.group == "b"


def test_positions_of_an_answer_are_no_domains() -> None:
    finding = found("drift.kl", {"token 1": around(9.0), "token 2-3": around(0.1), "token 4-6": around(0.1)}, base=0.0)
    assert finding.worst is None
    assert finding.decision == "inconclusive", "by its own interval: the spread is wide"
    calm = found("drift.kl", {"token 1": around(5.0, count=20), "25+": around(0.1, count=200)}, base=0.0)
    assert (calm.decision, calm.worst) == ("pass", None)


def test_metrics_that_inform_and_those_of_one_group_have_none() -> None:
    assert found("preference.share", {"a": around(0.0), "b": around(0.0)}).worst is None
    assert found("preference.margin", {"a": around(0.0)}).worst is None


def test_it_survives_the_way_through_json() -> None:
    finding = eight(0.4)
    assert Finding.from_dict(json.loads(json.dumps(finding.as_dict(), allow_nan=False))) == finding
