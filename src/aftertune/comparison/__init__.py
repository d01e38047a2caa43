"""Two subjects compared: paired statistics, non-inferiority, findings, verdict."""

from aftertune.comparison._bootstrap import Estimate, cluster_bootstrap, holm
from aftertune.comparison._findings import Decision, Finding, Summary, compare, summarise
from aftertune.comparison._policy import Policy, read_policy
from aftertune.comparison._verdict import Verdict, decide, describe

__all__ = [
    "Decision",
    "Estimate",
    "Finding",
    "Policy",
    "Summary",
    "Verdict",
    "cluster_bootstrap",
    "compare",
    "decide",
    "describe",
    "holm",
    "read_policy",
    "summarise",
]
