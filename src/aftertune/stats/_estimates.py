"""From items to an estimate with its interval: the one place where measurements meet the statistics."""

from __future__ import annotations

from collections.abc import Sequence

from aftertune.stats._mean_interval import MeanInterval, mean_interval
from aftertune.stats._measurement import Measurement, Metric
from aftertune.stats._metrics import find_metric

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
