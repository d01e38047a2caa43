"""Findings: base against tuned, metric by metric, with intervals; and what cannot be tested on this base."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from aftertune.errors import RunError
from aftertune.stats._finding import Finding, FindingDecision, Summary, WorstGroup, judge, surely_beyond, turn
from aftertune.stats._mean_interval import MeanInterval, mean_interval
from aftertune.stats._metrics import Measurement, Metric, find_metric
from aftertune.stats._policy import Policy
from aftertune.stats._verdict import MORE_ITEMS

Pair = tuple[Measurement, float]
"""An item of the tuned subject, and the base's value."""

_UNIT_SCALE = (0.0, 1.0)


def metric_of(name: str) -> Metric:
    found = find_metric(name)
    assert found is not None, name
    return found


def scale_of(metric: Metric, values: Sequence[float]) -> tuple[float, float] | None:
    """The range of a metric's values; None where there is none, or where these lie outside of it.

    The scores of other tasks may be shares or grades. What lies between 0 and 1 is taken for a share.
    """
    bounds = metric.bounds or (_UNIT_SCALE if metric.unit == "score" else None)
    return bounds if bounds and all(bounds[0] <= value <= bounds[1] for value in values) else None


def estimate(values: Sequence[float], rows: Sequence[Measurement], metric: str, confidence: float) -> MeanInterval:
    """Mean of one subject's values."""
    return _interval(values, rows, confidence, scale_of(metric_of(metric), values))


def estimate_change(name: str, pairs: Sequence[Pair], confidence: float) -> MeanInterval:
    """Mean of tuned minus base."""
    rows = [m for m, _ in pairs]
    scale = scale_of(metric_of(name), [value for m, b in pairs for value in (m.value, b)])
    extent = (scale[0] - scale[1], scale[1] - scale[0]) if scale else None
    return _interval([m.value - b for m, b in pairs], rows, confidence, extent)


def _interval(
    values: Sequence[float], rows: Sequence[Measurement], confidence: float, extent: tuple[float, float] | None
) -> MeanInterval:
    clusters, strata = [m.cluster for m in rows], [m.stratum for m in rows]
    return mean_interval(values, clusters, strata, confidence=confidence, extent=extent)


def why_untestable(
    finding: Finding, pairs: Sequence[Pair], before: Mapping[str, Sequence[Measurement]], policy: Policy
) -> str:
    """Why a pass says nothing on this base; "" where it says something.

    What surely got better by more than the tolerance has shown that it is no worse, whatever the base.
    """
    if finding.worse in ("higher", "lower") and finding.worsening.high < -finding.tolerance:
        return ""
    return _without_room(finding, pairs, policy) or _at_chance(finding, pairs, before, policy)


def _within(bounds: tuple[float, float] | None, pairs: Sequence[Pair]) -> bool:
    """Whether a metric has a scale that its values keep to: a score of an unknown task may have another."""
    return bounds is not None and all(bounds[0] <= v <= bounds[1] for m, b in pairs for v in (m.value, b))


def _without_room(finding: Finding, pairs: Sequence[Pair], policy: Policy) -> str:
    """Nothing could fail on this base: not even a tuned model at the worst end of the scale on every item."""
    metric = metric_of(finding.metric)
    if metric.worse not in ("higher", "lower") or metric.bounds is None or not _within(metric.bounds, pairs):
        return ""
    worst = metric.bounds[1] if metric.worse == "higher" else metric.bounds[0]
    rows = [replace(m, value=worst) for m, _ in pairs]
    e = estimate_change(finding.metric, [(m, b) for m, (_, b) in zip(rows, pairs, strict=True)], policy.confidence)
    if surely_beyond(metric.worse, turn(metric.worse, e.value, (e.low, e.high)), finding.tolerance):
        return ""
    enough = turn(metric.worse, e.value, (e.low, e.high)).value > finding.tolerance
    return (
        f"the base is at {finding.base:.3g}: even {worst:g} on every item would not be surely worse by more than "
        f"{finding.tolerance:g}" + (f"; {MORE_ITEMS}" if enough else "")
    )


