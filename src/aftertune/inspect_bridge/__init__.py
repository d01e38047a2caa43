"""Between us and Inspect: subjects as its models, its tasks as runs of ours, its logs as measurements."""

from typing import TYPE_CHECKING, Any

from aftertune.inspect_bridge._checks import refuse_silent_judges, refuse_unknown_judges
from aftertune.inspect_bridge._foreign_tasks import FOREIGN_METRICS, HARM_TASKS
from aftertune.inspect_bridge._likeness import NEVER, differing, known_names, shown
from aftertune.inspect_bridge._log_files import LogFolder, LoggedHead, logged_task, logs_of, read_log_head
from aftertune.inspect_bridge._logs import LoggedAnswer, LoggedRun, on_shared_scorers, read_log
from aftertune.inspect_bridge._task_runs import TaskPlan, run_tasks

__all__ = [
    "FOREIGN_METRICS",
    "HARM_TASKS",
    "NEVER",
    "LogFolder",
    "LoggedAnswer",
    "LoggedHead",
    "LoggedRun",
    "TaskPlan",
    "differing",
    "inspect_model",
    "known_names",
    "logged_task",
    "logs_of",
    "on_shared_scorers",
    "read_log",
    "read_log_head",
    "refuse_silent_judges",
    "refuse_unknown_judges",
    "run_tasks",
    "shown",
]

if TYPE_CHECKING:
    from aftertune.inspect_bridge._provider import inspect_model


def __getattr__(name: str) -> Any:
    # Inspect is imported when it is asked for.
    if name == "inspect_model":
        from aftertune.inspect_bridge._provider import inspect_model

        return inspect_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
