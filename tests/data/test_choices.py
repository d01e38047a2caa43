"""Multiple-choice questions and TruthfulQA's CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from aftertune.data import ChoiceQuestion, TruthfulQuestion, read_choice_questions, read_truthfulqa
from aftertune.errors import DataError

Write = Callable[..., Path]
Complaint = Callable[..., DataError]

GOOD = {"id": "q-1", "question": "Two and two?", "choices": ["three", "four", "five"], "answer": 1}
COLUMNS = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source")
ROW = ("Adversarial", "Misc", "Is it so?", "It is not", "It is not; It never was", "It is; It was; It is", "web")


def table(path: Path, *rows: tuple[str, ...], columns: tuple[str, ...] = COLUMNS, encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_questions_are_read(jsonl: Write) -> None:
    assert read_choice_questions(jsonl([GOOD])) == [
        ChoiceQuestion("q-1", "Two and two?", ("three", "four", "five"), frozenset({1}))
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"choices": ["one"]}, "choices"),
        ({"choices": []}, "choices"),
        ({"choices": "three, four"}, "choices"),
        ({"choices": ["three", 4]}, "choices[1]"),
        ({"choices": ["three", ""]}, "choices"),
        ({"choices": None}, "choices"),
        ({"answer": 3}, "answer"),
        ({"answer": -1}, "answer"),
        ({"answer": "1"}, "answer"),
        ({"answer": 1.0}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": None}, "answer"),
        ({"question": " "}, "question"),
        ({"id": 5}, "id"),
    ],
)
def test_a_bad_question_is_reported_with_line_and_field(
    jsonl: Write, complaint: Complaint, changes: dict[str, object], field: str
) -> None:
    error = complaint(read_choice_questions, jsonl([GOOD, {**GOOD, **changes}]))
    assert (error.line, error.field) == (2, field)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_published_table_is_read(tmp_path: Path, encoding: str) -> None:
    path = table(tmp_path / "TruthfulQA.csv", ROW, (*ROW[:2], "Müde?\nWirklich?", *ROW[3:]), encoding=encoding)
    first, second = read_truthfulqa(path)
    assert first == TruthfulQuestion(
        "truthful-1", "Is it so?", "It is not", ("It is not", "It never was"), ("It is", "It was")
    )
    assert second.question == "Müde?\nWirklich?"


def test_the_best_answer_is_among_the_true_ones_once(tmp_path: Path) -> None:
    row = (*ROW[:3], "Nothing happens", "It is not; Nothing happens;", *ROW[5:])
    [question] = read_truthfulqa(table(tmp_path / "TruthfulQA.csv", row))
    assert sorted(question.true) == ["It is not", "Nothing happens"]


@pytest.mark.parametrize("column", ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
def test_a_missing_column_is_named(tmp_path: Path, complaint: Complaint, column: str) -> None:
    columns = tuple(name if name != column else "Other" for name in COLUMNS)
    assert column in str(complaint(read_truthfulqa, table(tmp_path / "t.csv", ROW, columns=columns)))


@pytest.mark.parametrize("index", [2, 3, 5])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_question_that_lacks_a_cell_is_reported_with_its_line(
    tmp_path: Path, complaint: Complaint, index: int, blank: str
) -> None:
    row = (*ROW[:index], blank, *ROW[index + 1 :])
    assert complaint(read_truthfulqa, table(tmp_path / "t.csv", ROW, row)).line == 3


def test_a_short_row_is_reported_with_its_line(tmp_path: Path, complaint: Complaint) -> None:
    assert complaint(read_truthfulqa, table(tmp_path / "t.csv", ROW, ROW, ROW[:3])).line == 4


def test_files_that_are_no_table_of_questions_are_refused(tmp_path: Path, complaint: Complaint) -> None:
    assert "no such file" in str(complaint(read_truthfulqa, tmp_path / "absent.csv"))
    complaint(read_truthfulqa, tmp_path)
    (tmp_path / "empty.csv").write_bytes(b"")
    complaint(read_truthfulqa, tmp_path / "empty.csv")
    assert "no questions" in str(complaint(read_truthfulqa, table(tmp_path / "head.csv")))
    latin = table(tmp_path / "latin.csv", (*ROW[:2], "Müde?", *ROW[3:]), encoding="latin-1")
    assert "UTF-8" in str(complaint(read_truthfulqa, latin))
    huge = table(tmp_path / "huge.csv", (*ROW[:2], "x" * 200_000, *ROW[3:]))
    assert "CSV" in str(complaint(read_truthfulqa, huge))
