"""Multiple-choice questions: our own small set, and TruthfulQA's published CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

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


def read_truthfulqa(path: str | Path) -> list[TruthfulQuestion]:
    """TruthfulQA (Lin et al. 2022) from its CSV.

    Raises:
        DataError: missing file, missing column, not UTF-8, or a question without answers.
    """
    path = Path(path)
    needed = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    questions = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"has no column {missing[0]!r}; TruthfulQA's CSV is expected", path=path)
            for number, row in enumerate(reader, 1):
                question, best = ((row[name] or "").strip() for name in needed[:2])
                true = tuple(dict.fromkeys((best, *_answers(row["Correct Answers"] or ""))))
                false = _answers(row["Incorrect Answers"] or "")
                if not (question and best and false):
                    raise DataError("lacks a question or answers", path=path, line=reader.line_num)
                questions.append(TruthfulQuestion(f"truthful-{number}", question, best, true, false))
    except FileNotFoundError:
        raise DataError("no such file; TruthfulQA.csv is published with the paper's repository", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    except UnicodeDecodeError:
        raise DataError("is not UTF-8; save the file as UTF-8", path=path) from None
    except csv.Error as error:
        raise DataError(f"broken CSV ({error})", path=path) from None
    if not questions:
        raise DataError("holds no questions", path=path)
    return questions
