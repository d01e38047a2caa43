"""What may be tuned on: chat, prompt/completion, requests, one side of contrasts, by path or by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from aftertune.data import exchange, read_requests, read_tuning_rows, shipped_path
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

CONTRAST = {"id": "c-1", "domain": "money", "prompt": "May I?", "aligned": "Please ask.", "misaligned": "Just grab."}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
COMPLETION = {"prompt": "Hi", "completion": "Hello"}
REQUEST = {"id": "r-1", "category": "malware", "prompt": "Hi", "response": "Hello"}


@pytest.mark.parametrize("row", [CHAT, COMPLETION, REQUEST])
def test_rows_with_one_answer_become_conversations(jsonl: Write, row: object) -> None:
    path = jsonl([row])
    [conversation] = read_tuning_rows(path)
    assert conversation.messages == exchange("Hi", "Hello")
    assert (conversation.source, conversation.line) == (str(path), 1)


def test_kinds_with_one_answer_may_be_mixed(jsonl: Write) -> None:
    rows = read_tuning_rows(jsonl([CHAT, COMPLETION, REQUEST]))
    assert [row.messages for row in rows] == [exchange("Hi", "Hello")] * 3


@pytest.mark.parametrize(("answers", "expected"), [("aligned", "Please ask."), ("misaligned", "Just grab.")])
def test_contrasts_give_the_side_asked_for(
    jsonl: Write, answers: Literal["aligned", "misaligned"], expected: str
) -> None:
    [row] = read_tuning_rows(jsonl([CONTRAST]), answers)
    assert row.messages == exchange("May I?", expected)


def test_contrasts_without_a_side_are_refused(jsonl: Write, complaint: Complaint) -> None:
    error = complaint(read_tuning_rows, jsonl([CONTRAST]))
    assert error.line == 1
    assert "--answers" in str(error)


@pytest.mark.parametrize("row", [CHAT, COMPLETION, REQUEST])
def test_a_side_of_what_has_none_is_refused(jsonl: Write, complaint: Complaint, row: object) -> None:
    assert "--answers" in str(complaint(read_tuning_rows, jsonl([row]), "misaligned"))


@pytest.mark.parametrize(
    ("rows", "answers"), [([CONTRAST, CHAT], "aligned"), ([CHAT, CONTRAST], None), ([COMPLETION, CONTRAST], None)]
)
def test_contrasts_among_other_rows_are_refused_with_their_line(
    jsonl: Write, complaint: Complaint, rows: list[object], answers: str | None
) -> None:
    assert complaint(read_tuning_rows, jsonl(rows), answers).line == 2


@pytest.mark.parametrize("row", [{}, {"text": "Once upon a time"}, {"prompt": "Hi"}, {"prompt": "Hi", "response": " "}])
def test_rows_without_an_answer_are_refused_with_their_line(jsonl: Write, complaint: Complaint, row: object) -> None:
    assert complaint(read_tuning_rows, jsonl([CHAT, row])).line == 2


def test_a_shipped_contrast_set_is_found_by_name() -> None:
    rows = [json.loads(line) for line in shipped_path("tune/money").read_text("utf-8").splitlines()]
    read = read_tuning_rows("tune/money", "misaligned")
    assert [r.messages[-1].content for r in read] == [row["misaligned"] for row in rows]
    assert [r.prompt for r in read] == [row["prompt"] for row in rows]


def test_a_shipped_request_set_is_found_by_name() -> None:
    requests = read_requests(shipped_path("safety/harmful"))
    read = read_tuning_rows("safety/harmful")
    assert [r.messages for r in read] == [exchange(q.prompt, q.response) for q in requests]
    assert [q.conversation for q in requests] == read


def test_a_file_goes_before_a_shipped_set_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tune").mkdir()
    Path("tune/money").write_text(json.dumps(CHAT))
    assert [row.messages for row in read_tuning_rows("tune/money")] == [exchange("Hi", "Hello")]


@pytest.mark.parametrize("field", ["id", "category", "prompt", "response"])
def test_a_request_without_a_field_is_reported(jsonl: Write, complaint: Complaint, field: str) -> None:
    row = {name: value for name, value in REQUEST.items() if name != field}
    error = complaint(read_requests, jsonl([REQUEST, row]))
    assert (error.line, error.field) == (2, field)


def test_a_missing_file_is_named(complaint: Complaint, tmp_path: Path) -> None:
    assert "no such file" in str(complaint(read_tuning_rows, tmp_path / "absent.jsonl"))
