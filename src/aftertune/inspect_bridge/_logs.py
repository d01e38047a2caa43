"""From a log that Inspect wrote to measurements: of our tasks by their own metrics, of any other by its scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import DataError
from aftertune.inspect_bridge._foreign_tasks import (
    FOREIGN_HARM,
    FOREIGN_SCORE,
    FOREIGN_UNDIRECTED,
    HARM_TASKS,
    KnownTask,
    ScoreColumn,
    is_ours,
    known_task,
    number_of,
    refuse_other_means,
    score_columns,
)
from aftertune.inspect_bridge._likeness import settings
from aftertune.inspect_bridge._log_files import raw_head, read_whole
from aftertune.inspect_bridge._samples import (
    digests,
    edited,
    graders,
    item_of,
    judges,
    other_models,
    reduced_views,
    refuse_repeated,
    resolved,
    roles,
    rubrics,
    scorers,
    why_missing,
)
from aftertune.model import DIGESTS
from aftertune.stats import Measurement, Metric, find_metric

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

    from aftertune.judges import Opinion


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
        asked: what was asked and how, as plain values by name: two runs that differ here are not compared.
        measurements: one for each number of each answer; NaN where there is none.
        answers: by item.
        items: what was asked of each answer, as digests: by what it is (``prompts``, …) and by item.
        noted: what may differ between two runs, and is told where it does; by name.
        notes: what a reader of the numbers should know, such as how many answers broke off.
        columns: of a task that is neither ours nor known: which score each metric is.
    """

    path: str
    task: str
    identity: Mapping[str, Any]
    asked: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    answers: Mapping[str, LoggedAnswer]
    items: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    columns: Mapping[str, ScoreColumn] = field(default_factory=dict)


def read_log(path: Path, harm: Collection[str] = HARM_TASKS, good: Collection[str] = ()) -> LoggedRun:
    """Read a finished log (.eval or .json).

    An answer that broke off, was declared invalid, came from another model, was not scored or was not graded is a
    measurement that is NaN, so that whoever compares finds it missing.

    Args:
        path: of the log.
        harm: tasks, other than ours, whose scores grow with harm.
        good: tasks, other than ours, whose scores fall with harm. Of one that is in neither, and that we do not know,
            the direction is unknown.

    Raises:
        DataError: no such file, no log, one that holds no answers or was not brought to its end, whose answers cannot
            be told apart, or whose scores are not what its results say.
    """
    log = read_whole(path)
    _refuse_unfinished(log, str(path))
    assert log.samples
    ours, known = is_ours(log.eval), known_task(log)
    task = log.eval.task.rpartition("/")[2]
    identity = _identity(log)
    digest = str(identity["weights_sha256"] or identity["spec"])
    views = reduced_views(log, str(path))
    measured: list[Measurement] = []
    columns: dict[str, ScoreColumn] = {}
    unread: list[str] = []
    if ours or known:
        keys = score_keys(log)
        view = next(iter(sorted(views)))  # averaged answers, where there are any
        for sample in views[view]:
            item, lost = _item(sample, view), bool(why_missing(sample))
            counting = sample.model_copy(update={"scores": None}) if lost else sample
            measured += known.measure(counting, digest, item) if known else _of_ours(counting, keys, task, digest, item)
    else:
        found, unread = _columns(log, views, str(path))
        columns = _named(found, task, _direction(log, harm, good))
        for name, column in columns.items():
            measured += [_measurement(sample, name, column, digest) for sample in views[column.view]]
    if not any(math.isfinite(m.value) for m in measured):
        what = "; ".join(f"{column.name}: {column.unread}" for column in columns.values() if column.unread)
        raise DataError(f"no score in it is a number ({what or 'none was given'}); score it with `inspect score`",
                        path=str(path))  # fmt: skip
    asked, noted, items = _asked(log, path)
    answers = _answers(log, views, known)
    notes = log_notes(log, unread, columns.values())
    if ours or known:
        notes = (*notes, *unread_scorers(log, task, known))
    return LoggedRun(str(path), task, identity, asked, tuple(measured), answers, items, noted, notes, columns)


def _refuse_unfinished(log: EvalLog, path: str) -> None:
    if log.status != "success":
        problem = f"the run did not finish ({log.status}); continue it with `inspect eval-retry`"
        raise DataError(problem, path=path)
    if not log.samples:
        raise DataError("holds no answers; run the task without --no-log-samples", path=path)
    refuse_repeated(log.samples, path)
    planned = log.results.total_samples if log.results else 0
    if len(log.samples) < planned and not (log.results and log.results.early_stopping):
        problem = f"holds {len(log.samples)} of its {planned} answers; run the task to its end, with all of them logged"
        raise DataError(problem, path=path)


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


