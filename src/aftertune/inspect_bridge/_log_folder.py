"""The logs of a folder, one a task; what could be meant otherwise is refused and not resolved in silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftertune.errors import DataError
from aftertune.inspect_bridge._logs import LoggedHead, read_log_head


@dataclass(frozen=True)
class LogFolder:
    """The logs of a place.

    Attributes:
        heads: by task; under "" where the place is a log itself.
        left: what lies there and is not read, in words.
    """

    heads: Mapping[str, LoggedHead]
    left: tuple[str, ...] = ()


def logs_of(place: Path) -> LogFolder:
    """The log at a place, or those of a folder: one finished log a task, all of one model.

    Runs that did not finish are left out, and named, where a finished one of the same task lies beside them; folders
    in the folder are not looked into.

    Raises:
        DataError: nothing is there, or what is there can be taken in more than one way.
    """
    if not place.exists():
        raise DataError("no such file", path=str(place))
    if not place.is_dir():
        return LogFolder({"": read_log_head(place)})
    from inspect_ai.log import list_eval_logs

    paths = sorted(
        Path(info.name.removeprefix("file://")) for info in list_eval_logs(str(place), recursive=False, descending=True)
    )
    if not paths:
        deeper = any(inner.is_dir() for inner in place.iterdir())
        mend = "; folders in it are not looked into, name one of them" if deeper else ""
        raise DataError(f"holds no log of Inspect (.eval or .json){mend}", path=str(place))
    by_task: dict[str, list[LoggedHead]] = defaultdict(list)
    for path in paths:
        head = read_log_head(path)
        by_task[head.task].append(head)
    heads, left = {}, []
    for task, found in by_task.items():
        finished = [head for head in found if head.status == "success"]
        _refuse_several(place, task, finished or found)
        heads[task] = (finished or found)[0]
        left += [f"{Path(head.path).name} is not read, it did not finish ({head.status})"
                 for head in found if head is not heads[task]]  # fmt: skip
    _refuse_models(place, list(heads.values()))
    return LogFolder(heads, tuple(left))


def _refuse_several(place: Path, task: str, heads: Sequence[LoggedHead]) -> None:
    if len(heads) > 1:
        models = dict.fromkeys(head.model for head in heads)
        whose = f"of {' and '.join(models)}" if len(models) > 1 else f"of {heads[0].model}"
        names = ", ".join(Path(head.path).name for head in heads)
        problem = (
            f"holds {len(heads)} logs of {task}, {whose} ({names}); name one of them, or move the others elsewhere"
        )
        raise DataError(problem, path=str(place))


def _refuse_models(place: Path, heads: Sequence[LoggedHead]) -> None:
    by_model = {head.model: head for head in reversed(heads)}
    if len(by_model) > 1:
        names = ", ".join(f"{Path(head.path).name} of {model}" for model, head in by_model.items())
        problem = f"holds logs of {len(by_model)} models ({names}); give a folder of each model's own, or name the logs"
        raise DataError(problem, path=str(place))
