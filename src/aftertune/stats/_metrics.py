"""Every metric there is, by name.

The rooms that define metrics stand above this one, so they are asked when a metric is first needed: probes and readers
of logs first, because Inspect's tasks take seconds to import. A run of probes alone never imports them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from aftertune._registered import EXTENSIONS
from aftertune.stats._measurement import Metric, base_metric


def all_metrics() -> tuple[Metric, ...]:
    """Every metric: those of probes, of our tasks, and of logs of other tasks."""
    tasks = (metric for row in _task_rows().values() for metric in row.metrics)
    return (*likelihood_metrics(), *tasks, *_foreign_metrics())


def likelihood_metrics() -> tuple[Metric, ...]:
    """The metrics of the probes, which read likelihoods and so give the same numbers twice."""
    return tuple(metric for row in importlib.import_module("aftertune.probes").probe_rows() for metric in row.metrics)


def find_metric(name: str) -> Metric | None:
    """The metric that ``name`` (with or without ``:STEM`` and ``/GROUP``) is an instance of, or None."""
    wanted, extensions = base_metric(name), os.environ.get(EXTENSIONS, "")
    return _without_tasks(extensions).get(wanted) or _of_tasks(extensions).get(wanted)


def sampled_tasks(names: Iterable[str]) -> dict[str, tuple[Metric, ...]]:
    """Which tasks some metrics are of, in the order of the tasks' rows; each with all of its metrics.

    Args:
        names: of metrics, with or without ``:STEM`` and ``/GROUP``; those of no task of ours are passed over.
    """
    wanted = {base_metric(name) for name in names} - _without_tasks(os.environ.get(EXTENSIONS, "")).keys()
    if not wanted:
        return {}
    return {task: row.metrics for task, row in _task_rows().items() if any(m.id in wanted for m in row.metrics)}


def _task_rows() -> Mapping[str, Any]:
    rows: Mapping[str, Any] = importlib.import_module("aftertune.tasks").task_rows()
    return rows


def _foreign_metrics() -> tuple[Metric, ...]:
    metrics: tuple[Metric, ...] = importlib.import_module("aftertune.inspect_bridge").FOREIGN_METRICS
    return metrics


@cache
def _without_tasks(extensions: str) -> dict[str, Metric]:
    """By name; extensions, which bring probes and tasks of their own, are only the key of the cache."""
    return {metric.id: metric for metric in (*likelihood_metrics(), *_foreign_metrics())}


@cache
def _of_tasks(extensions: str) -> dict[str, Metric]:
    return {metric.id: metric for row in _task_rows().values() for metric in row.metrics}


def leading_metrics(names: Iterable[str]) -> dict[str, str]:
    """The main metric of every task: the first in the table of tasks that decides; of other tasks the first named.

    Args:
        names: of metrics, without groups.
    """
    known = dict.fromkeys(names)
    found = {
        task: name
        for task, metrics in sampled_tasks(known).items()
        if (name := next((m.id for m in metrics if m.decides and m.id in known), None))
    }
    for name in known:
        if name.startswith("inspect."):
            found.setdefault(name.partition(":")[2].partition(".")[0], name)
    return found
