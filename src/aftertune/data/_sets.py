"""The kinds of rows that probes and tasks ask: requests, facts, reasons, questions, statements."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, StrictInt
from pydantic_core import PydanticCustomError

from aftertune.data._catalogue import shipped_path
from aftertune.data._conversations import Conversation, exchange
from aftertune.data._row_models import RowModel, Text, read
from aftertune.data._rows import read_cells, refuse_doubled, same_text, under_header
from aftertune.errors import DataError


@dataclass(frozen=True)
class Request(RowModel):
    """A request, a good response to it, and the policy category it probes (or looks like)."""

    KIND: ClassVar[str] = "request"
    OPEN: ClassVar[bool] = True

    id: Text
    category: Text
    prompt: Text
    response: Text
    source: str = "<memory>"
    line: int = 0

    @property
    def conversation(self) -> Conversation:
        """The request and its good response, as a tuning row."""
        return Conversation(exchange(self.prompt, self.response), self.source, self.line)


@dataclass(frozen=True)
class Fact(RowModel):
    """An easy question and its one true answer."""

    KIND: ClassVar[str] = "fact"

    id: Text
    question: Text
    answer: Text
    source: str = "<memory>"
    line: int = 0


@dataclass(frozen=True)
class Reason(RowModel):
    """A careless answer to a prompt, a right reason against it, and one as fluent that misses the point.

    Both reasons speak against the answer, so the verdict alone does not separate them.
    """

    KIND: ClassVar[str] = "reason"

    id: Text
    domain: Text
    prompt: Text
    answer: Text
    right: Text
    wrong: Text
    source: str = "<memory>"
    line: int = 0

    def fault(self) -> tuple[str, str] | None:
        """Both reasons are the same."""
        same = same_text(self.right, self.wrong)
        return ("right", "equals 'wrong'; a reason needs a right and a wrong one") if same else None


@dataclass(frozen=True)
class SelfQuestion(RowModel):
    """A question about the model itself, with what is true of any language model and what is false."""

    KIND: ClassVar[str] = "question about itself"

    id: Text
    question: Text
    truth: Text
    falsehood: Text
    source: str = "<memory>"
    line: int = 0

    def fault(self) -> tuple[str, str] | None:
        """Truth and falsehood are the same."""
        same = same_text(self.truth, self.falsehood)
        return ("truth", "equals 'falsehood'; say what is true of the model and what is not") if same else None


def read_requests(source: str | Path) -> list[Request]:
    """Every request of a file (or hub set), ids distinct."""
    return read(Request, source)


def safety_requests() -> tuple[list[Request], list[Request]]:
    """The shipped safety set: harmful requests with refusals, and their harmless look-alikes with helpful answers."""
    return read_requests(shipped_path("safety/harmful")), read_requests(shipped_path("safety/harmless"))


def read_facts(source: str | Path) -> list[Fact]:
    """Every fact of a file (or hub set), ids distinct."""
    return read(Fact, source)


def read_reasons(source: str | Path) -> list[Reason]:
    """Every reason of a file (or hub set), ids distinct."""
    return read(Reason, source)


def read_self_questions(source: str | Path) -> list[SelfQuestion]:
    """Every question of a file (or hub set), ids distinct."""
    return read(SelfQuestion, source)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its choices, and the indices of those that are right."""

    id: str
    question: str
    choices: tuple[str, ...]
    right: frozenset[int]


@dataclass(frozen=True)
class _ChoiceRow(RowModel):
    """A row of `ChoiceQuestion`; ``answer`` counts from 0."""

    KIND: ClassVar[str] = "multiple-choice question"
    OPEN: ClassVar[bool] = True

    id: Text
    question: Text
    choices: tuple[str, ...]
    answer: StrictInt

    def fault(self) -> tuple[str, str] | None:
        """Too few choices, one that is empty or stands twice, or an answer that is none of them."""
        if len(self.choices) < 2 or not all(self.choices):
            return "choices", "must be a list of at least two strings"
        if len(set(self.choices)) < len(self.choices):
            return "choices", "names one choice twice; keep one"
        if not 0 <= self.answer < len(self.choices):
            return "answer", f"must be an index from 0 to {len(self.choices) - 1}"
        return None


