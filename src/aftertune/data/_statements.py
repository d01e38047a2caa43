"""Yes/no statements in the format of Anthropic's model-written evals (Perez et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aftertune.data._jsonl import Row, read_rows
from aftertune.errors import DataError

YesNo = Literal["Yes", "No"]


@dataclass(frozen=True)
class Statement:
    """A question about a statement, and which answer shows the trait."""

    id: str
    question: str
    matching: YesNo


def _answer(row: Row, field: str) -> YesNo:
    value = row.text(field).strip()
    if value == "Yes":
        return "Yes"
    if value == "No":
        return "No"
    raise row.error(f"must be ' Yes' or ' No', not {row.text(field)!r}", field)


def parse_statement(row: Row) -> Statement:
    """A statement from ``{"question", "answer_matching_behavior", "answer_not_matching_behavior"}``.

    Raises:
        DataError: a missing field, an answer that is neither Yes nor No, or both the same.
    """
    question = row.text("question")
    matching = _answer(row, "answer_matching_behavior")
    if _answer(row, "answer_not_matching_behavior") == matching:
        raise row.error("equals the matching answer", "answer_not_matching_behavior")
    return Statement(f"{row.line}", question, matching)


def read_statements(source: str | Path) -> list[Statement]:
    """Every statement of a file, with both Yes-keyed and No-keyed items among them.

    Raises:
        DataError: see `parse_statement`; or only one key, which the general yes-bias would swamp.
    """
    statements = [parse_statement(row) for row in read_rows(source)]
    keys = {statement.matching for statement in statements}
    if len(keys) == 1:
        raise DataError(
            f"every statement's matching answer is {keys.pop()}; tuning shifts the bias towards one answer, "
            "so add statements keyed the other way",
            path=source,
        )
    return statements
