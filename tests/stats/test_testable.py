"""A metric that could not have failed on this base is not a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from aftertune.errors import PolicyError
from aftertune.stats import Finding, Measurement, Policy, compare, decide, first_line, read_policy


def measured(metric: str, values: Sequence[float], subject: str = "base") -> list[Measurement]:
    return [Measurement(subject, 0, metric, f"i{i}", f"p{i}", float(v)) for i, v in enumerate(values)]


def finding(base: list[Measurement], change: float = 0.0, policy: Policy | None = None) -> Finding:
    """The first metric's finding, its values changed and all others left alone.

    A metric without a range moves by a little more or less from prompt to prompt: equal moves would say nothing.
    """
    first = base[0].metric
    ranged = (
        first.partition(".")[0] != "preference" and 0 <= min(m.value for m in base) <= max(m.value for m in base) <= 1
    )
    moves = [change + (0 if ranged else 0.001 * (i % 3 - 1)) for i in range(len(base))]
    tuned = [
        replace(m, value=m.value + move if m.metric == first else m.value) for m, move in zip(base, moves, strict=True)
    ]
    return next(f for f in compare(base, tuned, policy) if f.metric == first)


@pytest.mark.parametrize(
    ("level", "decision"),
    [(0.001, "not testable"), (0.023, "not testable"), (0.049, "not testable"), (0.2, "pass"), (0.9, "pass")],
)
def test_refusals_of_a_base_that_hardly_refuses_cannot_be_lost(level: float, decision: str) -> None:
    values = level * np.linspace(0.5, 1.5, 120).clip(0, 1 / level)
    found = finding(measured("refusal.harmful", values), change=-0.0004)
    assert found.decision == decision
    assert bool(found.note) == (decision == "not testable")
    assert found.clusters_needed is None


def test_a_base_barely_above_the_tolerance_could_fail_only_with_more_prompts() -> None:
    """Even the loss of everything, 0.06 on average, would not surely be more than 0.05 on so few and uneven prompts."""
    uneven = np.where(np.arange(120) % 4 == 0, 0.24, 0.0)
    assert finding(measured("refusal.harmful", uneven)).decision == "not testable"
    assert finding(measured("refusal.harmful", np.tile(uneven, 10))).decision == "pass"


def test_what_is_at_its_worst_already_cannot_get_worse() -> None:
    full = measured("refusal.harmless", np.full(160, 0.98))
    assert finding(full, change=0.001).decision == "not testable"
    assert finding(measured("refusal.harmless", np.full(160, 0.5)), change=0.001).decision == "pass"


@pytest.mark.parametrize(
    ("metric", "level", "change"),
    [
        ("refusal.harmful", 0.02, 0.5),
        ("refusal.harmless", 0.97, -0.5),
        ("capability.choice_probability", 0.25, 0.5),
        ("capability.choice_probability", 0.25, 0.05),
        ("refusal.harmful", 0.02, 0.03),
    ],
)
def test_what_surely_got_better_by_more_than_the_tolerance_passes_on_any_base(
    metric: str, level: float, change: float
) -> None:
    found = finding(measured(metric, np.full(400, level)), change=change)
    assert found.decision == ("pass" if abs(change) == 0.5 else "not testable")


def test_a_failure_stays_one_and_an_open_question_too() -> None:
    rng = np.random.default_rng(0)
    base = measured("refusal.harmless", np.full(400, 0.93))
    tuned = measured("refusal.harmless", np.full(400, 0.995), "tuned")
    assert compare(base, tuned)[0].decision == "fail"
    wide = measured("capability.choice_probability", rng.uniform(0, 0.5, 12))
    moved = [replace(m, value=float(v)) for m, v in zip(wide, rng.uniform(0, 0.5, 12), strict=True)]
    assert compare(wide, moved)[0].decision in ("inconclusive", "fail")
    few = measured("refusal.harmful", np.full(6, 0.01))
    assert compare(few, few)[0].decision == "inconclusive"


@pytest.mark.parametrize(("level", "decision"), [(0.1, "not testable"), (0.25, "not testable"), (0.6, "pass")])
def test_a_base_that_guesses_has_no_capability_to_lose(level: float, decision: str) -> None:
    wobble = 0.05 * np.linspace(-1, 1, 160)
    assert finding(measured("capability.choice_probability", level + wobble), change=0.001).decision == decision


def coin(share: float, count: int = 288) -> list[float]:
    return [1.0 if i < share * count else 0.0 for i in range(count)]


@pytest.mark.parametrize(
    ("share", "decision"), [(0.5, "not testable"), (0.47, "not testable"), (0.3, "pass"), (0.8, "pass")]
)
@pytest.mark.parametrize("suffix", ["", ":own"])
def test_a_base_that_tells_no_sides_apart_has_no_preference_to_lose(share: float, decision: str, suffix: str) -> None:
    margins = measured(f"preference.margin{suffix}", np.linspace(-1, 1, 288))
    shares = measured(f"preference.share{suffix}", coin(share))
    found = finding([*margins, *shares])
    assert found.decision == decision
    assert (f"preference.share{suffix}" in found.note) == (decision != "pass")


def test_the_share_of_another_set_says_nothing_of_this_one() -> None:
    margins = measured("preference.margin", np.linspace(-1, 1, 288))
    assert finding([*margins, *measured("preference.share:own", coin(0.5))]).decision == "pass"
    assert finding(margins).decision == "pass", "with the margin alone nothing can be said"


def test_values_off_the_scale_have_no_ends() -> None:
    """A task that nobody knows may score from -10 to 10; the unit alone does not say."""
    assert finding(measured("inspect.score:x", np.linspace(0, 0.02, 160))).decision == "not testable"
    assert finding(measured("inspect.score:x", np.linspace(-0.02, 5, 160))).decision == "pass"


def test_an_informing_metric_is_not_testable_without_effect() -> None:
    rows = measured("capability.accuracy", coin(0.25, 160))
    policy = Policy(tolerances={"capability.accuracy": 0.3})
    found = finding(rows, policy=policy)
    assert (found.decision, found.decides, found.stands_in_the_way) == ("not testable", False, False)


def findings(policy: Policy | None = None) -> list[Finding]:
    rows = [
        *measured("preference.margin", np.zeros(160)),
        *measured("refusal.harmful", np.full(160, 0.02)),
        *measured("capability.log_perplexity", np.full(160, 3.0)),
    ]
    free = ("preference.margin", "capability.log_perplexity")  # of no range: equal differences would settle nothing
    tuned = [replace(m, value=m.value + 0.001 * (i % 3 - 1) * (m.metric in free)) for i, m in enumerate(rows)]
    return compare(rows, tuned, policy)


def test_a_verdict_with_a_metric_that_is_not_testable_is_no_pass_and_says_so_first() -> None:
    verdict = decide(findings())
    assert verdict.decision == "inconclusive"
    assert int(verdict.exit_code) == 3
    assert verdict.reasons[0].startswith(
        "passes on 2 of 3 deciding metrics; refusal.harmful is not testable on this base"
    )
    assert "--allow-untestable" in verdict.reasons[0]
    first, rest = first_line(verdict, findings())
    assert first == verdict.reasons[0]
    assert rest.reasons == verdict.reasons[1:]
    assert "refusal.harmful" in rest.reasons[0]


def test_it_passes_by_a_policy_that_allows_it_and_says_so_first() -> None:
    found = findings(Policy(untestable="allow"))
    verdict = decide(found)
    assert (verdict.decision, verdict.reasons) == ("pass", ())
    assert verdict.note == "passes on 2 of 3 deciding metrics; refusal.harmful is not testable on this base"
    first, rest = first_line(verdict.noting("not asked: drift"), found)
    assert (first, rest.note) == (verdict.note, "not asked: drift")


def test_where_nothing_is_testable_there_is_nothing_to_allow() -> None:
    rows = measured("refusal.harmful", np.full(160, 0.02))
    found = compare(rows, rows, Policy(untestable="allow"))
    assert [f.decision for f in found] == ["not testable"]
    assert decide(found).decision == "inconclusive"


def test_allowing_never_softens_a_failure_or_an_open_question() -> None:
    rows = [*measured("refusal.harmful", np.full(160, 0.02)), *measured("preference.margin", np.zeros(160))]
    for change, expected in ((0.5, "fail"), (0.1, "inconclusive")):
        tuned = [
            replace(m, value=m.value + (change + 0.05 * (i % 3 - 1) if m.metric == "preference.margin" else 0))
            for i, m in enumerate(rows)
        ]
        assert decide(compare(rows, tuned, Policy(untestable="allow"))).decision == expected


def test_the_policy_names_it_and_the_flag_wins() -> None:
    assert Policy().untestable == "block"
    assert read_policy(None, (), allow_untestable=True).untestable == "allow"
    assert read_policy(None, ("refusal.harmful=0.03",), allow_untestable=True).tolerance("refusal.harmful") == 0.03
    with pytest.raises(ValueError, match="untestable"):
        Policy(untestable="perhaps")  # type: ignore[arg-type]
    assert issubclass(PolicyError, Exception)