def _at_chance(
    finding: Finding, pairs: Sequence[Pair], before: Mapping[str, Sequence[Measurement]], policy: Policy
) -> str:
    """The base does not surely do better than guessing, so it has nothing to lose."""
    metric = metric_of(finding.metric)
    if metric.chance is None and not metric.told_by:
        return ""
    name = finding.metric if metric.chance is not None else metric.told_by + finding.metric[len(metric.id) :]
    told = metric_of(name)
    assert told.chance is not None, name
    if name == finding.metric:
        rows = [replace(m, value=b) for m, b in pairs]
    else:
        items = {m.item for m, _ in pairs}
        rows = [m for m in before.get(name, ()) if m.item in items and math.isfinite(m.value)]
    if not rows or told.bounds is None or not _within(told.bounds, [(m, m.value) for m in rows]):
        return ""
    if name == finding.metric and not _within(told.bounds, pairs):
        return ""
    e = estimate([m.value for m in rows], rows, name, policy.confidence)
    if e.low > told.chance or (told.worse != "lower" and e.high < told.chance):
        return ""
    return f"the base's {name} is {e.value:.3g} [{e.low:.3g}, {e.high:.3g}], where guessing gives {told.chance:g}"


# Drift is a distance from the base, whose own is zero. Its groups are positions in an answer: the tolerance is one for
# whole answers, and the first tokens always move most.
_DRIFT = "drift.kl"

_HUGE = 1e300  # NaN, infinity, and what would become infinite in a sum
_MOST_PROMPTS = 1_000_000
_UNDIRECTED = "which way is worse is not known: say so with --harm TASK or --good TASK"


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
        e = estimate([m.value for m in rows], rows, metric, policy.confidence)
        summaries.append(Summary(metric, e.value, (e.low, e.high), e.items, e.clusters))
    return summaries


def compare(base: Sequence[Measurement], tuned: Sequence[Measurement], policy: Policy | None = None) -> list[Finding]:
    """Pair two subjects' measurements by item and decide each metric by non-inferiority.

    Pass: the worsening's upper end lies below the tolerance. Fail: its lower end lies above it. Anything else is
    inconclusive, as are NaN, missing pairs, too few clusters, and a metric of which one group is surely worse than the
    tolerance. What would pass, but could not have failed on this base, is not testable. Each metric is decided by
    itself: nothing that is measured besides changes its decision, but what shows that the base is at chance.

    Raises:
        RunError: the two share no metric.
    """
    policy = policy or Policy()
    theirs = {(m.metric, m.item, m.seed): m for m in base}
    before = _by_metric(base)
    findings: list[Finding] = []
    absent: dict[str, str] = {}
    for metric, rows in _with_groups(_by_metric(tuned)).items():
        from_base = metric_of(metric).id == _DRIFT
        pairs = [(m, 0.0 if from_base else _value(theirs, m)) for m in rows]
        complete = [(m, b) for m, b in pairs if b is not None and abs(b) < _HUGE and abs(m.value) < _HUGE]
        unpaired = len({m.item for m in before.get(metric, ())} - {m.item for m in rows})
        if not complete:
            if policy.deciding(metric):
                absent[metric] = "no item has a finite number on both sides"
            continue
        finding = _finding(metric, complete, len(pairs) - len(complete) + unpaired, policy)
        if "/" not in metric:
            finding = _by_its_worst_group(finding, complete, policy)
            reason = why_untestable(finding, complete, before, policy) if finding.decision == "pass" else ""
            if reason:
                allowed = policy.untestable == "allow"
                finding = replace(finding, decision="not testable", note=reason, allowed=allowed)
        findings.append(finding)
    unasked = sorted(before.keys() - {m.metric for m in tuned} - {_DRIFT})
    absent |= {metric: "measured on the base only" for metric in unasked if policy.deciding(metric)}
    if not findings:
        raise RunError("the two sets of measurements share no metric; measure both with the same sets")
    return findings + [_absent(metric, note, policy) for metric, note in absent.items()]


def _value(table: Mapping[tuple[str, str, int], Measurement], m: Measurement) -> float | None:
    found = table.get((m.metric, m.item, m.seed)) or table.get((m.metric, m.item, 0))
    return found.value if found else None


def _finding(metric: str, pairs: Sequence[Pair], dropped: int, policy: Policy) -> Finding:
    worse, tolerance = metric_of(metric).worse, policy.tolerance(metric)
    rows = [m for m, _ in pairs]
    e = estimate_change(metric, pairs, policy.confidence)
    worsening = turn(worse, e.value, (e.low, e.high))
    decision: FindingDecision = judge(worse, worsening, tolerance)
    note = ""
    if decision == "inconclusive":
        note = _UNDIRECTED if worse == "unknown" else ""
    # Log-likelihoods that agree to the last bit on every prompt are no sample that happens to be alike.
    unmoved = e.value == 0 and metric_of(metric).unit.startswith("nats")
    if e.degenerate and not unmoved:
        decision, note = "inconclusive", "all differences are equal, so nothing says how far their mean may be off"
    few = e.clusters < policy.minimum_clusters
    if few:
        decision, note = "inconclusive", f"only {e.clusters} prompts, {policy.minimum_clusters} are needed"
    if dropped:
        decision, note = "inconclusive", f"{dropped} items have no finite number on both sides"
    needed = None
    if decision == "inconclusive" and not dropped and (few or not surely_beyond(worse, worsening, tolerance)):
        needed = _clusters_needed(e, worse, tolerance, policy)
    return Finding(
        metric=metric,
        base=_mean([b for _, b in pairs], rows),
        tuned=_mean([m.value for m in rows], rows),
        difference=e.value,
        interval=(e.low, e.high),
        tolerance=tolerance,
        decision=decision,
        decides=policy.deciding(metric),
        worse=worse,
        items=e.items,
        clusters=e.clusters,
        p_value=_p_value(e, worse, tolerance),
        clusters_needed=needed,
        note=note,
    )


