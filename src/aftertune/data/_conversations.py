"""Conversations: what models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aftertune.data._jsonl import Row, read_rows
from aftertune.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an assistant's answer, and the file and line they came from."""

    messages: tuple[Message, ...]
    source: str = "<memory>"
    line: int = 0

    @property
    def prompt(self) -> str:
        """The first user message."""
        return next(m.content for m in self.messages if m.role == "user")

    def error(self, problem: str) -> DataError:
        """A complaint about this conversation."""
        return DataError(problem, path=self.source, line=self.line or None)


def ask(prompt: str, system: str | None = None) -> tuple[Message, ...]:
    """The messages of one user prompt, after a system prompt where there is one."""
    head = (Message("system", system),) if system is not None else ()
    return (*head, Message("user", prompt))


def exchange(prompt: str, answer: str, system: str | None = None) -> tuple[Message, ...]:
    """One user prompt and its answer."""
    return (*ask(prompt, system), Message("assistant", answer))


def is_conversation_row(row: Row) -> bool:
    """Whether the row has the fields of chat or of prompt/completion data."""
    return "messages" in row.fields or {"prompt", "completion"} <= row.fields.keys()


def parse_conversation(row: Row) -> Conversation:
    """A conversation from ``{"messages": [...]}`` or ``{"prompt", "completion"}`` (optional ``system``).

    Other fields of the row are left alone, as data sets carry many.

    Raises:
        DataError: a missing field, an unknown role, roles out of order, an empty answer.
    """
    if "messages" in row.fields:
        messages = _parse_messages(row)
    elif "prompt" in row.fields or "completion" in row.fields:
        system = row.text("system") if row.fields.get("system") is not None else None
        messages = exchange(row.text("prompt"), row.text("completion"), system)
    else:
        raise row.error(
            "has neither 'messages' nor 'prompt' and 'completion' "
            f"(it has: {', '.join(sorted(row.fields)) or 'nothing'})"
        )
    return Conversation(messages, row.source, row.line)


def _parse_messages(row: Row) -> tuple[Message, ...]:
    raw = row.fields["messages"]
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise row.error("must be a non-empty list of {role, content}", "messages")
    messages = []
    for index, item in enumerate(raw):
        where = f"messages[{index}]"
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise row.error("must be an object with 'role' and 'content'", where)
        role, content = item["role"], item["content"]
        if role not in ("system", "user", "assistant"):
            raise row.error(f"has the role {role!r}; known are system, user, assistant", where)
        if not isinstance(content, str):
            raise row.error(f"content must be a string, not {type(content).__name__}", where)
        if role != "system" and not content.strip():
            raise row.error(f"is an empty {role} message; give it text or remove the row", where)
        messages.append(Message(role, content))
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            position = index + len(messages) - len(turns)
            raise row.error(
                f"is from {message.role} where {expected} is due "
                "(order: system at most once and first, then user and assistant in turn)",
                f"messages[{position}]",
            )
    if not turns or turns[-1].role != "assistant":
        raise row.error("must end with an assistant message", "messages")
    return tuple(messages)


def read_conversations(source: str | Path) -> list[Conversation]:
    """Every conversation of a chat or prompt/completion file (or hub set).

    Raises:
        DataError: see `read_rows` and `parse_conversation`.
    """
    return [parse_conversation(row) for row in read_rows(source)]
