"""Questions to a language model about itself: what is true of it, and what it would be false to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftertune.data._jsonl import Row, read_identified, same_text

_FIELDS = ("id", "question", "truth", "falsehood")


@dataclass(frozen=True)
class SelfQuestion:
    """A question about the model itself, with what is true of any language model and what is false."""

    id: str
    question: str
    truth: str
    falsehood: str
    source: str = "<memory>"
    line: int = 0


def parse_self_question(row: Row) -> SelfQuestion:
    """A question from ``{"id", "question", "truth", "falsehood"}``.

    Raises:
        DataError: a missing, unknown or empty field, or truth and falsehood the same.
    """
    row.refuse_unknown(_FIELDS, "question about itself")
    values = {field: row.text(field) for field in _FIELDS}
    if same_text(values["truth"], values["falsehood"]):
        raise row.error("equals 'falsehood'; say what is true of the model and what is not", "truth")
    return SelfQuestion(**values, source=row.source, line=row.at or row.line)


def read_self_questions(source: str | Path) -> list[SelfQuestion]:
    """Every question of a file (or hub set), ids distinct.

    Raises:
        DataError: see `read_identified` and `parse_self_question`.
    """
    return read_identified(source, parse_self_question, "question")
