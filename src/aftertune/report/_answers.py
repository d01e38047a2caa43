"""Sampled answers for the page: rows that can be opened and filtered, and how far judges agree on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from aftertune.report._sections import Table
from aftertune.report._text import number, shorten, signed, unit, with_unit
from aftertune.stats import CHANGES, AnswerChange, JudgeAgreement, SampledAnswer, SampledAnswers, find_metric

_WORDS: dict[AnswerChange, str] = {"worse": "worse", "better": "better", "same": "no change", "open": "no number"}
_KINDS = {
    "refusal": "refused",
    "answer": "answered",
    "gibberish": "unreadable",
    "truncated": "cut off",
    "": "not sorted",
}
_OPENING = 90


class Option(NamedTuple):
    """One choice of a filter; rows carry its key, a number, so that no text of a user stands in an attribute."""

    key: int
    label: str
    answers: int


class Filter(NamedTuple):
    """What rows can be chosen by."""

    name: str
    label: str
    options: tuple[Option, ...]


class Row(NamedTuple):
    """One answer for the template.

    Attributes:
        answer: the answer.
        keys: (filter, key), for every filter.
        facts: task, category and kinds, as far as they tell rows apart.
        asked: how the question begins.
        said: how the tuned model's answer begins.
        moved: the main metric, base and tuned, in words where every answer is a yes or a no.
    """

    answer: SampledAnswer
    keys: tuple[tuple[str, int], ...]
    facts: str
    asked: str
    said: str
    moved: str


class Browser(NamedTuple):
    """Everything the template shows."""

    filters: tuple[Filter, ...]
    rows: tuple[Row, ...]
    sampled: int
    left_out: int


def browse(answers: SampledAnswers) -> Browser:
    """Answers, those that got worse first, with filters by task, category, kind and change where there is a choice."""
    order = {change: place for place, change in enumerate(("worse", "better", "open", "same"))}
    shown = sorted(answers.shown, key=lambda row: order[row.change])
    columns = (
        ("task", "Task", [_spaced(row.task) for row in shown]),
        ("group", "Category", [_spaced(row.group) or "none" for row in shown]),
        ("kinds", "Kind, base → tuned", [_kinds(row) for row in shown]),
        ("change", "Main metric", [_WORDS[row.change] for row in shown]),
    )
    filters = tuple(_filter(*column) for column in columns)
    keys = {one.name: {option.label: option.key for option in one.options} for one in filters}
    chosen = tuple(one for one in filters if len(one.options) > 1)
    names = {one.name for one in chosen} - {"change"}
    rows = tuple(
        Row(
            row,
            tuple((name, keys[name][values[place]]) for name, _, values in columns),
            " · ".join(values[place] for name, _, values in columns if name in names),
            shorten(row.question, _OPENING),
            shorten(row.tuned.text, _OPENING),
            _moved(row),
        )
        for place, row in enumerate(shown)
    )
    return Browser(chosen, rows, answers.sampled, answers.left_out)


def _filter(name: str, label: str, values: Sequence[str]) -> Filter:
    counts = Counter(values)
    known = [_WORDS[change] for change in CHANGES]
    order = [word for word in known if word in counts] if name == "change" else list(counts)
    return Filter(name, label, tuple(Option(key, value, counts[value]) for key, value in enumerate(order)))


def _kinds(row: SampledAnswer) -> str:
    base, tuned = (_KINDS.get(side.kind, _spaced(side.kind)) for side in (row.base, row.tuned))
    return base if base == tuned else f"{base} → {tuned}"


def _moved(row: SampledAnswer) -> str:
    if not row.metric:
        return ""
    metric, values = find_metric(row.metric), (row.base.value, row.tuned.value)
    if metric and metric.binary:
        base, tuned = ("no number" if value is None else "yes" if value else "no" for value in values)
        name = _spaced(metric.id.partition(".")[2])
        return f"{name}: {base}" if base == tuned else f"{name}: {base} → {tuned}"
    base, tuned = ("n/a" if value is None else number(value) for value in values)
    return with_unit(f"{base} → {tuned}", unit(row.metric))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


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
            *("not defined" if alpha is None else number(alpha) for alpha in (one.alpha_values, one.alpha_labels)),
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
    return Table(title, "", ("First judge → second", *labels), rows, frozenset(range(1, len(labels) + 1)))


def _asked(one: JudgeAgreement) -> str:
    return f"{one.task}, {one.rubric}".replace("_", " ")
