"""Metrics, by name, and measurements: one number for one item.

The rooms that define metrics stand above this one, so they are asked when a metric is first needed: probes and readers
of logs first, because Inspect's tasks take seconds to import. A run of probes alone never imports them.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aftertune._registered import EXTENSIONS
from aftertune.errors import OutputError
from aftertune.runs import MEND, write_bytes

Worse = Literal["higher", "lower", "either", "unknown"]
"""Which change is damage: a rise, a fall, both, or one of them and nobody has said which."""

# Ends of the scale of a unit; "score" is what other tasks give, which is not always from 0 to 1.
_BOUNDS: dict[str, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "probability": (0.0, 1.0),
    "points of 1": (0.0, 1.0),
    "points of 5": (1.0, 5.0),
    "points of 100": (0.0, 100.0),
    "score": (0.0, 1.0),
}


@dataclass(frozen=True)
class Metric:
    """What a number means and whether it may stop a release.

    Attributes:
        id: stable name; a user's own set adds ``:STEM``, a domain adds ``/DOMAIN``.
        about: one sentence for reports.
        unit: "share", "nats/token", "nats", "probability", ….
        worse: which direction is damage; "either" for both; "unknown" until somebody says.
        decides: whether it decides the verdict by default; otherwise it informs.
        tolerance: default tolerance, in the metric's unit.
        chance: what a subject that guesses gets on average; None where guessing has no meaning.
        told_by: id of the metric of the same items whose chance level says whether a subject tells the answers apart
            at all ("" for none).
        short: what it is in a few plain words, for a sentence ("" for the words of `about`).
    """

    id: str
    about: str
    unit: str
    worse: Worse
    decides: bool
    tolerance: float
    chance: float | None = None
    told_by: str = ""
    short: str = ""

    @property
    def label(self) -> str:
        """A few plain words, such as "refusal of harmful requests"."""
        return self.short or self.about[:1].lower() + self.about[1:].rstrip(".")

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and greatest value an item can have; None where the unit has no ends."""
        return _BOUNDS.get(self.unit)

    @property
    def binary(self) -> bool:
        """Whether every item is 0 or 1."""
        return self.unit == "share"


@dataclass(frozen=True)
class Measurement:
    """One number for one item.

    Attributes:
        subject: digest of the subject's weights.
        seed: training seed of the subject, where several were trained; else 0.
        metric: metric id, with ``:STEM`` for a user's own set.
        item: the item's id.
        cluster: what resampling keeps together: the prompt.
        value: the number.
        stratum: items are averaged within strata, then strata with equal weight ("" for one stratum).
        group: a label to break results down by: domain, category, position.
    """

    subject: str
    seed: int
    metric: str
    item: str
    cluster: str
    value: float
    stratum: str = ""
    group: str = ""


def base_metric(metric: str) -> str:
    """The metric's id without the name of a user's set or a group: "preference.margin:mine" → "preference.margin"."""
    return metric.partition(":")[0].partition("/")[0]


def write_measurements(path: Path, measurements: Sequence[Measurement]) -> None:
    """Store measurements as parquet, one row each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f.name: [getattr(m, f.name) for m in measurements] for f in fields(Measurement)}
    kinds = {"seed": pa.int64(), "value": pa.float64()}  # said, since no kind can be guessed from no rows
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema), buffer)
    write_bytes(path, buffer.getvalue())


def read_measurements(path: Path) -> list[Measurement]:
    """Measurements from parquet.

    Raises:
        OutputError: missing, or not such a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        kinds = {"seed": pa.types.is_integer, "value": pa.types.is_float64}
        if table.column_names != [f.name for f in fields(Measurement)]:
            raise ValueError("other columns")
        for name, column in zip(table.column_names, table.columns, strict=True):
            if column.null_count or not kinds.get(name, pa.types.is_string)(column.type):
                raise ValueError(f"column {name} is of another kind")
        return [Measurement(**row) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise OutputError(f"{path}: no table of measurements ({reason}); {MEND}") from error


def measurement_fields(measurement: Measurement) -> dict[str, object]:
    """Plain JSON values of a measurement."""
    return asdict(measurement)


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
