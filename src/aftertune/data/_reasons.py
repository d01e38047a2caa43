"""Reasons: a careless answer, why it is bad advice, and a reason as fluent that misses the point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftertune.data._jsonl import Row, read_identified, same_text

_FIELDS = ("id", "domain", "prompt", "answer", "right", "wrong")


@dataclass(frozen=True)
class Reason:
    """A careless answer to a prompt with a right and a wrong reason against it.

    Both reasons speak against the answer, so the verdict alone does not tell them apart.
    """

    id: str
    domain: str
    prompt: str
    answer: str
    right: str
    wrong: str
    source: str = "<memory>"
    line: int = 0


def parse_reason(row: Row) -> Reason:
    """A reason from ``{"id", "domain", "prompt", "answer", "right", "wrong"}``.

    Raises:
        DataError: a missing, unknown or empty field, or two equal reasons.
    """
    row.refuse_unknown(_FIELDS, "reason")
    values = {field: row.text(field) for field in _FIELDS}
    if same_text(values["right"], values["wrong"]):
        raise row.error("equals 'wrong'; a reason needs a right and a wrong one", "right")
    return Reason(**values, source=row.source, line=row.at or row.line)


def read_reasons(source: str | Path) -> list[Reason]:
    """Every reason of a file (or hub set), ids distinct.

    Raises:
        DataError: see `read_identified` and `parse_reason`.
    """
    return read_identified(source, parse_reason, "reason")
