"""Multiple-choice questions: our own small set, and TruthfulQA's published CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftertune.data._csv import read_cells, refuse_doubled, under_header
from aftertune.data._jsonl import Row, read_rows
from aftertune.errors import DataError


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its choices, and the indices of those that are right."""

    id: str
    question: str
    choices: tuple[str, ...]
    right: frozenset[int]


def parse_choice_question(row: Row) -> ChoiceQuestion:
    """A question from ``{"id", "question", "choices", "answer"}`` (0-based index).

    Raises:
        DataError: a missing field, fewer than two choices, or an index outside them.
    """
    choices = row.fields.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise row.error("must be a list of at least two strings", "choices")
    if len(set(choices)) < len(choices):
        raise row.error("names one choice twice; keep one", "choices")
    answer = row.fields.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise row.error(f"must be an index from 0 to {len(choices) - 1}", "answer")
    return ChoiceQuestion(row.text("id"), row.text("question"), tuple(choices), frozenset({answer}))


def read_choice_questions(source: str | Path) -> list[ChoiceQuestion]:
    """Every question of a JSON Lines file."""
    return [parse_choice_question(row) for row in read_rows(source)]


@dataclass(frozen=True)
class TruthfulQuestion:
    """A TruthfulQA question: the best answer, all true and all false reference answers."""

    id: str
    question: str
    best: str
    true: tuple[str, ...]
    false: tuple[str, ...]


def _answers(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in (p.strip() for p in cell.split(";")) if part))


_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


def read_truthfulqa(path: str | Path) -> list[TruthfulQuestion]:
    """TruthfulQA (Lin et al. 2022) from its CSV.

    Raises:
        DataError: see `read_cells`; or a missing or doubled column, or a question without answers.
    """
    path = Path(path)
    rows = read_cells(path, "no such file; TruthfulQA.csv is published with the paper's repository")
    at, header = next(rows, (1, []))
    for name in _COLUMNS:
        if name not in header:
            raise DataError(f"has no column {name!r}; TruthfulQA's CSV is expected", path=path)
    refuse_doubled(path, header, at)
    questions = []
    for number, (line, cells) in enumerate(rows, 1):
        row = under_header(path, header, line, cells)
        question, best, right, wrong = (row.get(name, "").strip() for name in _COLUMNS)
        true = tuple(dict.fromkeys((best, *_answers(right))))
        false = _answers(wrong)
        if not (question and best and false):
            raise DataError("lacks a question or answers", path=path, line=line)
        questions.append(TruthfulQuestion(f"truthful-{number}", question, best, true, false))
    if not questions:
        raise DataError("holds no questions", path=path)
    return questions
