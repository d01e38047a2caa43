"""Two subjects compared: paired statistics, non-inferiority, findings, verdict; and two audits of the same base."""

from aftertune.comparison._baseline import Change, FailOn, SinceBaseline, changes_since, decide_since
from aftertune.comparison._bootstrap import Estimate, cluster_bootstrap, holm
from aftertune.comparison._decide_between import decide_between
from aftertune.comparison._finding import Decision, Finding, FindingDecision, Summary, Worsening, WorstGroup
from aftertune.comparison._findings import compare, summarise
from aftertune.comparison._mean_interval import MeanInterval, mean_interval
from aftertune.comparison._nothing_compared import still_nothing_compared
from aftertune.comparison._policy import Policy, read_policy
from aftertune.comparison._stored_baseline import Baseline, read_baseline
from aftertune.comparison._stored_verdict import refuse_contradiction
from aftertune.comparison._verdict import Verdict, decide, describe, describe_worst, first_line

__all__ = [
    "Baseline",
    "Change",
    "Decision",
    "Estimate",
    "FailOn",
    "Finding",
    "FindingDecision",
    "MeanInterval",
    "Policy",
    "SinceBaseline",
    "Summary",
    "Verdict",
    "Worsening",
    "WorstGroup",
    "changes_since",
    "cluster_bootstrap",
    "compare",
    "decide",
    "decide_between",
    "decide_since",
    "describe",
    "describe_worst",
    "first_line",
    "holm",
    "mean_interval",
    "read_baseline",
    "read_policy",
    "refuse_contradiction",
    "still_nothing_compared",
    "summarise",
]
