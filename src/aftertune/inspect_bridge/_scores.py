"""Scores of tasks that are not ours, read as Inspect reads them; what cannot be read is named and never left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftertune.errors import DataError
from aftertune.inspect_bridge._foreign_tasks import number_of

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore


@dataclass(frozen=True)
class ScoreColumn:
    """One number of every answer: a scorer's, or one entry of a scorer that gives several.

    Attributes:
        scorer: its name among an answer's scores.
        key: of the entry; "" where the score is one value.
        view: how several answers to a question were reduced; "" for averaged or not at all.
        unread: why its values are no numbers ("" where they are).
    """

    scorer: str
    key: str = ""
    view: str = ""
    unread: str = ""

    @property
    def name(self) -> str:
        """Scorer and entry, as a user knows them."""
        return f"{self.scorer}.{self.key}" if self.key else self.scorer

    def value(self, sample: EvalSample) -> float:
        """The number of one answer; NaN where there is none."""
        return number_of(self.raw(sample))

    def raw(self, sample: EvalSample) -> Any:
        """What the scorer gave for one answer; NaN where it gave nothing."""
        score = (sample.scores or {}).get(self.scorer)
        if score is None:
            return math.nan
        if not self.key:
            return score.value
        return score.value.get(self.key) if isinstance(score.value, dict) else score.value


def score_columns(log: EvalLog, samples: Sequence[EvalSample], view: str = "") -> tuple[list[ScoreColumn], list[str]]:
    """Every number that a log's scorers give, and the entries that are texts and that Inspect does not count either.

    What Inspect counts and cannot be read as a number (lists, texts) is a column without numbers.

    Args:
        log: for its results, which tell what Inspect counts.
        samples: of one view.
        view: its name.
    """
    scorers = dict.fromkeys(name for sample in log.samples or () for name in sample.scores or ())
    columns: list[ScoreColumn] = []
    aside: list[str] = []
    for scorer in scorers:
        values = [sample.scores[scorer].value for sample in samples if sample.scores and scorer in sample.scores]
        given = [value for value in values if not _is_nan(value)]
        keys = dict.fromkeys(key for value in given if isinstance(value, dict) for key in value)
        counted = {entry.name for entry in _results(log, scorer)}
        for key in keys or {"": None}:
            column = ScoreColumn(scorer, key, view)
            raw = [found for sample in samples if not _is_nan(found := column.raw(sample))]
            read = [not math.isnan(number_of(one)) for one in raw if one is not None]
            # A remark may happen to be "no".
            if (read and all(read)) if key and key not in counted else (any(read) or not raw):
                columns.append(column)
            elif not key or key in counted:
                columns.append(ScoreColumn(scorer, key, view, _unread(raw)))
            else:
                aside.append(column.name)
    return columns, aside


def _unread(raw: Sequence[Any]) -> str:
    kinds = {"list": "lists", "dict": "objects", "str": "texts"}
    found = sorted({kinds.get(type(one).__name__, "empty") for one in raw})
    return f"its values are {' and '.join(found)}, and no numbers"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _results(log: EvalLog, scorer: str) -> Iterator[EvalScore]:
    yield from (score for score in (log.results.scores if log.results else ()) if score.scorer == scorer)


def refuse_other_means(log: EvalLog, samples: Sequence[EvalSample], columns: Iterable[ScoreColumn], path: str) -> None:
    """Refuse a log whose samples do not give the means that Inspect reports: its scores mean something else.

    Args:
        log: for its results.
        samples: of one view.
        columns: of that view.
        path: of the log, for errors.

    Raises:
        DataError: it names scorer and both numbers.
    """
    for column in columns:
        reported = _reported_mean(log, column)
        raw = [column.raw(sample) for sample in samples]
        given = [value for value in raw if not _is_nan(value)]
        if reported is None or not given or any(math.isnan(number_of(value)) for value in given):
            continue  # what Inspect takes for 0, an unreadable value, is a missing one here
        found = _mean_of_means(column, samples)
        if not math.isclose(found, reported, rel_tol=1e-6, abs_tol=1e-6):
            problem = (
                f"its scorer {column.name!r} has a mean of {reported:.6g} in the log's results and of {found:.6g} in "
                "its answers, so its scores are not what they seem; have both computed alike (`inspect score`)"
            )
            raise DataError(problem, path=path)


def _reported_mean(log: EvalLog, column: ScoreColumn) -> float | None:
    defined = {spec_metric for scorer in log.eval.scorers or () for spec_metric in _metric_names(scorer.metrics)}
    for entry in _results(log, column.scorer):
        if entry.name != (column.key or column.scorer) or (entry.reducer or "mean") != (column.view or "mean"):
            continue
        for name in ("mean", "accuracy"):
            # A task's own metric of the same name may be anything.
            if name in entry.metrics and f"inspect_ai/{name}" in defined and name not in defined:
                value = float(entry.metrics[name].value)
                return value if math.isfinite(value) else None
    return None


def _metric_names(metrics: Any) -> Iterator[str]:
    if isinstance(metrics, dict):
        for inner in metrics.values():
            yield from _metric_names(inner)
    elif isinstance(metrics, list):
        for one in metrics:
            yield from _metric_names(one) if isinstance(one, dict) else [one.name]


def _mean_of_means(column: ScoreColumn, samples: Iterable[EvalSample]) -> float:
    by_id: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        value = column.value(sample)
        if not math.isnan(value):
            by_id[str(sample.id)].append(value)
    means = [math.fsum(values) / len(values) for values in by_id.values()]
    return math.fsum(means) / len(means)
