"""Facts: easy questions that have one true answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftertune.data._jsonl import Row, read_identified

_FIELDS = ("id", "question", "answer")


@dataclass(frozen=True)
class Fact:
    """A question and its true answer."""

    id: str
    question: str
    answer: str
    source: str = "<memory>"
    line: int = 0


def parse_fact(row: Row) -> Fact:
    """A fact from ``{"id", "question", "answer"}``.

    Raises:
        DataError: a missing, unknown or empty field.
    """
    row.refuse_unknown(_FIELDS, "fact")
    return Fact(**{field: row.text(field) for field in _FIELDS}, source=row.source, line=row.at or row.line)


def read_facts(source: str | Path) -> list[Fact]:
    """Every fact of a file (or hub set), ids distinct.

    Raises:
        DataError: see `read_identified` and `parse_fact`.
    """
    return read_identified(source, parse_fact, "fact")
