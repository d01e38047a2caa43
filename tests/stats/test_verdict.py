"""All findings together: decision, reasons, exit code."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from aftertune.errors import ExitCode
from aftertune.stats import Finding, Verdict, decide, describe

Decision = Literal["pass", "fail", "inconclusive"]


def finding(
    decision: Decision,
    metric: str = "preference.margin",
    *,
    decides: bool = True,
    worse: str = "higher",
    needed: int | None = None,
    note: str = "",
) -> Finding:
    sign = 1 if worse == "higher" else -1
    low, high = sorted((sign * 0.1, sign * 0.3))
    return Finding(
        metric=metric,
        base=1.0,
        tuned=1.0 + sign * 0.2,
        difference=sign * 0.2,
        interval=(low, high),
        tolerance=0.05,
        decision=decision,
        decides=decides,
        worse=worse,
        items=40,
        clusters=20,
        p_value=0.01,
        clusters_needed=needed,
        note=note,
    )


@pytest.mark.parametrize(
    ("decisions", "expected", "code"),
    [
        (["pass"], "pass", 0),
        (["pass", "pass"], "pass", 0),
        (["fail"], "fail", 1),
        (["pass", "fail"], "fail", 1),
        (["inconclusive", "fail"], "fail", 1),
        (["inconclusive"], "inconclusive", 3),
        (["pass", "inconclusive"], "inconclusive", 3),
    ],
)
def test_the_worst_deciding_finding_is_the_verdict(decisions: list[Decision], expected: str, code: int) -> None:
    for order in (decisions, decisions[::-1]):
        verdict = decide([finding(d) for d in order])
        assert (verdict.decision, int(verdict.exit_code)) == (expected, code)
        assert len(verdict.reasons) == sum(d != "pass" for d in decisions)


@pytest.mark.parametrize("informing", ["pass", "fail", "inconclusive"])
def test_informing_findings_have_no_say(informing: Decision) -> None:
    extra = finding(informing, "preference.margin/money", decides=False)
    for decision in ("pass", "fail", "inconclusive"):
        assert decide([finding(decision), extra]) == decide([finding(decision)])


@pytest.mark.parametrize("findings", [[], [finding("pass", decides=False)], [finding("fail", decides=False)]])
def test_without_a_deciding_finding_nothing_passes(findings: list[Finding]) -> None:
    verdict = decide(findings)
    assert verdict.decision == "inconclusive"
    assert verdict.exit_code == ExitCode.INCONCLUSIVE == 3
    assert len(verdict.reasons) == 1


def test_failures_are_told_before_open_questions() -> None:
    findings = [finding("inconclusive", "traits.score"), finding("pass"), finding("fail", "refusal.harmful")]
    first, second = decide(findings).reasons
    assert first.startswith("refusal.harmful ")
    assert second.startswith("traits.score ")


@pytest.mark.parametrize("findings", [[], [finding("pass")], [finding("inconclusive"), finding("pass")]])
def test_a_model_compared_with_itself_never_passes(findings: list[Finding]) -> None:
    verdict = decide(findings, identical=True)
    assert verdict.decision == "inconclusive"
    assert verdict.exit_code == ExitCode.INCONCLUSIVE == 3
    assert verdict.reasons[0].startswith("base and tuned are the same model")
    assert "--allow-identical" in verdict.reasons[0]
    assert "\n" not in verdict.reasons[0]


def test_that_two_models_are_one_overrules_no_finding() -> None:
    findings = [finding("fail"), finding("pass")]
    assert decide(findings, identical=True) == decide(findings)
    assert decide(findings).decision == "fail"


@pytest.mark.parametrize("worse", ["higher", "lower"])
def test_a_worsening_is_told_as_positive_whichever_direction_is_damage(worse: str) -> None:
    text = describe(finding("fail", worse=worse))
    assert text == "preference.margin is worse by +0.200 [+0.100, +0.300], tolerance 0.05: fail"


def test_notes_and_needed_prompts_are_told() -> None:
    text = describe(finding("inconclusive", needed=140, note="only 9 prompts, 10 are needed"))
    assert "only 9 prompts" in text
    assert "140" in text
    assert "20" in text
    assert len(text.splitlines()) == 1


def test_each_verdict_has_its_exit_code() -> None:
    codes = {d: Verdict(d, ()).exit_code for d in ("pass", "fail", "inconclusive")}
    assert codes == {"pass": 0, "fail": 1, "inconclusive": 3}


def test_a_metric_without_numbers_is_not_told_to_have_kept_its_value() -> None:
    absent = replace(finding("inconclusive", note="no item has a finite number on both sides"), items=0)
    text = describe(absent)
    assert text == (
        "preference.margin has no numbers to compare: inconclusive (no item has a finite number on both sides)"
    )
