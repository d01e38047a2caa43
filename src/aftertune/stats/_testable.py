"""Could a metric have failed on this base? A pass that nothing could have prevented says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aftertune.stats._estimates import Pair, estimate, estimate_change, metric_of
from aftertune.stats._finding import Finding, surely_beyond, turn
from aftertune.stats._measurement import Measurement
from aftertune.stats._policy import Policy


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
    return (
        f"the base is at {finding.base:.3g}: even {worst:g} on every item would not be surely worse by more than "
        f"{finding.tolerance:g}"
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
