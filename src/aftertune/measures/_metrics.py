"""Every metric there is, by name."""

from __future__ import annotations

from aftertune.measures._measurement import Metric, base_metric
from aftertune.measures._task_metrics import TASK_METRICS
from aftertune.measures.probes import PROBES

METRICS: tuple[Metric, ...] = (*(metric for row in PROBES for metric in row.metrics), *TASK_METRICS)

_BY_ID = {metric.id: metric for metric in METRICS}


def find_metric(name: str) -> Metric | None:
    """The metric that ``name`` (with or without ``:STEM`` and ``/GROUP``) is an instance of, or None."""
    return _BY_ID.get(base_metric(name))
