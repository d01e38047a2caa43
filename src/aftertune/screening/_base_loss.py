"""Rows that surprise the model most first: one forward pass, and no idea of harm; a rival to be beaten."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aftertune.data import Conversation
from aftertune.model import Subject
from aftertune.screening._screen import Screen, ScreenContext
from aftertune.tuning import response_nats, supervised_tokens, training_rows


def _score(subject: Subject, rows: Sequence[Conversation], context: ScreenContext) -> list[float]:
    """Mean nats per response token before tuning; NaN for a row that carries no loss."""
    made = training_rows(subject, rows)
    with context.progress.task("scoring rows", len(rows)) as step:
        nats = response_nats(subject.model, made, subject.max_batch_tokens, step)
    return [total / count if count else math.nan for total, count in zip(nats, supervised_tokens(made), strict=True)]


SCREEN = Screen("base-loss", "loss of a row before tuning: a free rival", _score, rank=20)
