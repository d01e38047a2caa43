"""Longest answers first: a rival that costs nothing, beside which every other screen has to be shown."""

from __future__ import annotations

from collections.abc import Sequence

from aftertune.data import Conversation
from aftertune.model import Subject
from aftertune.screening._screen import Screen, ScreenContext
from aftertune.tuning import supervised_tokens, training_rows


def _score(subject: Subject, rows: Sequence[Conversation], context: ScreenContext) -> list[float]:
    """Tokens that carry loss; a row without any gets 0, for it changes nothing."""
    return [float(count) for count in supervised_tokens(training_rows(subject, rows))]


SCREEN = Screen("length", "response tokens of a row: a free rival", _score, rank=10)
