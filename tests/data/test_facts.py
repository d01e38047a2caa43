"""Facts: what the reader takes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import Fact, read_facts
from aftertune.errors import DataError

GOOD = {"id": "tide-1", "question": "What pulls the tides?", "answer": "The Moon"}


def test_facts_are_read_with_their_place(jsonl: Callable[..., Path]) -> None:
    path = jsonl([GOOD, {**GOOD, "id": "tide-2"}])
    assert read_facts(path) == [
        Fact("tide-1", "What pulls the tides?", "The Moon", str(path), 1),
        Fact("tide-2", "What pulls the tides?", "The Moon", str(path), 2),
    ]


@pytest.mark.parametrize(
    ("rows", "line", "field"),
    [
        ([{"id": "a", "question": "Q?"}], 1, "answer"),
        ([GOOD, {**GOOD, "id": "b", "answer": " "}], 2, "answer"),
        ([{**GOOD, "answer": 5}], 1, "answer"),
        ([{**GOOD, "anwser": "The Moon"}], 1, "anwser"),
        ([GOOD, GOOD], 2, "id"),
    ],
)
def test_what_is_no_fact_is_refused(
    jsonl: Callable[..., Path], complaint: Callable[..., DataError], rows: list[dict[str, Any]], line: int, field: str
) -> None:
    found = complaint(read_facts, jsonl(rows))
    assert (found.line, found.field) == (line, field)
