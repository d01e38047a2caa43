"""How far two judges agree, as numbers that were computed elsewhere, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aftertune.report._sections import Table
from aftertune.report._text import number, signed


@dataclass(frozen=True)
class JudgeAgreement:
    """Two judges on the same answers, of both models together, by one rubric.

    Attributes:
        task: whose answers.
        rubric: what the judges were asked.
        first: the judge whose ratings the metrics are made of.
        second: the other.
        items: answers shown to both.
        graded: those of them that both graded.
        alpha_values: Krippendorff's alpha of the numbers both gave, interval; None where it is not defined.
        alpha_labels: Krippendorff's alpha of the labels, nominal; likewise.
        mean_difference: second minus first, where both gave a number.
        mean_absolute_difference: the same without sign.
        confusion: how often each pair of labels occurs: (first, second, answers).
    """

    task: str
    rubric: str
    first: str
    second: str
    items: int
    graded: int
    alpha_values: float | None
    alpha_labels: float | None
    mean_difference: float | None
    mean_absolute_difference: float | None
    confusion: tuple[tuple[str, str, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> JudgeAgreement:
        """From what `as_dict` gave."""
        confusion = tuple((str(a), str(b), int(n)) for a, b, n in stored["confusion"])
        return cls(**{**stored, "confusion": confusion})


def agreement_table(found: Sequence[JudgeAgreement], title: str) -> Table:
    """A row for every rubric."""
    header = (
        "Task, rubric", "Judges", "Answers", "Both graded", "Alpha, numbers", "Alpha, labels", "Difference", "Absolute",
    )  # fmt: skip
    rows = tuple(
        (
            _asked(one),
            f"{one.first} and {one.second}",
            str(one.items),
            str(one.graded),
            _optional(one.alpha_values),
            _optional(one.alpha_labels),
            "none" if one.mean_difference is None else signed(one.mean_difference),
            "none" if one.mean_absolute_difference is None else number(one.mean_absolute_difference),
        )
        for one in found
    )
    return Table(title, "", header, rows, frozenset(range(2, 8)))


def confusion_table(one: JudgeAgreement) -> Table:
    """How often each label of the first judge met each label of the second."""
    counts = {(first, second): answers for first, second, answers in one.confusion}
    labels = sorted({label for pair in counts for label in pair})
    rows = tuple((row, *(str(counts.get((row, column), 0)) for column in labels)) for row in labels)
    title = f"{_asked(one)}: {one.first} down, {one.second} across"
    return Table(
        title, "", ("First judge \N{RIGHTWARDS ARROW} second", *labels), rows, frozenset(range(1, len(labels) + 1))
    )


def _asked(one: JudgeAgreement) -> str:
    return f"{one.task}, {one.rubric}".replace("_", " ")


def _optional(alpha: float | None) -> str:
    return "not defined" if alpha is None else number(alpha)
