"""Running Inspect tasks on a subject in memory; finished answers never twice."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import AftertuneError, DataError, RunError, UsageError
from aftertune.inspect_bridge._foreign_tasks import KNOWN_TASKS, OURS, PACKAGE
from aftertune.inspect_bridge._hub_data import hub_data
from aftertune.inspect_bridge._logs import LoggedRun, read_log
from aftertune.runs import Progress, Silent
from aftertune.tasks import HARM_TASKS, TASKS

if TYPE_CHECKING:
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
        from aftertune.inspect_bridge._judge_check import refuse_silent_judges

        refuse_silent_judges(self.graders, redact=redact)

    def check(self, *, redact: bool = False) -> None:
        """Refuse what cannot be run, before anything is loaded.

        Args:
            redact: load no ``.env`` file for the keys of judges.

        Raises:
            UsageError: a task that there is not, a parameter it does not know, or a judge, a package or docker that
                is missing.
            DataError: a file that a parameter names cannot be used, or a data set of the hub cannot be had.
        """
        from aftertune import tasks
        from aftertune.inspect_bridge._judge_check import refuse_unknown_judges
        from aftertune.inspect_bridge._task_args import make_task
        from aftertune.judges import refuse_unserved

        self._refuse_one_name_for_two()
        self._refuse_unnamed()
        for name in self.qualified:
            if not name.startswith(OURS):
                _check_foreign(name, self.args)
                continue
            bare = name.removeprefix(OURS)
            row = TASKS.get(bare)
            if row is None:
                raise UsageError(
                    f"--task {bare}: no such task; there are {', '.join(TASKS)}, and any of Inspect's as PACKAGE/NAME"
                )
            if row.needs_judge(self.args):
                if not self.graders:
                    raise UsageError(f"--task {bare}: its answers are judged; name a judge with --grader MODEL")
                for grader in self.graders:
                    refuse_unserved(grader, {bare: row.asks(self.args)})
            make_task(getattr(tasks, bare), bare, self.args)
        refuse_unknown_judges(self.graders, redact=redact)

    def _refuse_unnamed(self) -> None:
        named = {part for name in self.qualified for part in (name, name.rpartition("/")[2], name.rpartition("@")[2])}
        for flag, tasks in (("--harm", self.harm), ("--good", self.good)):
            for task in tasks:
                # A file holds tasks of any name.
                if task not in named and not any(".py" in name for name in self.qualified):
                    raise UsageError(f"{flag} {task}: no such task is run; there are {', '.join(self.qualified)}")
        if both := set(self.harm) & set(self.good):
            raise UsageError(f"--harm {min(both)}: is named by --good as well; of a task one way is worse")

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
        }

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

    from aftertune.inspect_bridge._inspect_privacy import inspect_files
    from aftertune.inspect_bridge._provider import inspect_model
    from aftertune.inspect_bridge._task_progress import answers_shown

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        model = inspect_model(subject)
    answers = f"{plan.samples} samples a question" if plan.samples else "samples as the task says"
    progress.say(f"sampling {', '.join(plan.names)} ({answers}); logs in {folder}")
    judges: list[Model] = []
    try:
        # Inspect, its hooks and tasks of others may print; standard output is for results.
        quiet = contextlib.redirect_stdout(sys.stderr)
        with answers_shown(progress), quiet, _data_of(plan), inspect_files(redact=redact):
            judges += [get_model(name, memoize=False) for name in plan.graders]
            done, logs = eval_set(
                list(plan.qualified),
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


def _check_foreign(name: str, args: Mapping[str, Any]) -> None:
    """Make a task of another package, so that what it lacks is known before a model is loaded.

    Files are left to Inspect, and so is whatever else goes wrong here: a task may look for the model under evaluation.
    """
    package, _, bare = name.partition("/")
    if ".py" in name or _there(name) or package == "hf" or not package.isidentifier():
        _check_file(name)
        return
    from inspect_ai.util import registry_create

    if importlib.util.find_spec(package) is None:
        mend = "pip install 'aftertune[evals]'" if package == PACKAGE else "install what brings it"
        raise UsageError(f"--task {name}: there is no package {package}; {mend}")
    try:
        with hub_data(name), contextlib.redirect_stdout(io.StringIO()):
            task = registry_create("task", name, **args)
    except AftertuneError:
        raise
    except LookupError as error:
        if "registry" not in str(error):
            return
        raise UsageError(f"--task {name}: no such task in {package}; see `inspect list tasks`") from error
    except (AssertionError, ImportError) as error:
        row = KNOWN_TASKS.get(bare)
        mend = row.install if row and row.install and package == PACKAGE else ""
        raise UsageError(f"--task {name}: needs a package that is not here; {mend or first_line(error)}") from error
    except TypeError as error:  # a parameter it does not know
        raise UsageError(f"--task {name}: {first_line(error)}") from error
    except OSError as error:  # what it fetches past `datasets`, or a file that a parameter names
        raise DataError(
            f"what it needs cannot be loaded ({first_line(error)}); nothing was decided", path=name
        ) from error
    except Exception:
        return
    if getattr(task.sandbox, "type", None) == "docker":
        _need_docker(name)


def _there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError as error:
        raise UsageError(f"--task {name[:60]}…: cannot be read ({error.strerror}); check the name") from None


def _check_file(name: str) -> None:
    """Refuse a file of tasks that is not there."""
    path = name.partition("@")[0]
    if path.endswith(".py") and not any(c in name for c in "*?[") and not _there(path):
        raise UsageError(f"--task {name}: no such file; check the path")


def _need_docker(name: str) -> None:
    try:
        found = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
        missing = found.returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        missing = True
    if missing:
        raise UsageError(f"--task {name}: runs what the model wrote in docker, and docker does not answer; start it")


def _data_of(plan: TaskPlan) -> contextlib.AbstractContextManager[None]:
    foreign = [name for name in plan.qualified if not name.startswith(OURS)]
    return hub_data(", ".join(foreign)) if foreign else contextlib.nullcontext()


def _why(logs: list[EvalLog]) -> str:
    for log in logs:
        if log.status != "success":
            reason = log.error.message.strip().splitlines()[0] if log.error and log.error.message else log.status
            return f"{log.eval.task}: did not finish ({reason})"
    return "a task did not finish"


def first_line(error: BaseException) -> str:
    """What an error says, in one line without markup."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\[/?[a-z ]+\]", "", lines[0]).removeprefix("ERROR: ")