def _mean(values: Sequence[float], rows: Sequence[Measurement]) -> float:
    strata: dict[str, list[float]] = defaultdict(list)
    for value, row in zip(values, rows, strict=True):
        strata[row.stratum].append(value)
    return math.fsum(math.fsum(v) / len(v) for v in strata.values()) / len(strata)


def _p_value(e: MeanInterval, worse: str, tolerance: float) -> float:
    """One-sided, of "worse by at most the tolerance"; at most (1 - confidence) / 2 if the interval is beyond it."""
    if worse == "lower":
        return e.turned().tail(tolerance)
    return e.tail(tolerance) if worse == "higher" else min(e.tail(tolerance), e.turned().tail(tolerance))


def _clusters_needed(e: MeanInterval, worse: str, tolerance: float, policy: Policy, power: float = 0.8) -> int | None:
    """Prompts that settle the metric with 80 % power, were the true difference the one seen.

    The interval is foreseen for as many prompts with the spread seen here. Its end has to keep a distance from the
    tolerance that random error crosses in one case in five. Other metrics have no part in it, as they have none in the
    decision.
    """
    from scipy import stats

    worsening = turn(worse, e.value, (e.low, e.high)).value
    distance = abs(abs(worsening) - tolerance if worse in ("either", "unknown") else worsening - tolerance)
    if distance == 0 or e.degenerate or e.clusters < 2 or (worse == "unknown" and worsening > tolerance):
        return None
    passes = abs(worsening) < tolerance if worse in ("either", "unknown") else worsening < tolerance
    upper = passes != (worsening < 0 if worse in ("either", "unknown") else worse == "lower")
    reserve = float(stats.norm.ppf(power)) * e.error * math.sqrt(e.clusters)
    towards = e if upper else e.turned()

    def settles(prompts: int) -> bool:
        return towards.ends_below(towards.value + distance - reserve / math.sqrt(prompts), prompts)

    low, high = e.clusters, 2 * e.clusters
    while not settles(high):
        low, high = high, 2 * high
        if low > _MOST_PROMPTS:
            return None
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return max(policy.minimum_clusters, high)


def _by_its_worst_group(finding: Finding, pairs: Sequence[Pair], policy: Policy) -> Finding:
    """A deciding metric with its worst group; with one that is surely worse than the tolerance it does not pass.

    Groups are looked at together, so each has an interval at the level divided by their number (Bonferroni). Groups of
    too few prompts say nothing.
    """
    if not finding.decides or metric_of(finding.metric).id == _DRIFT:
        return finding
    groups: dict[str, list[Pair]] = defaultdict(list)
    for m, b in pairs:
        groups[m.group].append((m, b))
    enough = {
        group: inside
        for group, inside in groups.items()
        if len({m.cluster for m, _ in inside}) >= policy.minimum_clusters
    }
    if len(groups) < 2 or not enough:
        return finding
    confidence = 1 - (1 - policy.confidence) / len(enough)
    found = []
    for group, inside in enough.items():
        e = estimate_change(finding.metric, inside, confidence)
        found.append(WorstGroup(group, e.value, (e.low, e.high), e.clusters, len(enough)))
    worst = max(found, key=lambda w: w.surely(finding.worse))
    finding = replace(finding, worst=worst)
    if finding.decision == "pass" and finding.hides_a_group:
        return replace(finding, decision="inconclusive", note=f"{worst.group} alone is surely worse by more than that")
    return finding


def _absent(metric: str, note: str, policy: Policy) -> Finding:
    worse = metric_of(metric).worse
    return Finding(
        metric, 0.0, 0.0, 0.0, (0.0, 0.0), policy.tolerance(metric), "inconclusive", True, worse, 0, 0, 1.0, None, note
    )
