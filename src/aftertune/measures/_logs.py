"""From a log that Inspect wrote to measurements: of our tasks by their own metrics, of any other by its scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import DataError
from aftertune.measures._foreign_tasks import FOREIGN_HARM, FOREIGN_SCORE, GRADES, KnownTask, is_ours, known_task
from aftertune.measures._measurement import Measurement
from aftertune.measures._metrics import find_metric
from aftertune.measures._opinions import Opinion, read_opinions
from aftertune.measures._response_kind import RESPONSE_KINDS
from aftertune.measures._task_metrics import HARM_TASKS
from aftertune.subject import DIGESTS

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample


@dataclass(frozen=True)
class LoggedAnswer:
    """One answer, as the log keeps it.

    Attributes:
        question: what was asked; of several turns all of them.
        answer: what the subject said.
        judged: what was made of it, in words.
        group: its category or form ("" for none).
        kind: what it is by rule ("" where no scorer of ours sorted it); see `response_kind`.
        opinions: what judges said of it, the first judge first.
    """

    question: str
    answer: str
    judged: str
    group: str = ""
    kind: str = ""
    opinions: tuple[Opinion, ...] = ()


@dataclass(frozen=True)
class LoggedRun:
    """One task on one subject, run by Inspect.

    Attributes:
        path: of the log.
        task: its name, without the package.
        identity: of the subject: what the log calls it, and the digest of its weights where our provider ran it.
        asked: what was asked and how, as plain values: two runs that differ here cannot be compared.
        measurements: one for each number of each answer; NaN where there is none.
        answers: by item.
    """

    path: str
    task: str
    identity: Mapping[str, Any]
    asked: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    answers: Mapping[str, LoggedAnswer]


def read_log(path: Path, harm: Collection[str] = HARM_TASKS) -> LoggedRun:
    """Read a finished log (.eval or .json).

    An answer that broke off, was not scored or was not graded is a measurement that is NaN, so that whoever compares
    finds it missing.

    Args:
        path: of the log.
        harm: tasks, other than ours, whose scores grow with harm.

    Raises:
        DataError: no such file, no log, one that holds no answers or was not brought to its end.
    """
    log = _read(path)
    if log.status != "success":
        problem = f"the run did not finish ({log.status}); go on with it by `inspect eval-retry`"
        raise DataError(problem, path=str(path))
    if not log.samples:
        raise DataError("holds no answers; run the task without --no-log-samples", path=str(path))
    ours, known = is_ours(log.eval), known_task(log)
    task = log.eval.task.rpartition("/")[2]
    identity = _identity(log)
    digest = str(identity["weights_sha256"] or identity["spec"])
    names = _score_names(log)
    measurements = [
        measurement
        for sample in log.samples
        for measurement in (
            known.measure(sample, digest, _item(sample))
            if known
            else _measure(sample, task, names, digest, ours=ours, harm=task in harm)
        )
    ]
    if not measurements:
        raise DataError("no score in it is a number; score it by `inspect score`", path=str(path))
    answers = {_item(sample): _answer(sample, known) for sample in log.samples}
    return LoggedRun(str(path), task, identity, _asked(log), tuple(measurements), answers)


def _read(path: Path) -> EvalLog:
    from inspect_ai.log import read_eval_log

    if not path.is_file():
        raise DataError("no such file", path=str(path))
    try:
        return read_eval_log(str(path), resolve_attachments=True)
    except Exception as error:  # zip, JSON, schema and version errors, each of its own kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"is no log of Inspect ({reason})", path=str(path)) from error


def _identity(log: EvalLog) -> dict[str, Any]:
    """Who answered. Weights count as known only where every answer names the same."""
    assert log.samples
    named = [sample.output.metadata or {} for sample in log.samples]
    return {
        "spec": log.eval.model,
        "model_args": {key: value for key, value in log.eval.model_args.items() if _is_plain(value)},
        "base_url": log.eval.model_base_url,
        **{name: _agreed([one.get(name) for one in named]) for name in DIGESTS},
    }


def _agreed(values: list[Any]) -> str | None:
    first = values[0]
    return first if isinstance(first, str) and all(value == first for value in values) else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _asked(log: EvalLog) -> dict[str, Any]:
    """What must be equal for two runs to be comparable; the prompts themselves, and who judged."""
    assert log.samples
    first = {sample.id: sample for sample in log.samples}
    # The order of choices, and which of them is right, are no part of the text.
    inputs = [[str(key), _text(first[key]), first[key].choices, first[key].target] for key in sorted(first, key=str)]
    config = log.eval.model_generate_config.model_dump(exclude_none=True)
    return {
        "task": log.eval.task_registry_name or log.eval.task,
        "task_version": str(log.eval.task_version),
        "task_args": json.loads(json.dumps(log.eval.task_args, default=str)),
        "rubrics": _rubrics(log),
        "prompts_sha256": hashlib.sha256(json.dumps(inputs).encode()).hexdigest(),
        "epochs": log.eval.config.epochs or 1,
        "generation": {key: value for key, value in config.items() if key in _GENERATION},
        "graders": _graders(log),
    }


_GENERATION = ("max_tokens", "temperature", "top_p", "top_k", "stop_seqs", "system_message", "reasoning_effort")


def _rubrics(log: EvalLog) -> list[str]:
    """What judges were asked, as our scorers note it; nothing for tasks of others."""
    scores = (score for sample in log.samples or () for score in (sample.scores or {}).values())
    return sorted({json.dumps((score.metadata or {}).get("rubrics")) for score in scores})


def _graders(log: EvalLog) -> dict[str, list[str]]:
    """Who has which role. Who judged is what the scores say: `inspect score` leaves the log's head as it was."""
    named = {name: _models(role) for name, role in sorted((log.eval.model_roles or {}).items())}
    noted = {judge for sample in log.samples or () if (judge := _first_judge(sample))}
    return {**named, "grader": sorted(noted)} if noted else named


