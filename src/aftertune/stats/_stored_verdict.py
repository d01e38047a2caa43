"""A verdict that was stored, held against the findings stored with it: anybody may have edited the file."""

from __future__ import annotations

from collections.abc import Sequence

from aftertune.errors import spelled_out
from aftertune.stats._baseline import SinceBaseline, decide_since
from aftertune.stats._finding import Decision, Finding, judge
from aftertune.stats._metrics import find_metric
from aftertune.stats._policy import Policy
from aftertune.stats._verdict import Verdict, decide


def refuse_contradiction(
    verdict: Verdict, findings: Sequence[Finding], since: SinceBaseline | None = None, policy: Policy | None = None
) -> None:
    """Decide anew from stored findings and refuse another verdict.

    A stored *inconclusive* stands above findings that pass: that is what a model compared with itself gets.

    Args:
        verdict: as stored.
        findings: as stored, breakdowns included.
        since: what changed since a baseline, as stored.
        policy: by which it was decided, where that is known.

    Raises:
        ValueError: says what contradicts what, in part of a line.
    """
    for finding in findings:
        wrong = contradiction(finding, policy)
        if wrong:
            raise ValueError(wrong)
    for change in since.changes if since else ():
        if not any(f.metric == change.metric and f.decision == change.after for f in findings):
            raise ValueError(spelled_out(f"{change.metric} is {change.after} since the baseline, but not in its row"))
    expected = decide(findings)
    if since:
        expected = decide_since(expected, findings, since)
    itself = (verdict.decision, expected.decision) == ("inconclusive", "pass")
    if verdict.decision != expected.decision and not (itself and (verdict.note or verdict.reasons)):
        raise ValueError(f"it says {verdict.decision}, its findings make it {expected.decision}")


def contradiction(finding: Finding, policy: Policy | None = None) -> str:
    """What a stored finding says against itself or against the policy; "" where nothing does.

    Args:
        finding: as stored.
        policy: by which it was decided, where that is known.
    """
    wrong = _against_its_numbers(finding) or (_against(policy, finding) if policy else "")
    return spelled_out(f"{finding.metric} {wrong}") if wrong else ""


def _against_its_numbers(finding: Finding) -> str:
    decided: Decision = "inconclusive"
    if finding.items:
        decided = judge(finding.worse, finding.worsening, finding.tolerance)
    said = finding.decision
    metric = find_metric(finding.metric)
    if metric is not None and metric.worse != finding.worse:
        return f"is worse where it is {finding.worse}, but damage is {metric.worse}"
    if said in ("pass", "not testable") and (decided != "pass" or finding.hides_a_group):
        return f"is {said}, but its interval and tolerance make it no pass"
    if said == "fail" and (decided != "fail" or finding.p_value > 0.25):
        return "is fail, but its interval, tolerance and p-value do not make it one"
    if said == "inconclusive" and decided != "inconclusive" and not finding.note:
        return f"is inconclusive, but its interval and tolerance make it {decided}"
    if finding.allowed and said != "not testable":
        return f"is {said}, and allowed as if it were not testable"
    return ""


def _against(policy: Policy, finding: Finding) -> str:
    if find_metric(finding.metric) is None:
        return ""  # of another version
    if finding.tolerance != policy.tolerance(finding.metric):
        return f"has the tolerance {finding.tolerance:g}, the policy {policy.tolerance(finding.metric):g}"
    if finding.decides != policy.deciding(finding.metric):
        return f"{'decides' if finding.decides else 'informs'}, by the policy it does not"
    if finding.allowed and policy.untestable != "allow":
        return "is allowed though not testable, by the policy it is not"
    if finding.decision in ("pass", "fail") and finding.clusters < policy.minimum_clusters:
        return f"is {finding.decision} on {finding.clusters} prompts, fewer than the policy's {policy.minimum_clusters}"
    return ""
