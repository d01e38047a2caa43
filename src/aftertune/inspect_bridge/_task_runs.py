"""Running Inspect tasks on a subject in memory; finished answers are never drawn twice."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune._registered import foreign_sha256
from aftertune.errors import AftertuneError, RunError, UsageError
from aftertune.inspect_bridge._checks import (
    check_foreign,
    first_line,
    hub_data,
    inspect_files,
    make_task,
    refuse_silent_judges,
    refuse_unknown_judges,
)
from aftertune.inspect_bridge._foreign_tasks import HARM_TASKS, OURS
from aftertune.inspect_bridge._logs import LoggedRun, read_log
from aftertune.runs import Progress, Silent, Step

if TYPE_CHECKING:
    from inspect_ai.hooks import SampleEnd, TaskEnd, TaskStart
    from inspect_ai.log import EvalLog
    from inspect_ai.model import Model

    from aftertune.model import Subject

_MOST = 2**31 - 1


@dataclass(frozen=True)
class TaskPlan:
    """Which tasks to run, and how.

    Attributes:
        names: of our tasks, or of any that Inspect finds: ``inspect_evals/mmlu_0_shot``, ``my_task.py``.
        args: parameters of the tasks; each must know all of them.
        graders: models that judge, as Inspect names them; the metrics rest on the first, the others give second
            opinions. None where no task needs one.
        samples: answers to each question; what the task says if left out.
        limit: only so many questions of each task.
        seed: of sampling.
        harm: tasks, other than ours and those known, whose scores grow with harm.
        good: likewise, whose scores fall with harm.

    Raises:
        UsageError: a number is out of range.
    """

    names: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    graders: tuple[str, ...] = ()
    samples: int | None = None
    limit: int | None = None
    seed: int = 0
    harm: tuple[str, ...] = ()
    good: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError("no task is named; name one with --task")
        for name in ("samples", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")
            if value is not None and value > _MOST:
                raise UsageError(f"--{name} must be at most {_MOST:,}, not {value}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1}, not {self.seed}")

    def check_judges(self, *, redact: bool = False) -> None:
        """Send each judge on a server one tiny request, before anything is loaded.

        Args:
            redact: leave no trace of it, and load no ``.env`` file.

        Raises:
            UsageError: one does not answer.
        """
        refuse_silent_judges(self.graders, redact=redact)

    def check(self, *, redact: bool = False) -> None:
        """Refuse what cannot be run, before anything is loaded.

        Args:
            redact: load no ``.env`` file for the keys of judges.

        Raises:
            UsageError: a task does not exist or does not know a parameter, or a judge, a package or docker is missing.
            DataError: a file that a parameter names cannot be used, or a data set of the hub cannot be had.
        """
        from aftertune.judges import refuse_unserved
        from aftertune.tasks import task_rows

        self._refuse_one_name_for_two()
        self._refuse_unnamed()
        known = task_rows()
        for name in self.qualified:
            if not name.startswith(OURS):
                check_foreign(name, self.args)
                continue
            bare = name.removeprefix(OURS)
            row = known.get(bare)
            if row is None:
                raise UsageError(
                    f"--task {bare}: no such task; choose from {', '.join(known)}, or any of Inspect's as PACKAGE/NAME"
                )
            if row.needs_judge(self.args):
                if not self.graders:
                    raise UsageError(f"--task {bare}: needs a judge; name one with --grader MODEL")
                for grader in self.graders:
                    refuse_unserved(grader, {bare: row.asks(self.args)})
            make_task(row.build, bare, self.args)
        refuse_unknown_judges(self.graders, redact=redact)

    def _refuse_unnamed(self) -> None:
        named = {part for name in self.qualified for part in (name, name.rpartition("/")[2], name.rpartition("@")[2])}
        for flag, tasks in (("--harm", self.harm), ("--good", self.good)):
            for task in tasks:
                # A file holds tasks of any name.
                if task not in named and not any(".py" in name for name in self.qualified):
                    raise UsageError(f"{flag} {task}: no such task is run; choose from {', '.join(self.qualified)}")
        if both := set(self.harm) & set(self.good):
            raise UsageError(f"--harm {min(both)}: is named by --good as well; choose which direction is worse")

    def _refuse_one_name_for_two(self) -> None:
        # Metrics of foreign tasks are named after the task without its package.
        seen: dict[str, str] = {}
        for name in self.qualified:
            if not name.startswith(OURS) and (other := seen.setdefault(name.rpartition("/")[2], name)) != name:
                raise UsageError(f"--task {name}: has the same name as {other}; run them one at a time")

    @property
    def config(self) -> dict[str, Any]:
        """What determines the answers, as part of a run's identity."""
        return {
            "names": list(self.qualified),
            "args": dict(self.args),
            "graders": list(self.graders),
            "samples": self.samples,
            "limit": self.limit,
            "seed": self.seed,
            "harm": sorted(self.harm),
            **({"good": sorted(self.good)} if self.good else {}),
            **({"extensions": self._extensions} if self._extensions else {}),
        }

    @property
    def _extensions(self) -> dict[str, str]:
        """Digests of the files that tasks of extensions come from: a task may change and keep its name."""
        from aftertune.tasks import task_rows

        rows = task_rows()
        bare = [name.removeprefix(OURS) for name in self.qualified]
        return {name: digest for name in bare if name in rows and (digest := foreign_sha256(rows[name].build))}

    @property
    def registered(self) -> list[str]:
        """The names under which Inspect has registered the tasks: those of extensions have one of their own."""
        from aftertune.tasks import task_rows

        rows = task_rows()
        bare = [(name, name.removeprefix(OURS)) for name in self.qualified]
        return [rows[short].registered if short != name and short in rows else name for name, short in bare]

    @property
    def qualified(self) -> tuple[str, ...]:
        """The names as Inspect knows them; a bare one is ours."""
        return tuple(n if "/" in n or ".py" in n else OURS + n for n in dict.fromkeys(self.names))


