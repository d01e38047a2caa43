"""Two subjects compared: paired statistics, non-inferiority, findings, verdict; and two audits of the same base."""

from aftertune.comparison._baseline import Change, FailOn, SinceBaseline, changes_since, decide_since
from aftertune.comparison._bootstrap import Estimate, cluster_bootstrap, holm
from aftertune.comparison._findings import Decision, Finding, Summary, compare, summarise
from aftertune.comparison._nothing_compared import not_in_force, nothing_compared, still_nothing_compared
from aftertune.comparison._policy import Policy, read_policy
from aftertune.comparison._stored_baseline import Baseline, read_baseline
from aftertune.comparison._verdict import Verdict, decide, describe

__all__ = [
    "Baseline",
    "Change",
    "Decision",
    "Estimate",
    "FailOn",
    "Finding",
    "Policy",
    "SinceBaseline",
    "Summary",
    "Verdict",
    "changes_since",
    "cluster_bootstrap",
    "compare",
    "decide",
    "decide_since",
    "describe",
    "holm",
    "not_in_force",
    "nothing_compared",
    "read_baseline",
    "read_policy",
    "still_nothing_compared",
    "summarise",
]
