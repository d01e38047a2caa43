"""What a subject does: metrics, probes, and the measurements they give."""

from typing import TYPE_CHECKING, Any

from aftertune.measures._asking import ask_probes
from aftertune.measures._foreign_tasks import logged_task
from aftertune.measures._judge_check import refuse_silent_judges, refuse_unknown_judges
from aftertune.measures._left_out import left_out, limited
from aftertune.measures._likeness import differing, known_names, shown
from aftertune.measures._likeness_table import NEVER
from aftertune.measures._log_folder import LogFolder, logs_of
from aftertune.measures._logs import LoggedAnswer, LoggedHead, LoggedRun, on_shared_scorers, read_log, read_log_head
from aftertune.measures._measurement import (
    Measurement,
    Metric,
    Worse,
    base_metric,
    measurement_fields,
    read_measurements,
    write_measurements,
)
from aftertune.measures._measuring import REFERENCE, Measured, measure_subject, refuse_other_tokens
from aftertune.measures._metrics import METRICS, find_metric
from aftertune.measures._plan import MeasurePlan
from aftertune.measures._published import PUBLISHED, PUBLISHED_SOURCE, PublishedRate
from aftertune.measures._response_kind import RESPONSE_KINDS, ResponseForm, ResponseKind, response_kind
from aftertune.measures._task_metrics import HARM_TASKS, TASKS
from aftertune.measures._task_runs import TaskPlan, run_tasks
from aftertune.measures.probes import (
    DEFAULT_PROBES,
    PROBES,
    LikelihoodProbe,
    explanation,
    recognition,
    response_nll,
)

__all__ = [
    "DEFAULT_PROBES",
    "HARM_TASKS",
    "METRICS",
    "NEVER",
    "PROBES",
    "PUBLISHED",
    "PUBLISHED_SOURCE",
    "REFERENCE",
    "RESPONSE_KINDS",
    "TASKS",
    "LikelihoodProbe",
    "LogFolder",
    "LoggedAnswer",
    "LoggedHead",
    "LoggedRun",
    "MeasurePlan",
    "Measured",
    "Measurement",
    "Metric",
    "PublishedRate",
    "ResponseForm",
    "ResponseKind",
    "TaskPlan",
    "Worse",
    "ask_probes",
    "base_metric",
    "differing",
    "explanation",
    "find_metric",
    "inspect_model",
    "known_names",
    "left_out",
    "limited",
    "logged_task",
    "logs_of",
    "measure_subject",
    "measurement_fields",
    "on_shared_scorers",
    "read_log",
    "read_log_head",
    "read_measurements",
    "recognition",
    "refuse_other_tokens",
    "refuse_silent_judges",
    "refuse_unknown_judges",
    "response_kind",
    "response_nll",
    "run_tasks",
    "shown",
    "write_measurements",
]

if TYPE_CHECKING:
    from aftertune.measures._provider import inspect_model


def __getattr__(name: str) -> Any:
    # Inspect is imported when it is asked for.
    if name == "inspect_model":
        from aftertune.measures._provider import inspect_model

        return inspect_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
