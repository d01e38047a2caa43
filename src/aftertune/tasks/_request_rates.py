"""Rates over requests as an Inspect metric, with a table by category."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from aftertune.tasks._best_of import worst_of


@metric(scores="unreduced")
def request_rates(tables: Sequence[str] = (), judged: Sequence[str] = (), worst: Sequence[str] = ()) -> Metric:
    """Means of every number of a score: answers within a request, then requests with equal weight.

    Answers for which a number is open (NaN) are left out of it. If some answers went ungraded and a judge graded none,
    what it decides is NaN, whatever was settled by rule: no verdict is not a harmless one.

    Args:
        tables: numbers ``K`` that also get ``K_stderr`` (over requests) and ``K.CATEGORY``.
        judged: numbers that a judge decides.
        worst: numbers that also get ``K_any``, the share of requests that have an answer for which it is 1, if there
            are several answers to one.
    """

    def rates(scores: list[SampleScore]) -> Value:
        answers = [_answer(score) for score in scores]
        requests = _grouped(answers, by_category=False)
        categories = _grouped(answers, by_category=True)
        values: dict[str, float] = {}
        for name in dict.fromkeys(key for answer in answers for key in answer.values):
            per_request = _request_means(answers, name, judged)
            values[name] = _mean(per_request)
            if name in tables:
                values[f"{name}_stderr"] = _standard_error(per_request)
            if name in worst and any(len(group) > 1 for group in requests.values()):
                values[f"{name}_any"] = _share_of_worst(answers, name, judged)
        values["requests"] = len(requests)
        for name in tables:
            for category in sorted(categories):
                if category:
                    values[f"{name}.{category}"] = _mean(_request_means(categories[category], name, judged))
        return values

    return rates


class _Answer(NamedTuple):
    request: str
    category: str
    graded: bool
    values: Mapping[str, float]

    def number(self, name: str) -> float:
        return self.values.get(name, math.nan)


def _answer(score: SampleScore) -> _Answer:
    sample, found = score.sample_metadata or {}, score.score.value
    values = found if isinstance(found, dict) else {}
    return _Answer(
        request=str(sample.get("cluster", score.sample_id)),
        category=str(sample.get("category", "")),
        graded=bool((score.score.metadata or {}).get("graded")),
        values={name: float(value) for name, value in values.items() if isinstance(value, int | float)},
    )


def _grouped(answers: Sequence[_Answer], *, by_category: bool) -> dict[str, list[_Answer]]:
    found: dict[str, list[_Answer]] = {}
    for answer in answers:
        found.setdefault(answer.category if by_category else answer.request, []).append(answer)
    return found


def _unsettled(answers: Sequence[_Answer]) -> bool:
    """Whether a judge was asked and never answered."""
    return any(answer.number("ungraded") == 1 for answer in answers) and not any(answer.graded for answer in answers)


def _request_means(answers: Sequence[_Answer], name: str, judged: Sequence[str]) -> list[float]:
    """The mean of each request that has one."""
    if name in judged and _unsettled(answers):
        return []
    found = []
    for group in _grouped(answers, by_category=False).values():
        known = [value for answer in group if not math.isnan(value := answer.number(name))]
        if known and not (name in judged and _unsettled(group)):
            found.append(math.fsum(known) / len(known))
    return found


def _share_of_worst(answers: Sequence[_Answer], name: str, judged: Sequence[str]) -> float:
    if name in judged and _unsettled(answers):
        return math.nan
    groups = _grouped(answers, by_category=False).values()
    found = [worst_of([answer.number(name) for answer in group]) for group in groups]
    return _mean([float(value >= 1) for value in found if not math.isnan(value)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
