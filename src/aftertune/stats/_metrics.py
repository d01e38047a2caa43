"""Every metric there is, by name."""

from __future__ import annotations

import importlib
from functools import cache

from aftertune.stats._measurement import Metric, base_metric


@cache
def all_metrics() -> tuple[Metric, ...]:
    """Every metric: those of probes, of our tasks, and of logs of other tasks.

    The rooms that define them stand above this one, so they are asked for theirs when a metric is first needed.
    """
    tasks, logs = importlib.import_module("aftertune.tasks"), importlib.import_module("aftertune.inspect_bridge")
    return (*likelihood_metrics(), *tasks.TASK_METRICS, *logs.FOREIGN_METRICS)


@cache
def likelihood_metrics() -> tuple[Metric, ...]:
    """The metrics of the probes, which read likelihoods and so give the same numbers twice."""
    return tuple(metric for row in importlib.import_module("aftertune.probes").probe_rows() for metric in row.metrics)


@cache
def _by_id() -> dict[str, Metric]:
    return {metric.id: metric for metric in all_metrics()}


def find_metric(name: str) -> Metric | None:
    """The metric that ``name`` (with or without ``:STEM`` and ``/GROUP``) is an instance of, or None."""
    return _by_id().get(base_metric(name))
