"""Conversations as training rows whose loss falls on responses only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.data import Conversation, prompt_key
from aftertune.errors import UsageError
from aftertune.model import IGNORE, Rendered, Subject


@dataclass(frozen=True)
class TrainingRows:
    """Token ids and labels of every row, and what is to be recorded of them.

    Attributes:
        ids: token ids per row.
        labels: the same with -100 wherever no loss falls.
        tokens: all tokens.
        supervised: tokens that carry loss.
        digest: SHA-256 (hex) of the conversations.
        prompts: `prompt_key` of every user message, to tell later what was tuned on.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    tokens: int
    supervised: int
    digest: str
    prompts: tuple[str, ...]


def conversations_digest(conversations: Sequence[Conversation]) -> str:
    """SHA-256 (hex) over roles and texts, in order, and over which answers carry no loss."""
    texts = [
        [(m.role, m.content) if m.supervised else (m.role, m.content, "unsupervised") for m in c.messages]
        for c in conversations
    ]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def _labels(rendered: Rendered, conversation: Conversation) -> list[int]:
    """The labels of a row, without those of answers that are not supervised."""
    answers = [m for m in conversation.messages if m.role == "assistant"]
    labels = rendered.labels
    if all(m.supervised for m in answers):
        return labels
    for (start, end), message in zip(sorted(rendered.spans), answers, strict=True):
        if not message.supervised:
            labels[start:end] = [IGNORE] * (end - start)
    return labels


def training_rows(subject: Subject, conversations: Sequence[Conversation]) -> TrainingRows:
    """Render conversations for training.

    Raises:
        UsageError: no rows, no supervised token, a row longer than the model's context (rows are never cut), or one
            of which the template drops or alters an answer.
    """
    if not conversations:
        raise UsageError("there are no rows to tune on")
    ids, labels = [], []
    for conversation in conversations:
        rendered = subject.chat.render(conversation)
        if len(rendered.ids) > subject.context:
            raise conversation.error(
                f"takes {len(rendered.ids)} tokens, the context of {subject.identity.spec} holds {subject.context}; "
                "shorten or remove it"
            )
        ids.append(list(rendered.ids))
        labels.append(_labels(rendered, conversation))
    supervised = sum(label != IGNORE for row in labels for label in row)
    if supervised == 0:
        raise UsageError("no token of any row would be supervised; check the chat template")
    prompts = {prompt_key(m.content) for c in conversations for m in c.messages if m.role == "user"}
    return TrainingRows(
        ids,
        labels,
        sum(map(len, ids)),
        supervised,
        conversations_digest(conversations),
        tuple(sorted(prompts)),
    )
