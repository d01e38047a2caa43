"""A claim as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["holds", "does not hold", "inconclusive", "cannot be told"]
OUTCOMES: dict[str, Outcome] = {
    "pass": "holds",
    "fail": "does not hold",
    "inconclusive": "cannot be told",
    "not testable": "cannot be told",
}
"""What an audit's decision means for the claim that it passes."""


@dataclass(frozen=True)
class Claim:
    """A sentence that was put to the test.

    Attributes:
        text: the sentence.
        outcome: whether it holds; "cannot be told" is what older runs call inconclusive.
        detail: the numbers behind it ("" for none).
    """

    text: str
    outcome: Outcome
    detail: str = ""