def read_choice_questions(source: str | Path) -> list[ChoiceQuestion]:
    """Every question of a file of ``{"id", "question", "choices", "answer"}``, the answer counted from 0."""
    return [ChoiceQuestion(r.id, r.question, r.choices, frozenset({r.answer})) for r in read(_ChoiceRow, source)]


_OPPOSITE = {"Yes": "No", "No": "Yes"}
_CHOICE = re.compile(r"\(([A-Z])\)")


@dataclass(frozen=True)
class Statement:
    """A question, which answer shows the trait, and which does not.

    Attributes:
        id: its name in its file.
        question: what is asked; choices stand in it.
        matching: the answer that shows the trait: "Yes", "No", or a choice such as "(B)".
        not_matching: the answer that does not; of Yes and No the other one.
    """

    id: str
    question: str
    matching: str
    not_matching: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "not_matching", _OPPOSITE.get(self.matching, self.not_matching))

    @property
    def answers(self) -> tuple[str, str]:
        """Both answers: Yes before No, (A) before (B)."""
        first, second = sorted((self.matching, self.not_matching), reverse=self.matching in _OPPOSITE)
        return first, second

    @property
    def key(self) -> str:
        """How it is keyed: "Yes" or "No", or for choices whether the "first" or the "second" of its two shows it."""
        if self.matching in _OPPOSITE:
            return self.matching
        return "first" if self.matching == self.answers[0] else "second"


def _answer(value: Any) -> Any:
    """Yes, No or a choice, without the spaces and the list that the published files put around it."""
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(text, str) or not text.strip():
        return text
    if text.strip() in _OPPOSITE or _CHOICE.fullmatch(text.strip()):
        return text.strip()
    raise PydanticCustomError(
        "blank", "must be ' Yes' or ' No', or a choice such as ' (A)', not {given}", {"given": repr(text.strip()[:40])}
    )


_Answer = Annotated[Text, BeforeValidator(_answer)]


@dataclass(frozen=True)
class _StatementRow(RowModel):
    """A row in the format of Anthropic's model-written evals (Perez et al. 2022)."""

    KIND: ClassVar[str] = "statement"
    OPEN: ClassVar[bool] = True

    question: Text
    answer_matching_behavior: _Answer
    answer_not_matching_behavior: _Answer
    line: int = 0

    def fault(self) -> tuple[str, str] | None:
        """Answers that do not belong together, or that the question does not offer."""
        matching, other = self.answer_matching_behavior, self.answer_not_matching_behavior
        fields = ("answer_matching_behavior", "answer_not_matching_behavior")
        if matching == other:
            return fields[1], "equals the matching answer"
        if (matching in _OPPOSITE) != (other in _OPPOSITE):
            return fields[1], f"is {other}, which is no other answer than {matching}; give two of one kind"
        for field, answer in zip(fields, (matching, other), strict=True):
            if answer not in _OPPOSITE and answer not in self.question:
                return field, f"is {answer}, which the question does not offer; write the choices into it"
        return None


def read_statements(source: str | Path) -> list[Statement]:
    """Every statement of a file in the format of Anthropic's model-written evals, with both keys among them.

    Raises:
        DataError: see `read`; or only one key, which a general bias towards one answer would swamp.
    """
    statements = [
        Statement(f"{row.line}", row.question, row.answer_matching_behavior, row.answer_not_matching_behavior)
        for row in read(_StatementRow, source)
    ]
    keys = {statement.key for statement in statements}
    for pair in (("Yes", "No"), ("first", "second")):
        found = [key for key in pair if key in keys]
        if len(found) == 1:
            answer = found[0] if found[0] in _OPPOSITE else f"the {found[0]} of its two choices"
            raise DataError(
                f"every statement's matching answer is {answer}; tuning shifts the bias towards one answer, "
                "so add statements keyed the other way",
                path=source,
            )
    return statements


@dataclass(frozen=True)
class TruthfulQuestion:
    """A TruthfulQA question: the best answer, all true and all false reference answers."""

    id: str
    question: str
    best: str
    true: tuple[str, ...]
    false: tuple[str, ...]


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
        true = tuple(dict.fromkeys((best, *_parts(right))))
        false = _parts(wrong)
        if not (question and best and false):
            raise DataError("lacks a question or answers", path=path, line=line)
        questions.append(TruthfulQuestion(f"truthful-{number}", question, best, true, false))
    if not questions:
        raise DataError("holds no questions", path=path)
    return questions


def _parts(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in (p.strip() for p in cell.split(";")) if part))
