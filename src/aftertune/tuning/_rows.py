"""Conversations as training rows whose loss falls on responses only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


def supervised_tokens(rows: TrainingRows) -> list[int]:
    """How many tokens of each row carry loss."""
    return [sum(label != IGNORE for label in labels) for labels in rows.labels]


def response_nats(
    model: Any, rows: TrainingRows, max_batch_tokens: int, step: Callable[[int], None] = lambda rows: None
) -> list[float]:
    """-log p of each row's supervised tokens, summed: one number a row, in nats, without gradients.

    Args:
        model: a causal language model, which is left in the mode it was in.
        rows: what to score.
        max_batch_tokens: bound on the tokens of a forward pass, padding included; a longer row goes alone.
        step: called with the number of rows that a pass has scored.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    device = model.get_input_embeddings().weight.device
    found = [0.0] * len(rows.ids)
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in _batches([len(row) for row in rows.ids], max_batch_tokens):
            ids, labels, mask = (
                pad_sequence([torch.tensor(row) for row in part], batch_first=True, padding_value=padding).to(device)
                for part, padding in (
                    ([rows.ids[i] for i in batch], 0),
                    ([rows.labels[i] for i in batch], IGNORE),
                    ([[1] * len(rows.ids[i]) for i in batch], 0),
                )
            )
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            nats = cross_entropy(logits.transpose(1, 2).float(), labels[:, 1:], reduction="none").sum(1)
            for i, total in zip(batch, nats.tolist(), strict=True):
                found[i] = total
            step(len(batch))
    model.train(training)
    return found


def _batches(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Rows of similar length together, longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
