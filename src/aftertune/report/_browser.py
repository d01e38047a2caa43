"""The answer browser: rows that can be opened, and what they can be filtered by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.report._answers import CHANGES, Change, SampledAnswer, SampledAnswers
from aftertune.report._text import number, shorten, unit, with_unit

_WORDS: dict[Change, str] = {"worse": "worse", "better": "better", "same": "no change", "open": "no number"}
_OPENING = 90


@dataclass(frozen=True)
class Option:
    """One choice of a filter.

    Attributes:
        key: what rows that match carry; a number, so that no text of a user stands in an attribute.
        label: as a reader sees it.
        answers: how many rows match.
    """

    key: int
    label: str
    answers: int


@dataclass(frozen=True)
class Filter:
    """What rows can be chosen by."""

    name: str
    label: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Row:
    """One answer for the template.

    Attributes:
        answer: the answer.
        keys: (filter, key), for every filter.
        facts: task, category and kinds, as far as they tell rows apart.
        asked: how the question begins.
        moved: the main metric's number, base and tuned.
    """

    answer: SampledAnswer
    keys: tuple[tuple[str, int], ...]
    facts: str
    asked: str
    moved: str


@dataclass(frozen=True)
class Browser:
    """Everything the template shows."""

    filters: tuple[Filter, ...]
    rows: tuple[Row, ...]
    sampled: int
    left_out: int


def browse(answers: SampledAnswers) -> Browser:
    """Answers with their filters: by task, category, kind and change, each where there is more than one to choose."""
    shown = answers.shown
    columns = (
        ("task", "Task", [_spaced(row.task) for row in shown]),
        ("group", "Category", [_spaced(row.group) or "none" for row in shown]),
        ("kinds", "Kind, base → tuned", [_kinds(row) for row in shown]),
        ("change", "Main metric", [_WORDS[row.change] for row in shown]),
    )
    filters = tuple(_filter(*column) for column in columns)
    keys = {one.name: {option.label: option.key for option in one.options} for one in filters}
    told = [values for one, (name, _, values) in zip(filters, columns, strict=True) if _tells(one) and name != "change"]
    rows = tuple(
        Row(
            row,
            tuple((name, keys[name][values[place]]) for name, _, values in columns),
            " · ".join(values[place] for values in told),
            shorten(row.question, _OPENING),
            _moved(row),
        )
        for place, row in enumerate(shown)
    )
    return Browser(tuple(one for one in filters if _tells(one)), rows, answers.sampled, answers.left_out)


def _tells(one: Filter) -> bool:
    return len(one.options) > 1


def _filter(name: str, label: str, values: Sequence[str]) -> Filter:
    counts = Counter(values)
    known = [_WORDS[change] for change in CHANGES]
    order = [word for word in known if word in counts] if name == "change" else list(counts)
    return Filter(name, label, tuple(Option(key, value, counts[value]) for key, value in enumerate(order)))


def _kinds(row: SampledAnswer) -> str:
    base, tuned = (_spaced(side.kind) or "not sorted" for side in (row.base, row.tuned))
    return base if base == tuned else f"{base} → {tuned}"


def _moved(row: SampledAnswer) -> str:
    if not row.metric:
        return ""
    base, tuned = ("n/a" if side.value is None else number(side.value) for side in (row.base, row.tuned))
    return with_unit(f"{base} → {tuned}", unit(row.metric))


def _spaced(name: str) -> str:
    return name.replace("_", " ")
