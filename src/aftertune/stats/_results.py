"""What a comparison found, as plain data: its section, examples, sampled answers side by side, judges' agreement."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from markupsafe import escape

from aftertune.stats._baseline import SinceBaseline
from aftertune.stats._finding import Finding
from aftertune.stats._verdict import Verdict

# A browser stays quick with so many rows, and a file of so much text can still be sent around.
MOST_ANSWERS = 2_000
MOST_BYTES = 5_000_000
LONGEST_TEXT = 20_000

AnswerChange = Literal["worse", "better", "same", "open"]
CHANGES: tuple[AnswerChange, ...] = get_args(AnswerChange)


@dataclass(frozen=True)
class AnswerSide:
    """What one of the models said.

    Attributes:
        text: the answer; untrusted, escaped wherever shown, as are all texts here.
        kind: what it is by rule ("" where it was not sorted).
        judged: what was made of it, in words.
        value: its number on the task's main metric; None where there is none.
    """

    text: str
    kind: str = ""
    judged: str = ""
    value: float | None = None


@dataclass(frozen=True)
class SampledAnswer:
    """One question to both models, and what they said.

    Attributes:
        task: which one asked.
        item: the answer's id.
        group: category or form ("" for none).
        question: what was asked.
        metric: the task's main metric ("" for none).
        base: the base's answer.
        tuned: the tuned model's.
        change: of the metric from base to tuned; "open" where a number is missing.
    """

    task: str
    item: str
    group: str
    question: str
    metric: str
    base: AnswerSide
    tuned: AnswerSide
    change: AnswerChange


@dataclass(frozen=True)
class SampledAnswers:
    """Answers to show.

    Attributes:
        shown: in the order of the logs.
        sampled: how many there are in all.
    """

    shown: tuple[SampledAnswer, ...]
    sampled: int

    @property
    def left_out(self) -> int:
        """How many are not shown."""
        return self.sampled - len(self.shown)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SampledAnswers:
        """From JSON values; by hand, since pydantic refuses the lone surrogates that an answer may hold."""
        rows = (
            SampledAnswer(**{**row, "base": AnswerSide(**row["base"]), "tuned": AnswerSide(**row["tuned"])})
            for row in stored["shown"]
        )
        return cls(tuple(rows), int(stored["sampled"]))


def fit_answers(
    rows: Sequence[SampledAnswer],
    *,
    most: int = MOST_ANSWERS,
    most_bytes: int = MOST_BYTES,
    longest: int = LONGEST_TEXT,
) -> SampledAnswers:
    """As many answers as fit, of every task and category the same number as far as it has them.

    Which ones of a category is decided by digests of their ids: neither by what was said nor by the order, so that the
    rest is not unlike them. The same answers give the same choice.

    Args:
        rows: all of them.
        most: how many at most.
        most_bytes: of their texts together, as HTML; the first that would go beyond ends the choice.
        longest: characters of a text; what goes beyond is cut off, and the text says so.
    """
    places: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for place, row in enumerate(rows):
        order = hashlib.sha256(f"{row.task}\n{row.item}".encode(errors="backslashreplace")).hexdigest()
        places[row.task, row.group].append((order, place))
    turns = sorted(
        (turn, stratum, place)
        for stratum, members in enumerate(places.values())
        for turn, (_, place) in enumerate(sorted(members))
    )
    chosen: dict[int, SampledAnswer] = {}
    taken = 0
    for _, _, place in turns[:most]:
        row = _cut(rows[place], longest)
        taken += _weight(row)
        if taken > most_bytes:
            break
        chosen[place] = row
    return SampledAnswers(tuple(chosen[place] for place in sorted(chosen)), len(rows))


def _cut(row: SampledAnswer, longest: int) -> SampledAnswer:
    def cut(text: str) -> str:
        more = len(text) - longest
        return text if more <= 0 else f"{text[:longest]}… [{more:,} more characters, see the log]"

    def side(one: AnswerSide) -> AnswerSide:
        return replace(one, text=cut(one.text), judged=cut(one.judged))

    return replace(row, question=cut(row.question), base=side(row.base), tuned=side(row.tuned))


def _weight(row: SampledAnswer) -> int:
    sides = (row.base, row.tuned)
    texts = (row.item, row.group, row.question, *(t for side in sides for t in (side.text, side.judged)))
    return sum(len(str(escape(text)).encode(errors="replace")) for text in texts)


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


@dataclass(frozen=True)
class Example:
    """An item on which the two models differ much.

    Attributes:
        metric: whose values are shown.
        item: the item's id.
        group: its domain or category.
        base: the base's value.
        tuned: the tuned model's value.
        texts: field → text; untrusted, escaped wherever shown.
    """

    metric: str
    item: str
    group: str
    base: float
    tuned: float
    texts: Mapping[str, str]


@dataclass(frozen=True)
class ComparisonSection:
    """One tuned model against its base.

    Attributes:
        title: what to call the tuned model.
        about: a sentence on how it came to be ("" for none).
        verdict: of the comparison.
        base: identity record of the base.
        tuned: identity record of the tuned model.
        findings: all of them, breakdowns (``metric/group``) included.
        examples: items that moved most, worst first.
        since: what changed since an earlier audit (None where it was held against none).
        answers: what both models said when asked (None where nothing was sampled, or texts are left out).
        judges: how far judges agree, where several rated the same answers.
    """

    title: str
    about: str
    verdict: Verdict
    base: Mapping[str, Any]
    tuned: Mapping[str, Any]
    findings: tuple[Finding, ...]
    examples: tuple[Example, ...] = ()
    since: SinceBaseline | None = None
    answers: SampledAnswers | None = None
    judges: tuple[JudgeAgreement, ...] = ()
