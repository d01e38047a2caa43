"""Base against tuned on one metric: difference, interval, decision."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from aftertune.comparison._bootstrap import Estimate, cluster_bootstrap, holm
from aftertune.comparison._policy import Policy
from aftertune.errors import RunError
from aftertune.measures import Measurement, find_metric

Decision = Literal["pass", "fail", "inconclusive"]
# Less of a score counts as worse until somebody says so; more of it may be, and so does not pass.
UNDIRECTED = (
    "may have changed by more than the tolerance, and which way is worse is not known; say so by --harm or --good"
)


@dataclass(frozen=True)
class Finding:
    """Base against tuned on one metric.

    Attributes:
        metric: id, with ``:STEM`` for a user's set and ``/GROUP`` for a breakdown.
        base: the base's mean.
        tuned: the tuned model's mean.
        difference: tuned minus base.
        interval: of the difference, at the policy's confidence.
        margin: tolerated worsening.
        decision: of this metric by itself; breakdowns and informing metrics have one too, without effect.
        decides: whether the verdict depends on it.
        worse: the direction of damage.
        items: items compared.
        clusters: independent prompts among them.
        p_value: one-sided, of "no worse than the margin", Holm-adjusted over deciding metrics.
        clusters_needed: for an inconclusive finding, prompts that would settle it if the difference stays.
        note: why, where the decision needs a word.
    """

    metric: str
    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]
    margin: float
    decision: Decision
    decides: bool
    worse: str
    items: int
    clusters: int
    p_value: float
    clusters_needed: int | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Finding:
        """Back from `as_dict`."""
        low, high = fields["interval"]
        return cls(**{**fields, "interval": (low, high)})


@dataclass(frozen=True)
class Summary:
    """One subject's mean on one metric."""

    metric: str
    value: float
    interval: tuple[float, float]
    items: int
    clusters: int


