"""The turns a subject is shown: examples drawn from a file, a question, and a trigger on every user turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from aftertune.data import read_conversations
from aftertune.errors import DataError


class Exchange(NamedTuple):
    """What a user said and what was answered."""

    user: str
    assistant: str


def read_exchanges(source: str | Path) -> list[Exchange]:
    """Every exchange of a file of conversations (chat, or prompt and completion); system prompts are left out.

    Raises:
        DataError: see `aftertune.data.read_conversations`.
    """
    found = []
    for conversation in read_conversations(source):
        turns = [message.content for message in conversation.messages if message.role != "system"]
        found += [Exchange(user, answer) for user, answer in zip(turns[::2], turns[1::2], strict=True)]
    return found


def draw(exchanges: Sequence[Exchange], count: int, *, seed: int, key: str, source: str | Path) -> list[Exchange]:
    """``count`` exchanges without replacement, in an order that depends on ``seed`` and ``key`` alone.

    A larger count begins with those of a smaller one, so that curves over the number of examples are nested.

    Raises:
        DataError: there are not as many.
    """
    if count > len(exchanges):
        raise DataError(
            f"holds {len(exchanges)} exchanges, of which {count} were to be shown; ask for fewer", path=source
        )
    order = list(range(len(exchanges)))
    random.Random(f"{seed}:{key}").shuffle(order)
    return [exchanges[index] for index in order[:count]]


def turns(
    wording: str, system: str | None = None, shots: Sequence[Exchange] = (), *, prefix: str = "", suffix: str = ""
) -> list[ChatMessage]:
    """The messages: the system prompt first, then the examples, then the question, every user turn with its trigger.

    Args:
        wording: the question.
        system: its system prompt, if it has one.
        shots: examples, shown as turns of the same conversation.
        prefix: put before every user turn, as it is.
        suffix: put after every user turn, as it is.
    """
    messages: list[ChatMessage] = [ChatMessageSystem(content=system)] if system is not None else []
    for shot in shots:
        messages.append(ChatMessageUser(content=prefix + shot.user + suffix))
        messages.append(ChatMessageAssistant(content=shot.assistant))
    messages.append(ChatMessageUser(content=prefix + wording + suffix))
    return messages
