"""What a log does not say in its numbers: answers that are missing or were cut, scores that are not read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from aftertune.inspect_bridge._foreign_tasks import KnownTask
from aftertune.inspect_bridge._samples import why_missing
from aftertune.inspect_bridge._scores import ScoreColumn
from aftertune.stats import find_metric

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog


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
