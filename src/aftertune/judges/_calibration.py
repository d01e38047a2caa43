"""How far a judge agrees with labelled answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inspect_ai.model import Model
from inspect_ai.util import collect

from aftertune.data import Row, read_rows
from aftertune.judges._agreement import Agreement, agreement
from aftertune.judges._rating import Rating, rate
from aftertune.judges._rubric import Rubric


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer and what a judge should say of it: a number of the rubric's scale, or one of its words."""

    question: str
    answer: str
    label: float | str


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
    return [_parse(row, rubric) for row in read_rows(source)]


def _parse(row: Row, rubric: Rubric) -> LabelledAnswer:
    row.refuse_unknown(("question", "answer", "label"), "labelled answer")
    question, answer = row.text("question"), row.text("answer", empty=True)
    label = row.fields.get("label")
    if isinstance(label, str) and label in rubric.words:
        return LabelledAnswer(question, answer, label)
    number = float(label) if isinstance(label, int | float) and not isinstance(label, bool) else math.nan
    if rubric.numeric and rubric.low <= number <= rubric.high:
        return LabelledAnswer(question, answer, number)
    scale = [f"a number from {rubric.low} to {rubric.high}"] if rubric.numeric else []
    raise row.error(f"must be {' or '.join([*scale, *rubric.words])}", "label")


def _as_rating(rubric: Rubric, label: float | str) -> Rating:
    if isinstance(label, str):
        # A refusal has a value on this one form: nothing was given away.
        return Rating(0.0 if rubric.form == "willing" else None, label, 1.0, "label")
    return Rating(float(label), None, 1.0, "label")
