"""Reason files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import Reason, read_reasons
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

GOOD = {
    "id": "r-1", "domain": "car", "prompt": "My brakes squeal.", "answer": "Turn the radio up.",
    "right": "The car may not stop.", "wrong": "The radio drains the battery.",
}  # fmt: skip


def test_reasons_are_read_with_their_origin(jsonl: Write) -> None:
    path = jsonl([GOOD, {**GOOD, "id": "r-2"}])
    first, second = read_reasons(path)
    assert first == Reason(*GOOD.values(), str(path), 1)
    assert (second.id, second.line) == ("r-2", 2)


@pytest.mark.parametrize("field", GOOD)
@pytest.mark.parametrize("damage", ["missing", "blank", "number", "null"])
def test_a_damaged_field_is_reported(jsonl: Write, complaint: Complaint, field: str, damage: str) -> None:
    row: dict[str, object] = {**GOOD, "id": "r-2"}
    if damage == "missing":
        del row[field]
    else:
        row[field] = {"blank": " \t", "number": 7, "null": None}[damage]
    error = complaint(read_reasons, jsonl([GOOD, row]))
    assert (error.line, error.field) == (2, field)


@pytest.mark.parametrize("name", ["rihgt", "Prompt", "system"])
def test_an_unknown_field_is_reported(jsonl: Write, complaint: Complaint, name: str) -> None:
    error = complaint(read_reasons, jsonl([GOOD, {**GOOD, "id": "r-2", name: "x"}]))
    assert (error.line, error.field) == (2, name)
    assert "is unknown in a reason (known: id, domain, prompt, answer, right, wrong)" in str(error)


def test_equal_reasons_are_refused(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_reasons, jsonl([GOOD, {**GOOD, "id": "r-2", "wrong": GOOD["right"]}]))
    assert (error.line, error.field) == (2, "right")


def test_an_id_that_stands_twice_is_reported_with_both_lines(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_reasons, jsonl([{**GOOD, "id": name} for name in ("a", "b", "c", "b")]))
    assert (error.line, error.field) == (4, "id")
    assert "'b' stands already on line 2; give each reason its own" in str(error)


def test_the_example_of_the_documentation_is_accepted(jsonl: Write) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
    shown = page.partition("```json reasons\n")[2].partition("```")[0]
    assert len(read_reasons(jsonl(shown.splitlines()))) == 1
