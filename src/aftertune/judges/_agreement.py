"""How far two judges agree on the same answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from inspect_ai.scorer import SampleScore, Score, krippendorff_alpha

from aftertune.judges._rating import Rating

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