def _asked(log: EvalLog, path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, str]]]:
    """What must be equal for two runs to be comparable, what is noted, and what was asked of each answer."""
    assert log.samples
    same, noted = settings(log, raw_head(path))
    items = digests(log)
    noted_judges = graders(log)
    asked = {
        "task": same["task"],
        "task_version": same["task_version"],
        "task_args": same["task_args"],
        "samples": len(log.samples),
        "rubrics": rubrics(log),
        "graders": noted_judges,
        "scored": sorted({name for sample in log.samples for name in sample.scores or ()}),
        "scorers": scorers(log),
        "judges": judges(log),
        **same,
        "roles": roles(log, noted_judges),
        "models": other_models(log),
        "edits": edited(log),
        **{name: _digest(found) for name, found in items.items()},
    }
    return asked, noted, items


def _digest(found: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _direction(log: EvalLog, harm: Collection[str], good: Collection[str]) -> Metric:
    names = {log.eval.task, log.eval.task.rpartition("/")[2], log.eval.task_registry_name}
    if names & set(harm):
        return FOREIGN_HARM
    return FOREIGN_SCORE if names & set(good) else FOREIGN_UNDIRECTED


def _columns(log: EvalLog, views: Mapping[str, Sequence[EvalSample]], path: str) -> tuple[list[ScoreColumn], list[str]]:
    found: list[ScoreColumn] = []
    aside: dict[str, None] = {}
    for view, samples in views.items():
        columns, texts = score_columns(log, samples, view)
        refuse_other_means(log, samples, columns, path)
        found += columns
        aside.update(dict.fromkeys(texts))
    return found, list(aside)


def _named(columns: Sequence[ScoreColumn], task: str, metric: Metric) -> dict[str, ScoreColumn]:
    """Metrics by name: the task's, then the scorer's where there are several, the entry's, and the view's."""
    several = len({column.scorer for column in columns}) > 1
    named: dict[str, ScoreColumn] = {}
    for column in columns:
        scorer = [column.scorer.rpartition("/")[2]] if several else []
        parts = [task, *scorer, *([column.key] if column.key else []), *([column.view] if column.view else [])]
        name = f"{metric.id}:{'.'.join(part.replace('/', '_').replace(':', '_') for part in parts)}"
        while name in named:
            name += "_"
        named[name] = column
    return named


def on_shared_scorers(base: LoggedRun, tuned: LoggedRun) -> tuple[LoggedRun, LoggedRun]:
    """Two runs with the numbers of the scorers that both have, named alike; the others are noted.

    A scorer that was added to one log later (``inspect score --action append``) is no measurement of the pair.
    """
    theirs, ours = ({column.scorer for column in run.columns.values()} for run in (base, tuned))
    if theirs == ours or not theirs & ours:
        return base, tuned
    return _only(base, theirs & ours), _only(tuned, theirs & ours)


def _only(run: LoggedRun, shared: Collection[str]) -> LoggedRun:
    kept = [column for column in run.columns.values() if column.scorer in shared]
    metric = find_metric(next(iter(run.columns)))
    assert metric is not None
    columns = _named(kept, run.task, metric)
    names = {old: new for old, column in run.columns.items() for new, named in columns.items() if column is named}
    left = sorted({column.scorer for column in run.columns.values()} - set(shared))
    notes = (f"scored in one log only, and not compared: {', '.join(left)}",) if left else ()
    return replace(
        run,
        measurements=tuple(replace(m, metric=names[m.metric]) for m in run.measurements if m.metric in names),
        columns=columns,
        notes=(*run.notes, *notes),
    )


def _of_ours(
    sample: EvalSample, keys: Mapping[str, Sequence[str]], task: str, digest: str, item: str
) -> Iterator[Measurement]:
    seen: set[str] = set()
    for scorer, names in keys.items():
        score = (sample.scores or {}).get(scorer)
        for key in names:
            metric = f"{task}.{key}"
            # A scorer that was appended later gives second opinions, not measurements.
            if find_metric(metric) is None or metric in seen:
                continue
            seen.add(metric)
            if score is None:
                value = math.nan
            else:
                by_key = score.value if isinstance(score.value, dict) else {key: score.value}
                if key not in by_key:
                    continue  # our scorers leave out what was not asked of this answer
                value = number_of(by_key[key])
            yield Measurement(digest, 0, metric, item, _cluster(sample), value, group=_group(sample))


def _measurement(sample: EvalSample, metric: str, column: ScoreColumn, digest: str) -> Measurement:
    value = math.nan if why_missing(sample) else column.value(sample)
    return Measurement(digest, 0, metric, _item(sample, column.view), _cluster(sample), value, group=_group(sample))


def _cluster(sample: EvalSample) -> str:
    return str(sample.metadata.get("cluster") or sample.metadata.get("question") or sample.id)


def _item(sample: EvalSample, view: str) -> str:
    """An answer, or a question where its answers were reduced to one score."""
    return str(sample.id) if view else item_of(sample)


def _text(sample: EvalSample) -> str:
    if isinstance(sample.input, str):
        return resolved(sample.input, sample)
    return resolved("\n".join(f"{message.role}: {message.text}" for message in sample.input), sample)


def _group(sample: EvalSample, known: KnownTask | None = None) -> str:
    fields = (known.group,) if known else ("category", "form")
    return str(next((found for name in fields if (found := sample.metadata.get(name))), ""))


def _answers(
    log: EvalLog, views: Mapping[str, Sequence[EvalSample]], known: KnownTask | None
) -> dict[str, LoggedAnswer]:
    found = {item_of(sample): _answer(sample, known) for sample in views.get("", ())}
    attempts: dict[str, list[str]] = defaultdict(list)
    for sample in log.samples or ():
        attempts[str(sample.id)].append(f"[{sample.epoch}] {resolved(sample.output.completion, sample)}")
    for view, samples in views.items():
        if view:
            for sample in samples:
                whole = "\n\n".join(attempts[str(sample.id)])
                found[str(sample.id)] = replace(_answer(sample, known), answer=whole)
    return found


def _answer(sample: EvalSample, known: KnownTask | None) -> LoggedAnswer:
    from aftertune.judges import RESPONSE_KINDS, read_opinions

    scores = list((sample.scores or {}).values())
    judged = "; ".join(score.explanation for score in scores if score.explanation)
    notes = [score.metadata for score in scores]
    kind = next((noted["kind"] for noted in notes if noted and noted.get("kind") in RESPONSE_KINDS), "")
    group, opinions = _group(sample, known), read_opinions(notes)
    answer = resolved(sample.output.completion, sample)
    return LoggedAnswer(_text(sample), answer, judged, group, kind, opinions)


def log_notes(log: EvalLog, aside: Sequence[str], columns: Collection[ScoreColumn]) -> tuple[str, ...]:
    """What a reader of a log's numbers should know: answers that are missing, were cut or tried again, scores not read.

    Args:
        log: with its samples.
        aside: entries of scores that are texts, and that Inspect does not count.
        columns: the numbers that are read, of a task that is neither ours nor known.
    """
    samples = log.samples or []
    lost = Counter(why for sample in samples if (why := why_missing(sample)))
    stopped = Counter(sample.limit.type for sample in samples if sample.limit is not None)
    retried = sum(bool(sample.error_retries) for sample in samples)
    notes = [f"{count} of {len(samples)} answers {why}" for why, count in lost.items()]
    notes += [f"{count} of {len(samples)} answers were stopped by a limit ({kind})" for kind, count in stopped.items()]
    notes += [f"{retried} of {len(samples)} answers were tried again after an error"] if retried else []
    notes += [f"score {column.name} is not read: {column.unread}" for column in columns if column.unread]
    notes += [f"not read, being texts that Inspect does not count: {', '.join(aside)}"] if aside else []
    return tuple(dict.fromkeys(notes))


def unread_scorers(log: EvalLog, task: str, known: KnownTask | None) -> list[str]:
    """Scorers that say something of a task whose metrics are fixed, and are no metric of it."""
    scorers = score_keys(log)
    if known:
        left = sorted(scorers.keys() - {known.scorer})
    else:
        judged = {name for sample in log.samples or () for name, score in (sample.scores or {}).items()
                  if "rubrics" in (score.metadata or {})}  # fmt: skip
        read = {name for name, keys in scorers.items() if any(find_metric(f"{task}.{key}") for key in keys)}
        left = sorted(scorers.keys() - judged - read)
    return [f"not read, being no metric of this task: {', '.join(left)}"] if left else []


def score_keys(log: EvalLog) -> dict[str, list[str]]:
    """Keys of every scorer's values: what a failed answer lacks must be known from the others."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for sample in log.samples or ():
        for scorer, score in (sample.scores or {}).items():
            names[scorer].update(dict.fromkeys(score.value) if isinstance(score.value, dict) else {})
    return {scorer: list(keys) for scorer, keys in names.items()}
