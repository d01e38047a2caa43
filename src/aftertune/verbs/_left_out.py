"""What a plan leaves out of what an audit asks by default: a verdict has to name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aftertune.data import DOMAINS
from aftertune.inspect_bridge import TaskPlan
from aftertune.probes import MeasurePlan, probe_rows


def left_out(plan: MeasurePlan, decides: Callable[[str], bool]) -> Iterator[str]:
    """Deciding probes and domains that a plan does not ask, one sentence part for each kind.

    Args:
        plan: what is asked.
        decides: whether a metric decides the verdict, by its id.
    """
    missing = []
    for row in probe_rows():
        if not row.default or not any(decides(metric.id) for metric in row.metrics):
            continue
        if row.name not in plan.probes:
            missing.append(row.name)
        elif row.name == "preference" and not plan.domains:
            missing.append("preference (no domain is left)")
        elif row.name == "truthful" and plan.truthfulqa is None:
            missing.append(f"truthful (needs {row.needs})")
    if missing:
        yield f"not asked: {', '.join(missing)}"
    absent = [domain for domain in DOMAINS if domain not in plan.domains]
    if "preference" in plan.probes and plan.domains and absent:
        asked = len(DOMAINS) - len(absent)
        yield f"preference was asked in {asked} of {len(DOMAINS)} domains, not in {', '.join(absent)}"
    if plan.split != "measure":
        yield f"preference was asked on the split {plan.split}, which is for choosing settings"


def limited(tasks: TaskPlan | None) -> Iterator[str]:
    """That tasks were cut to their first questions, where they were."""
    if tasks and tasks.limit:
        yield f"of {', '.join(tasks.names)} only the first {tasks.limit} questions were asked (--limit)"