def _by_metric(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    table: dict[str, list[Measurement]] = defaultdict(list)
    for m in measurements:
        table[m.metric].append(m)
    return table


def _with_groups(table: dict[str, list[Measurement]]) -> dict[str, list[Measurement]]:
    """The metrics, each followed by its breakdown where it has more than one group."""
    out: dict[str, list[Measurement]] = {}
    for metric, rows in table.items():
        out[metric] = rows
        groups = dict.fromkeys(m.group for m in rows)
        if len(groups) > 1:
            for group in groups:
                out[f"{metric}/{group}"] = [m for m in rows if m.group == group]
    return out


def summarise(measurements: Sequence[Measurement], policy: Policy | None = None) -> list[Summary]:
    """Means and intervals of one subject alone, by metric and by group."""
    policy = policy or Policy()
    summaries = []
    for metric, rows in _with_groups(_by_metric(measurements)).items():
        e = _estimate([m.value for m in rows], rows, metric, policy)
        summaries.append(Summary(metric, e.value, (e.low, e.high), e.items, e.clusters))
    return summaries


def _estimate(
    values: Sequence[float], rows: Sequence[Measurement], metric: str, policy: Policy, *, binary: bool = False
) -> Estimate:
    found = find_metric(metric)
    assert found is not None, metric
    return cluster_bootstrap(
        values,
        [m.cluster for m in rows],
        [m.stratum for m in rows],
        confidence=policy.confidence,
        binary=binary or found.binary,
    )


def compare(base: Sequence[Measurement], tuned: Sequence[Measurement], policy: Policy | None = None) -> list[Finding]:
    """Pair two subjects' measurements by item and decide each metric by non-inferiority.

    Pass: the worsening's upper end lies below the margin. Fail: its lower end lies above the margin, and the
    Holm-adjusted p-value over the deciding metrics agrees. Anything else is inconclusive, as are NaN, missing
    pairs and too few clusters.

    Raises:
        RunError: the two share no metric.
    """
    policy = policy or Policy()
    theirs = {(m.metric, m.item, m.seed): m for m in base}
    ours = _with_groups(_by_metric(tuned))
    findings: list[Finding] = []
    absent: dict[str, str] = {}
    items: dict[str, set[str]] = defaultdict(set)
    for m in base:
        items[m.metric].add(m.item)
    for metric, rows in ours.items():
        found = find_metric(metric)
        assert found is not None, metric
        # Drift is a distance from the base; the base's own is zero.
        from_base = found.id == "drift.kl"
        pairs = [(m, 0.0 if from_base else _value(theirs, m)) for m in rows]
        complete = [(m, b) for m, b in pairs if b is not None and math.isfinite(b) and math.isfinite(m.value)]
        unpaired = len(items.get(metric, set()) - {m.item for m in rows})
        if complete:
            findings.append(_finding(metric, complete, len(pairs) - len(complete) + unpaired, policy))
        elif policy.deciding(metric):
            absent[metric] = "no item has a finite number on both sides"
    unasked = sorted({m.metric for m in base} - {m.metric for m in tuned} - {"drift.kl"})
    absent |= {metric: "measured on the base only" for metric in unasked if policy.deciding(metric)}
    if not findings:
        raise RunError("the two sets of measurements share no metric; measure both with the same sets")
    return _adjust(findings, policy, absent)


def _value(table: dict[tuple[str, str, int], Measurement], m: Measurement) -> float | None:
    found = table.get((m.metric, m.item, m.seed)) or table.get((m.metric, m.item, 0))
    return found.value if found else None


def _finding(metric: str, pairs: Sequence[tuple[Measurement, float]], dropped: int, policy: Policy) -> Finding:
    found = find_metric(metric)
    assert found is not None
    rows = [m for m, _ in pairs]
    # Scores of other tasks may be grades, which their unit does not tell.
    binary = found.unit == "score" and all(value in (0.0, 1.0) for m, b in pairs for value in (m.value, b))
    difference = _estimate([m.value - b for m, b in pairs], rows, metric, policy, binary=binary)
    sign = 1.0 if found.worse == "higher" else -1.0
    margin = policy.margin(metric)
    low, high = sorted((sign * difference.low, sign * difference.high))
    worsening = replace(difference, value=sign * difference.value, draws=sign * difference.draws)
    note, decision = "", _decide(low, high, margin)
    if found.worse == "unknown" and decision == "pass" and low <= -margin:
        decision, note = "inconclusive", UNDIRECTED
    if difference.clusters < policy.minimum_clusters:
        decision, note = (
            "inconclusive",
            f"only {difference.clusters} prompts, {policy.minimum_clusters} are needed",
        )
    if dropped:
        decision, note = "inconclusive", f"{dropped} items have no finite number on both sides"
    needed = None
    if decision == "inconclusive":
        needed = _clusters_needed(worsening, margin, policy)
    return Finding(
        metric=metric,
        base=_mean([b for _, b in pairs], rows),
        tuned=_mean([m.value for m in rows], rows),
        difference=difference.value,
        interval=(difference.low, difference.high),
        margin=margin,
        decision=decision,
        decides=policy.deciding(metric),
        worse=found.worse,
        items=difference.items,
        clusters=difference.clusters,
        p_value=worsening.tail(margin),
        clusters_needed=needed,
        note=note,
    )


def _decide(low: float, high: float, margin: float) -> Decision:
    if high < margin:
        return "pass"
    return "fail" if low > margin else "inconclusive"


def _mean(values: Sequence[float], rows: Sequence[Measurement]) -> float:
    strata: dict[str, list[float]] = defaultdict(list)
    for value, row in zip(values, rows, strict=True):
        strata[row.stratum].append(value)
    return math.fsum(math.fsum(v) / len(v) for v in strata.values()) / len(strata)


def _clusters_needed(worsening: Estimate, margin: float, policy: Policy, power: float = 0.8) -> int | None:
    """Prompts needed to settle the metric with 80 % power, were the true difference the one seen."""
    from scipy import stats

    distance = abs(worsening.value - margin)
    if distance == 0 or worsening.error == 0:
        return None
    z = stats.norm.ppf(0.5 + policy.confidence / 2) + stats.norm.ppf(power)
    needed = worsening.clusters * float(z * worsening.error / distance) ** 2
    prompts = max(policy.minimum_clusters, math.ceil(min(needed, 1e9)))
    return prompts if worsening.clusters < prompts <= 1e6 else None


def _adjust(findings: list[Finding], policy: Policy, absent: Mapping[str, str]) -> list[Finding]:
    deciding = [i for i, f in enumerate(findings) if f.decides]
    for index, p in zip(deciding, holm([findings[i].p_value for i in deciding]), strict=True):
        finding = replace(findings[index], p_value=p)
        if finding.decision == "fail" and p > (1 - policy.confidence) / 2:
            finding = replace(
                finding,
                decision="inconclusive",
                note=f"worse than the margin alone, not among {len(deciding)} metrics (Holm)",
            )
        findings[index] = finding
    findings.extend(_absent(metric, note, policy) for metric, note in absent.items())
    return findings


def _absent(metric: str, note: str, policy: Policy) -> Finding:
    found = find_metric(metric)
    assert found is not None
    return Finding(
        metric, 0.0, 0.0, 0.0, (0.0, 0.0), policy.margin(metric), "inconclusive", True, found.worse, 0, 0, 1.0, None,
        note,
    )  # fmt: skip
