"""Two subjects compared: metrics, measurements, paired statistics, findings, verdict; two audits of the same base."""

from aftertune.stats._baseline import Change, FailOn, SinceBaseline, changes_since, decide_since
from aftertune.stats._bootstrap import Estimate, cluster_bootstrap, holm
from aftertune.stats._claims import ClaimResult, ClaimTest, Expect, Outcome, decide_claim, decide_claims
from aftertune.stats._decide_between import decide_between
from aftertune.stats._finding import Decision, Finding, FindingDecision, Summary, Worsening, WorstGroup
from aftertune.stats._findings import compare, summarise
from aftertune.stats._mean_interval import MeanInterval, mean_interval
from aftertune.stats._measurement import (
    Measurement,
    Metric,
    Worse,
    base_metric,
    measurement_fields,
    read_measurements,
    write_measurements,
)
from aftertune.stats._metrics import all_metrics, find_metric, leading_metrics, likelihood_metrics, sampled_tasks
from aftertune.stats._nothing_compared import still_nothing_compared
from aftertune.stats._policy import Policy, read_policy
from aftertune.stats._recipes import Effects, RecipeMean, Scope, read_effects, recipe_mean
from aftertune.stats._results import (
    CHANGES,
    AnswerChange,
    AnswerSide,
    ComparisonSection,
    Example,
    JudgeAgreement,
    SampledAnswer,
    SampledAnswers,
    fit_answers,
)
from aftertune.stats._stored_baseline import Baseline, read_baseline
from aftertune.stats._stored_verdict import refuse_contradiction
from aftertune.stats._verdict import Verdict, decide, describe, describe_worst, first_line

__all__ = [
    "CHANGES",
    "AnswerChange",
    "AnswerSide",
    "Baseline",
    "Change",
    "ClaimResult",
    "ClaimTest",
    "ComparisonSection",
    "Decision",
    "Effects",
    "Estimate",
    "Example",
    "Expect",
    "FailOn",
    "Finding",
    "FindingDecision",
    "JudgeAgreement",
    "MeanInterval",
    "Measurement",
    "Metric",
    "Outcome",
    "Policy",
    "RecipeMean",
    "SampledAnswer",
    "SampledAnswers",
    "Scope",
    "SinceBaseline",
    "Summary",
    "Verdict",
    "Worse",
    "Worsening",
    "WorstGroup",
    "all_metrics",
    "base_metric",
    "changes_since",
    "cluster_bootstrap",
    "compare",
    "decide",
    "decide_between",
    "decide_claim",
    "decide_claims",
    "decide_since",
    "describe",
    "describe_worst",
    "find_metric",
    "first_line",
    "fit_answers",
    "holm",
    "leading_metrics",
    "likelihood_metrics",
    "mean_interval",
    "measurement_fields",
    "read_baseline",
    "read_effects",
    "read_measurements",
    "read_policy",
    "recipe_mean",
    "refuse_contradiction",
    "sampled_tasks",
    "still_nothing_compared",
    "summarise",
    "write_measurements",
]
