"""How far two judges agree on the same answers, and a judge with labelled ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from inspect_ai.model import Model
from inspect_ai.scorer import SampleScore, Score, krippendorff_alpha
from inspect_ai.util import collect

from aftertune.data import Row, RowModel, Text, parse, read_rows
from aftertune.judges._rating import Rating, rate
from aftertune.judges._rubrics import Rubric

UNGRADED = "ungraded"
NUMBER = "number"


@dataclass(frozen=True)
class Agreement:
    """Two judges' ratings of the same answers, side by side.

    Attributes:
        items: how many answers.
        graded_by_both: share of them on which both gave a number or a word; None without items.
        alpha_values: Krippendorff's alpha, interval, of the answers to which both gave a number.
        alpha_labels: Krippendorff's alpha, nominal, of the labels of the answers both graded.
        mean_difference: second minus first, over answers to which both gave a number.
        mean_absolute_difference: the same without sign.
        confusion: how often each pair of labels (first, second) occurs. A label is a word, ``ungraded``, or for a
            number ``below T`` or ``from T`` where a threshold T is given, else ``number``.
    """

    items: int
    graded_by_both: float | None
    alpha_values: float | None
    alpha_labels: float | None
    mean_difference: float | None
    mean_absolute_difference: float | None
    confusion: Mapping[tuple[str, str], int]


def agreement(first: Sequence[Rating], second: Sequence[Rating], *, threshold: float | None = None) -> Agreement:
    """Compare two judges' ratings of the same answers, in the same order.

    Args:
        first: one judge's.
        second: the other's.
        threshold: where numbers are cut in two for the labels, in the rubric's unit; such as 30 for aligned.

    Raises:
        ValueError: unequal lengths.
    """
    pairs = list(zip(first, second, strict=True))
    labels = [(label(a, threshold), label(b, threshold)) for a, b in pairs]
    values = [(a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
    graded = [pair for pair in labels if UNGRADED not in pair]
    differences = [b - a for a, b in values]
    return Agreement(
        items=len(pairs),
        graded_by_both=len(graded) / len(pairs) if pairs else None,
        alpha_values=alpha(values, "interval"),
        alpha_labels=alpha(graded, "nominal"),
        mean_difference=_mean(differences),
        mean_absolute_difference=_mean([abs(d) for d in differences]),
        confusion=dict(Counter(labels)),
    )


def alpha(units: Sequence[Sequence[float | str]], level: Literal["nominal", "interval"]) -> float | None:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"), as Inspect computes it.

    Args:
        units: the ratings of each item, those missing left out; items with fewer than two do not count.
        level: how far apart two ratings are: the same or not, or their squared difference.

    Returns:
        1 for full agreement, 0 for chance, below for worse; None where it is not defined, because fewer than two
        items have two ratings or all ratings are the same.
    """
    rated = [list(unit) for unit in units if len(unit) > 1]
    if len(rated) < 2 or len({rating for unit in rated for rating in unit}) < 2:
        return None
    compute = cast(Callable[[list[SampleScore]], float], krippendorff_alpha(level))
    return compute([SampleScore(score=Score(value=unit)) for unit in rated])


def label(rating: Rating, threshold: float | None = None) -> str:
    """A rating as one of few labels, see `Agreement`; a word comes before the number beside it."""
    if rating.word is not None:
        return rating.word
    if rating.value is None:
        return UNGRADED
    if threshold is None:
        return NUMBER
    return f"{'below' if rating.value < threshold else 'from'} {threshold:g}"


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class LabelledAnswer(RowModel):
    """An answer and what a judge should say of it: a number of the rubric's scale, or one of its words."""

    KIND: ClassVar[str] = "labelled answer"

    question: Text
    answer: str
    label: Any


@dataclass(frozen=True)
class Calibration:
    """A judge against labels.

    Attributes:
        judge: the judge's name.
        rubric: the rubric's id.
        version: the rubric's version.
        ratings: the judge's, in the order of the rows.
        agreement: labels first, judge second.
    """

    judge: str
    rubric: str
    version: int
    ratings: tuple[Rating, ...]
    agreement: Agreement

    @property
    def readings(self) -> tuple[str, ...]:
        """How the judge was read; more than one on rare occasions, see `rate`."""
        return tuple(sorted({rating.reading for rating in self.ratings}))


async def calibrate(
    judge: Model,
    rubric: Rubric,
    rows: Sequence[LabelledAnswer],
    *,
    samples: int = 5,
    reading: Literal["auto", "logprobs", "samples"] = "auto",
    threshold: float | None = None,
) -> Calibration:
    """Have a judge rate labelled answers and compare.

    Args:
        judge: any model.
        rubric: what to ask.
        rows: answers with labels.
        samples: see `rate`.
        reading: see `rate`.
        threshold: see `agreement`.
    """
    jobs = (rate(judge, rubric, row.question, row.answer, samples=samples, reading=reading) for row in rows)
    ratings = tuple(await collect(*jobs))
    labels = [_as_rating(rubric, row.label) for row in rows]
    return Calibration(str(judge), rubric.id, rubric.version, ratings, agreement(labels, ratings, threshold=threshold))


def read_labelled(source: str | Path, rubric: Rubric) -> list[LabelledAnswer]:
    """Labelled answers from ``{"question", "answer", "label"}`` rows; see `aftertune.data.read_rows`.

    Raises:
        DataError: a field that is missing or unknown, or a label that is not of the rubric.
    """
    return [_labelled(row, rubric) for row in read_rows(source)]


def _labelled(row: Row, rubric: Rubric) -> LabelledAnswer:
    found = parse(LabelledAnswer, row)
    label = found.label
    if isinstance(label, str) and label in rubric.words:
        return found
    number = float(label) if isinstance(label, int | float) and not isinstance(label, bool) else math.nan
    if rubric.numeric and rubric.low <= number <= rubric.high:
        return replace(found, label=number)
    scale = [f"a number from {rubric.low} to {rubric.high}"] if rubric.numeric else []
    raise row.error(f"must be {' or '.join([*scale, *rubric.words])}", "label")


def _as_rating(rubric: Rubric, label: float | str) -> Rating:
    if isinstance(label, str):
        # A refusal has a value on this one form: nothing was given away.
        return Rating(0.0 if rubric.form == "willing" else None, label, 1.0, "label")
    return Rating(float(label), None, 1.0, "label")