def _first_judge(sample: EvalSample) -> str | None:
    notes = (score.metadata or {} for score in (sample.scores or {}).values())
    return next((n["grader"] for n in notes if "rubrics" in n and isinstance(n.get("grader"), str)), None)


def _models(role: Any) -> list[str]:
    return [str(getattr(model, "model", model)) for model in (role if isinstance(role, list) else [role])]


def _text(sample: EvalSample) -> str:
    if isinstance(sample.input, str):
        return sample.input
    return "\n".join(f"{message.role}: {message.text}" for message in sample.input)


def _score_names(log: EvalLog) -> dict[str, list[str]]:
    """Keys of every scorer's values: what a failed answer lacks must be known from the others."""
    assert log.samples
    names: dict[str, dict[str, None]] = {}
    for sample in log.samples:
        for scorer, score in (sample.scores or {}).items():
            keys = names.setdefault(scorer, {})
            if isinstance(score.value, dict):
                keys.update(dict.fromkeys(score.value))
            elif not isinstance(score.value, list) and _number(score.value) is not None and not keys:
                keys[""] = None
    return {scorer: [key for key in keys if key or len(keys) == 1] for scorer, keys in names.items()}


def _measure(
    sample: EvalSample, task: str, names: Mapping[str, list[str]], digest: str, *, ours: bool, harm: bool
) -> Iterator[Measurement]:
    cluster = str(sample.metadata.get("cluster") or sample.metadata.get("question") or sample.id)
    group = _group(sample)
    seen: set[str] = set()
    for scorer, keys in names.items():
        score = (sample.scores or {}).get(scorer)
        broken = sample.error is not None or score is None
        for key in keys:
            metric = f"{task}.{key}" if ours else _foreign(task, scorer, key, len(names), harm=harm)
            # A scorer that was appended later gives second opinions, not measurements.
            if find_metric(metric) is None or metric in seen:
                continue
            seen.add(metric)
            raw = None
            if not broken and score is not None:
                by_key = score.value if isinstance(score.value, dict) else {key: score.value}
                if ours and key not in by_key:
                    continue  # our scorers leave out what was not asked of this answer
                raw = by_key.get(key)
            value = _number(raw)
            yield Measurement(
                digest, 0, metric, _item(sample), cluster, math.nan if value is None else value, group=group
            )


def _foreign(task: str, scorer: str, key: str, scorers: int, *, harm: bool) -> str:
    parts = [task, *([scorer.rpartition("/")[2]] if scorers > 1 else []), *([key] if key else [])]
    name = ".".join(part.replace("/", "_").replace(":", "_") for part in parts)
    return f"{(FOREIGN_HARM if harm else FOREIGN_SCORE).id}:{name}"


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return GRADES.get(value)
    return float(value) if isinstance(value, int | float) else None


def _item(sample: EvalSample) -> str:
    return f"{sample.id}#{sample.epoch}"


def _group(sample: EvalSample, known: KnownTask | None = None) -> str:
    fields = (known.group,) if known else ("category", "form")
    return str(next((found for name in fields if (found := sample.metadata.get(name))), ""))


def _answer(sample: EvalSample, known: KnownTask | None) -> LoggedAnswer:
    scores = list((sample.scores or {}).values())
    judged = "; ".join(score.explanation for score in scores if score.explanation)
    notes = [score.metadata for score in scores]
    kind = next((noted["kind"] for noted in notes if noted and noted.get("kind") in RESPONSE_KINDS), "")
    group, opinions = _group(sample, known), read_opinions(notes)
    return LoggedAnswer(_text(sample), sample.output.completion, judged, group, kind, opinions)
