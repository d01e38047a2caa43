"""Log files of Inspect: the head alone where it is enough, an archive only within bounds, and the logs of a folder.

A log comes from another machine, so what it says of its own size is not to be trusted: the sizes in the archive's
directory are checked first, then that its members unpack to no more than they say, and only then is anything parsed.
Of a folder, one log a task is read; where it is unclear which, that is an error.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import DataError
from aftertune.inspect_bridge._foreign_tasks import task_name
from aftertune.inspect_bridge._likeness import settings
from aftertune.runs import require_regular

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

# What Inspect writes stays far below these. A head holds settings and results, a sample one conversation with its
# events; JSON of that sort shrinks five- to twentyfold, a bomb a thousandfold.
_MIB = 1 << 20
MAX_HEAD = 64 * _MIB
MAX_SAMPLE = 1024 * _MIB
MAX_LOG = 8192 * _MIB
MAX_RATIO = 100
_RATIO_FROM = 16 * _MIB
_METHODS = {0: "stored", 8: "deflate", 93: "zstd"}
_HEAD_MEMBERS = ("header.json", "_journal/start.json", "reductions.json")
# So little at a time, since a decoder may turn every byte that it is given into thousands.
_STEP = 4096


def read_head(path: Path) -> EvalLog:
    """A log without its samples, where it has them behind the head as Inspect writes it.

    Raises:
        DataError: no such file, no log, or an archive that unpacks to more than a log of Inspect holds.
    """
    return _read(path, header_only=True)


def read_whole(path: Path) -> EvalLog:
    """A log with its samples; attachments are left where they are (see `aftertune.inspect_bridge._samples.resolved`).

    Raises:
        DataError: no such file, no log, or an archive that unpacks to more than a log of Inspect holds.
    """
    return _read(path, header_only=False)


def _read(path: Path, *, header_only: bool) -> EvalLog:
    require_regular(path)
    if not path.is_file():
        raise DataError("no such file", path=str(path))
    from inspect_ai._util.constants import get_deserializing_context
    from inspect_ai.log import EvalLog, read_eval_log

    try:
        if not zipfile.is_zipfile(path):
            # Inspect's own reader of heads takes memory by the square of the depth.
            head = _before_samples(path.read_text("utf-8")) if header_only else {}
            if "eval" not in head:
                return read_eval_log(str(path))
            log = EvalLog.model_validate(head, context=get_deserializing_context())
            log.location = str(path)
            return log
        with path.open("rb") as file:
            _refuse_bomb(path, header_only=header_only)
            # From the open file Inspect reads by the directory that was checked.
            log = read_eval_log(file, header_only=header_only, format="eval")
            log.location = str(path)
            return log
    except DataError:
        raise
    except Exception as error:  # zip, JSON, schema and version errors, each of its own kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise DataError(f"is not a log of Inspect ({reason})", path=str(path)) from error


def _refuse_bomb(path: Path, *, header_only: bool) -> None:
    from inspect_ai.log import EvalLog  # noqa: F401  # teaches `zipfile` to read zstd

    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _refuse_sizes(path, members)
        # Names may repeat (a sample that was run again is appended); the last of a name is the one that is read.
        for member in {m.filename: m for m in members}.values():
            if not header_only or member.filename in _HEAD_MEMBERS:
                _refuse_understated(path, archive, member)


def _refuse_sizes(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    total = 0
    for member in members:
        total += member.file_size
        sample = member.filename.startswith("samples/")
        bound = MAX_SAMPLE if sample else MAX_HEAD if member.filename in _HEAD_MEMBERS[:2] else MAX_SAMPLE
        ratio = member.file_size / max(member.compress_size, 1)
        if member.compress_type not in _METHODS:
            raise DataError(f"{member.filename} in it is compressed in a way that Inspect does not use", path=str(path))
        if member.file_size > bound or (member.file_size > _RATIO_FROM and ratio > MAX_RATIO):
            raise _bomb(path, member, f"to {_mib(member.file_size)} from {_mib(member.compress_size)}")
    if total > MAX_LOG:
        raise DataError(
            f"unpacks to {_mib(total)}, more than the {_mib(MAX_LOG)} that are read of one log; "
            "split the run, or log less (`--no-log-model-api`)",
            path=str(path),
        )
    if total > _RATIO_FROM and total > MAX_RATIO * path.stat().st_size:
        raise DataError(f"unpacks to {_mib(total)} from {_mib(path.stat().st_size)}, as no log of Inspect does; "
                        "nothing of it was read", path=str(path))  # fmt: skip


def _refuse_understated(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.compress_type == zipfile.ZIP_STORED:
        if member.compress_size != member.file_size:
            raise _bomb(path, member, "to another size than it says")
        return
    # One byte more than is declared, without the check sum: what is beyond the declared size becomes visible.
    probe = copy.copy(member)
    probe.file_size = member.file_size + 1
    if hasattr(probe, "CRC"):
        del probe.CRC
    found = 0
    with archive.open(probe) as packed:
        while chunk := packed.read(_STEP):
            found += len(chunk)
    if found != member.file_size:
        raise _bomb(path, member, "to another size than it says")


def _bomb(path: Path, member: zipfile.ZipInfo, how: str) -> DataError:
    problem = f"{member.filename} in it unpacks {how}, as no log of Inspect does; nothing of it was read"
    return DataError(problem, path=str(path))


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"


def raw_head(path: Path) -> Mapping[str, Any]:
    """The head of a log as it stands in the file: what this version of Inspect does not know is still there.

    To be called after `read_head`, which checks the file. Nothing for a file that has no head of its own.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = json.loads(archive.read("header.json"))
        else:
            found = _before_samples(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _before_samples(text: str) -> dict[str, Any]:
    """The members of a JSON object up to "samples", which may be huge; Inspect writes them after the head."""
    decoder, found = json.JSONDecoder(), dict[str, Any]()
    place = _skip(text, 0)
    if text[place : place + 1] != "{":
        raise ValueError("no JSON object")
    place = _skip(text, place + 1)
    while text[place] == '"':
        name, place = decoder.raw_decode(text, place)
        if name == "samples":
            break
        found[name], place = decoder.raw_decode(text, _skip(text, text.index(":", place) + 1))
        place = _skip(text, place)
        if text[place] != ",":
            break
        place = _skip(text, place + 1)
    return found


def _skip(text: str, place: int) -> int:
    while place < len(text) - 1 and text[place].isspace():
        place += 1
    return place


@dataclass(frozen=True)
class LoggedHead:
    """What the head of a log says: enough to pair logs, and to refuse most that cannot be compared.

    Attributes:
        path: of the log.
        task: its name with the package, where it has one.
        model: who answered, as Inspect calls it.
        status: "success" for a run that was brought to its end.
        asked: as of `LoggedRun`, without what only the answers tell.
    """

    path: str
    task: str
    model: str
    status: str
    asked: Mapping[str, Any]


def read_log_head(path: Path) -> LoggedHead:
    """Read the head of a log, which is small however many answers there are.

    Raises:
        DataError: no such file, or no log.
    """
    log = read_head(path)
    asked, _ = settings(log, raw_head(path))
    return LoggedHead(str(path), asked["task"], log.eval.model, log.status, asked)


def logged_task(path: Path) -> str:
    """The name of a log's task with its package, from the head of the log alone.

    Raises:
        DataError: no log of Inspect.
    """
    return task_name(read_head(path).eval)


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
