"""What judges said of one answer, as a log keeps it: the first of them, and those that give second opinions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OPINIONS = "opinions"


@dataclass(frozen=True)
class Opinion:
    """One judge on one answer by one rubric.

    Attributes:
        judge: its name.
        rubric: what it was asked, as the scorer names it, such as "aligned".
        value: on the rubric's scale; None where there is no number.
        word: one of the rubric's words; None where there is none. Without both the answer is ungraded.
        place: 0 for the judge that the metrics rest on, 1 and on for second opinions.
    """

    judge: str
    rubric: str
    value: float | None = None
    word: str | None = None
    place: int = 0


def read_opinions(scores: Iterable[Mapping[str, Any] | None]) -> tuple[Opinion, ...]:
    """The ratings of one answer, those of the first judge first.

    A scorer of ours notes its judge under ``grader``, its rubrics under ``rubrics``, and what the judge said under
    each rubric's name. Second opinions stand in the list ``opinions``, each noted likewise: a judge under ``grader``,
    ratings under the rubrics' names. Or they are scores of their own, as ``inspect score --action append`` adds them.

    Args:
        scores: metadata of the answer's scores, in the order of the log.

    Returns:
        Nothing for scores of other tasks, and of answers that were not shown to a judge.
    """
    found: list[Opinion] = []
    place = 0
    for metadata in scores:
        rubrics = (metadata or {}).get("rubrics")
        if not metadata or not isinstance(rubrics, Mapping):
            continue
        further = metadata.get(OPINIONS)
        for noted in (metadata, *(further if isinstance(further, list) else ())):
            if isinstance(noted, Mapping) and isinstance(noted.get("grader"), str):
                found.extend(_ratings(noted, rubrics, place))
                place += 1
    return tuple(found)


def _ratings(noted: Mapping[str, Any], rubrics: Iterable[str], place: int) -> Iterator[Opinion]:
    for rubric in rubrics:
        rating = noted.get(rubric)
        if not isinstance(rating, Mapping):
            continue
        word = rating.get("word")
        yield Opinion(
            judge=noted["grader"],
            rubric=rubric,
            value=_finite(rating.get("value")),
            word=word if isinstance(word, str) else None,
            place=place,
        )


def _finite(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
