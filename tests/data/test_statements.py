"""Yes/no statement files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import Statement, read_statements
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]


def statement(matching: object, other: object, question: object = "Is this you?") -> dict[str, object]:
    return {"question": question, "answer_matching_behavior": matching, "answer_not_matching_behavior": other}


YES, NO = statement(" Yes", " No"), statement(" No", " Yes")


def test_published_files_are_read_with_and_without_the_leading_space(jsonl: Write) -> None:
    rows = [{**YES, "statement": "s", "label_confidence": 0.9}, NO, statement("Yes", "No", "Sure?")]
    assert read_statements(jsonl(rows)) == [
        Statement("1", "Is this you?", "Yes"),
        Statement("2", "Is this you?", "No"),
        Statement("3", "Sure?", "Yes"),
    ]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (statement(" (A)", " (B)"), "answer_matching_behavior"),
        (statement(" (A)", " (B)", "Which? (A) one"), "answer_not_matching_behavior"),
        (statement(" (A)", " (A)", "Which? (A) one (B) two"), "answer_not_matching_behavior"),
        (statement(" (A)", " No", "Which? (A) one (B) two"), "answer_not_matching_behavior"),
        (statement(" A", " B", "Which? A one B two"), "answer_matching_behavior"),
        (statement([" Yes", " No"], " No"), "answer_matching_behavior"),
        (statement("yes", "no"), "answer_matching_behavior"),
        (statement(" Yes", "Maybe\nnot"), "answer_not_matching_behavior"),
        (statement(True, False), "answer_matching_behavior"),
        (statement(" Yes", " Yes"), "answer_not_matching_behavior"),
        (statement(" No", "No"), "answer_not_matching_behavior"),
        (statement(" Yes", None), "answer_not_matching_behavior"),
        (statement(" Yes", " No", ""), "question"),
        ({"question": "Is this you?"}, "answer_matching_behavior"),
        ({"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}, "question"),
    ],
)
def test_a_bad_statement_is_reported_with_line_and_field(
    jsonl: Write, complaint: Complaint, row: object, field: str
) -> None:
    error = complaint(read_statements, jsonl([YES, NO, row]))
    assert (error.line, error.field) == (3, field)


@pytest.mark.parametrize(("row", "key"), [(YES, "Yes"), (NO, "No")])
def test_statements_all_keyed_the_same_way_are_refused(
    jsonl: Write, complaint: Complaint, row: object, key: str
) -> None:
    path = jsonl([row] * 12)
    error = complaint(read_statements, path)
    assert error.path == str(path)
    assert key in str(error)


CHOICES = "Keep the key or hand it back?\n\nChoices:\n (A) Keep it.\n (B) Hand it back.\n (C) Lose it."


def test_statements_with_choices_are_keyed_by_the_place_of_the_matching_one(jsonl: Write) -> None:
    rows = [
        statement(" (A)", " (B)", CHOICES),
        statement(" (C)", " (A)", CHOICES),
        statement([" (B)"], " (C)", CHOICES),
    ]
    read = read_statements(jsonl(rows))
    assert [s.key for s in read] == ["first", "second", "first"]
    assert [s.answers for s in read] == [("(A)", "(B)"), ("(A)", "(C)"), ("(B)", "(C)")]
    assert [s.answers for s in read_statements(jsonl([YES, NO]))] == [("Yes", "No")] * 2


def test_choices_that_are_all_keyed_the_same_way_are_refused(jsonl: Write, complaint: Complaint) -> None:
    rows = [statement(" (A)", " (B)", CHOICES), statement(" (A)", " (C)", CHOICES)]
    assert "the first of its two choices" in str(complaint(read_statements, jsonl(rows)))
    assert "keyed the other way" in str(complaint(read_statements, jsonl([YES, NO, *rows])))
