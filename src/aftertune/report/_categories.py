"""Every task's main metric by category: the numbers behind the bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aftertune.report._bars import bars_chart
from aftertune.report._charts import Series, worst_first
from aftertune.report._drawing import Chart, both_layouts
from aftertune.report._page import ComparisonSection
from aftertune.stats import Finding
from aftertune.tasks import TASKS

# Of more categories, the picture shows those that worsened most, the table all.
MOST_BARS = 24
_FOREIGN = "inspect."


@dataclass(frozen=True)
class Categories:
    """One metric by category, drawn.

    Attributes:
        metric: its name.
        chart: base beside tuned.
        rows: category, model and finding, the most worsened category first.
        groups: how many categories there are.
        drawn: how many the picture shows.
    """

    metric: str
    chart: Chart
    rows: tuple[tuple[str, str, Finding], ...]
    groups: int
    drawn: int


def leading_metrics(names: Iterable[str]) -> dict[str, str]:
    """The main metric of every task: the first in the table of tasks that decides; of other tasks the first named.

    Args:
        names: of metrics, without groups.
    """
    known = dict.fromkeys(names)
    found = {
        task: name
        for task, row in TASKS.items()
        if (name := next((m.id for m in row.metrics if m.decides and m.id in known), None))
    }
    for name in known:
        if name.startswith(_FOREIGN):
            found.setdefault(name.partition(":")[2].partition(".")[0], name)
    return found


def draw_categories(sections: Sequence[ComparisonSection]) -> list[Categories]:
    """The bars of every task that asked in several categories."""
    heads = leading_metrics(f.metric.partition("/")[0] for section in sections for f in section.findings)
    drawn = []
    for place, metric in enumerate(heads.values()):
        series = [
            Series(section.title, index, found)
            for index, section in enumerate(sections)
            if (found := _by_group(section.findings, metric))
        ]
        groups = worst_first(series)
        if len(groups) < 2:
            continue
        name = f"categories-{place}"
        chart = both_layouts(bars_chart, series, groups[:MOST_BARS], name=name, title=f"{metric} by category")
        rows = tuple((g, one.label, one.groups[g]) for g in groups for one in series if g in one.groups)
        if chart is not None:
            drawn.append(Categories(metric, chart, rows, len(groups), min(len(groups), MOST_BARS)))
    return drawn


def _by_group(findings: Iterable[Finding], metric: str) -> dict[str, Finding]:
    groups: dict[str, Finding] = {}
    for finding in findings:
        head, separator, group = finding.metric.partition("/")
        numbers = (finding.base, finding.tuned, *finding.interval)
        if separator and head == metric and finding.items and all(map(math.isfinite, numbers)):
            groups[group.replace("_", " ") or "none"] = finding
    return groups
