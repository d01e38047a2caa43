"""From items to an estimate with its interval: the one place where measurements meet the statistics."""

from __future__ import annotations

from collections.abc import Sequence

from aftertune.comparison._bootstrap import Estimate, cluster_bootstrap
from aftertune.measures import Measurement, Metric, find_metric

Pair = tuple[Measurement, float]
"""An item of the tuned subject, and the base's value."""


def metric_of(name: str) -> Metric:
    found = find_metric(name)
    assert found is not None, name
    return found


def estimate(
    values: Sequence[float], rows: Sequence[Measurement], metric: str, confidence: float, *, binary: bool = False
) -> Estimate:
    return cluster_bootstrap(
        values,
        [m.cluster for m in rows],
        [m.stratum for m in rows],
        confidence=confidence,
        binary=binary or metric_of(metric).binary,
    )


def _is_binary(metric: Metric, pairs: Sequence[Pair]) -> bool:
    """Scores of other tasks may be grades, which their unit does not say."""
    return metric.unit == "score" and all(value in (0.0, 1.0) for m, b in pairs for value in (m.value, b))


def estimate_change(name: str, pairs: Sequence[Pair], confidence: float) -> Estimate:
    """Mean of tuned minus base."""
    rows = [m for m, _ in pairs]
    return estimate([m.value - b for m, b in pairs], rows, name, confidence, binary=_is_binary(metric_of(name), pairs))
