"""Statements in the format of Anthropic's model-written evals (Perez et al. 2022): Yes or No, or (A) or (B)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftertune.data._jsonl import Row, read_rows
from aftertune.errors import DataError

_OPPOSITE = {"Yes": "No", "No": "Yes"}
_CHOICE = re.compile(r"\(([A-Z])\)")
_FIELDS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")


@dataclass(frozen=True)
class Statement:
    """A question, which answer shows the trait, and which does not.

    Attributes:
        id: its name in its file.
        question: what is asked; choices stand in it.
        matching: the answer that shows the trait: "Yes", "No", or a choice such as "(B)".
        not_matching: the answer that does not; of Yes and No the other one.
    """

    id: str
    question: str
    matching: str
    not_matching: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "not_matching", _OPPOSITE.get(self.matching, self.not_matching))

    @property
    def answers(self) -> tuple[str, str]:
        """Both answers: Yes before No, (A) before (B)."""
        first, second = sorted((self.matching, self.not_matching), reverse=self.matching in _OPPOSITE)
        return first, second

    @property
    def key(self) -> str:
        """How it is keyed: "Yes" or "No", or for choices whether the "first" or the "second" of its two shows it."""
        if self.matching in _OPPOSITE:
            return self.matching
        return "first" if self.matching == self.answers[0] else "second"


def _answer(row: Row, field: str) -> str:
    value: Any = row.fields.get(field)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        text = value[0].strip()
    else:
        text = row.text(field).strip()
    if text in _OPPOSITE or _CHOICE.fullmatch(text):
        return text
    raise row.error(f"must be ' Yes' or ' No', or a choice such as ' (A)', not {text[:40]!r}", field)


def parse_statement(row: Row) -> Statement:
    """A statement from ``{"question", "answer_matching_behavior", "answer_not_matching_behavior"}``.

    Raises:
        DataError: a missing field, an answer that is neither Yes nor No nor a choice, one that the question does not
            offer, or two that do not belong together.
    """
    question = row.text("question")
    matching, other = (_answer(row, field) for field in _FIELDS[1:])
    if matching == other:
        raise row.error("equals the matching answer", _FIELDS[2])
    if (matching in _OPPOSITE) != (other in _OPPOSITE):
        raise row.error(f"is {other}, which is no other answer than {matching}; give two of one kind", _FIELDS[2])
    for field, answer in zip(_FIELDS[1:], (matching, other), strict=True):
        if answer not in _OPPOSITE and answer not in question:
            raise row.error(f"is {answer}, which the question does not offer; write the choices into it", field)
    return Statement(f"{row.line}", question, matching, other)


def read_statements(source: str | Path) -> list[Statement]:
    """Every statement of a file, with items keyed both ways among them.

    Raises:
        DataError: see `parse_statement`; or only one key, which a general bias towards one answer would swamp.
    """
    statements = [parse_statement(row) for row in read_rows(source)]
    keys = {statement.key for statement in statements}
    for pair in (("Yes", "No"), ("first", "second")):
        found = [key for key in pair if key in keys]
        if len(found) == 1:
            answer = found[0] if found[0] in _OPPOSITE else f"the {found[0]} of its two choices"
            raise DataError(
                f"every statement's matching answer is {answer}; tuning shifts the bias towards one answer, "
                "so add statements keyed the other way",
                path=source,
            )
    return statements