def run_tasks(
    subject: Subject, plan: TaskPlan, folder: Path, *, redact: bool = False, progress: Progress | None = None
) -> list[LoggedRun]:
    """Run every task of ``plan``; the logs in ``folder`` let a killed run go on, and `inspect view` opens them.

    Args:
        subject: who answers.
        plan: what is asked.
        folder: of the logs; one subject, one plan, one folder.
        redact: load no ``.env`` file, and keep no trace of texts beside the logs.
        progress: told what goes on.

    Raises:
        UsageError: an unknown task, parameter or judge, or a judge that a task needs and has not got.
        RunError: a task broke; the same call goes on with it.
    """
    progress = progress or Silent()
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    from aftertune.inspect_bridge._provider import inspect_model

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        model = inspect_model(subject)
    answers = f"{plan.samples} samples a question" if plan.samples else "samples as the task says"
    progress.say(f"sampling {', '.join(plan.names)} ({answers}); logs in {folder}")
    judges: list[Model] = []
    try:
        # Inspect, its hooks and tasks of others may print; standard output is for results.
        quiet = contextlib.redirect_stdout(sys.stderr)
        with _answers_shown(progress), quiet, _data_of(plan), inspect_files(redact=redact):
            judges += [get_model(name, memoize=False) for name in plan.graders]
            done, logs = eval_set(
                plan.registered,
                log_dir=str(folder),
                model=model,
                model_roles={"grader": judges if len(judges) > 1 else judges[0]} if judges else None,
                task_args=dict(plan.args),
                epochs=plan.samples,
                limit=plan.limit,
                seed=plan.seed,
                retry_attempts=1,
                max_connections=model.api.max_connections(),
                max_tasks=1,
                display="none",
                log_level="error",
                log_realtime=False if redact else None,
                metadata={"subject": subject.identity.as_dict()},
            )
    except AftertuneError:
        raise
    except Exception as error:  # Inspect raises errors of many kinds before it starts
        raise UsageError(f"{', '.join(plan.names)}: {first_line(error)}") from error
    finally:
        for used in (model, *judges):
            if str(used).startswith(OURS):
                used.api.close()
    if any(log.status == "cancelled" for log in logs):
        raise KeyboardInterrupt  # Inspect catches it, and returns what was finished
    if not done:
        raise RunError(_why(logs) + "; run the same again to go on")
    return [
        read_log(Path(log.location.removeprefix("file://")), HARM_TASKS | set(plan.harm), plan.good) for log in logs
    ]


def _data_of(plan: TaskPlan) -> contextlib.AbstractContextManager[None]:
    foreign = [name for name in plan.qualified if not name.startswith(OURS)]
    return hub_data(", ".join(foreign)) if foreign else contextlib.nullcontext()


def _why(logs: list[EvalLog]) -> str:
    for log in logs:
        if log.status != "success":
            reason = log.error.message.strip().splitlines()[0] if log.error and log.error.message else log.status
            return f"{log.eval.task}: did not finish ({reason})"
    return "a task did not finish"


class _Shown:
    """What is shown at the moment: one step function for each task under way."""

    progress: Progress | None = None

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.open = contextlib.ExitStack()


_shown = _Shown()


@contextlib.contextmanager
def _answers_shown(progress: Progress) -> Iterator[None]:
    """While inside, finished answers of every task are counted by ``progress``; Inspect tells a hook about them."""
    _register_counting()
    _shown.progress = progress
    try:
        with _shown.open:
            yield
    finally:
        _shown.progress = None
        _shown.steps.clear()
        _shown.open = contextlib.ExitStack()


@cache
def _register_counting() -> None:
    """Once a process, and only where tasks run: Inspect greets every hook that it finds."""
    from inspect_ai.hooks import Hooks, hooks

    @hooks(name="aftertune_progress", description="Counts finished answers for aftertune audit.")
    class CountAnswers(Hooks):
        def enabled(self) -> bool:
            return _shown.progress is not None

        async def on_task_start(self, data: TaskStart) -> None:
            asked = len(data.spec.dataset.sample_ids or ()) or data.spec.dataset.samples or 0
            total = asked * (data.spec.config.epochs or 1)
            if _shown.progress is not None and total:
                name = data.spec.task.rpartition("/")[2]
                _shown.steps[data.eval_id] = _shown.open.enter_context(_shown.progress.task(name, total))

        async def on_sample_end(self, data: SampleEnd) -> None:
            if data.eval_id in _shown.steps:
                _shown.steps[data.eval_id](1)

        async def on_task_end(self, data: TaskEnd) -> None:
            _shown.steps.pop(data.eval_id, None)
            if not _shown.steps:
                _shown.open.close()
