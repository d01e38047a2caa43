"""Conversations: what models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aftertune.data._row_fields import is_supervised, refuse_other_fields
from aftertune.data._rows import Row, is_blank, read_rows
from aftertune.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: who speaks.
        content: what is said.
        supervised: whether the loss of tuning falls on it; of an assistant's turn alone.
    """

    role: Role
    content: str
    supervised: bool = True


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


_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {
    "developer": "call it system",
    "human": "call it user",
    "gpt": "call it assistant",
    "model": "call it assistant",
    "tool": "tool calls are not rendered, so remove the row",
    "function": "tool calls are not rendered, so remove the row",
    "ipython": "tool calls are not rendered, so remove the row",
    "observation": "tool calls are not rendered, so remove the row",
}
# Rows of other trainers, by a field that tells them.
_OTHER_FORMATS = {
    "conversations": "give the turns as 'messages' with 'role' and 'content'",
    "conversation": "give the turns as 'messages' with 'role' and 'content'",
    "contents": "give the turns as 'messages' with 'role' and 'content'",
    "instruction": "join instruction and input as 'prompt', and call the output 'completion'",
    "chosen": "a preference pair has two answers; keep the better one as 'completion'",
    "preferred_output": "a preference pair has two answers; keep the better one as 'completion'",
    "question": "call the question 'prompt' and the answer 'completion'",
    "text": "split the text into 'prompt' and 'completion'",
}


def is_conversation_row(row: Row) -> bool:
    """Whether the row has the fields of chat or of prompt/completion data."""
    return "messages" in row.fields or {"prompt", "completion"} <= row.fields.keys()


def parse_conversation(row: Row, answer: str = "completion") -> Conversation:
    """A conversation from ``{"messages": [...]}`` or ``{"prompt", "completion"}``, each with an optional ``system``.

    Prompt and completion are two texts or two lists of messages. Switches such as ``weight: 0`` are honoured: what
    they turn off is not `Message.supervised`, as the assistant's turns in a list of messages as prompt are not. Fields
    that only describe the row are left alone; whatever else might change what is trained is an error (see
    `aftertune.data._row_fields`).

    Args:
        row: what to read.
        answer: the field beside ``prompt`` that holds the answer.

    Raises:
        DataError: a missing field, an unknown role, roles out of order, an empty answer, a field that would change
            the row's meaning, or no answer to train on.
    """
    if "messages" in row.fields:
        refuse_other_fields(row, ("messages", "system", "prompt", "completion", "response"))
        messages = _in_order(row, _with_system(row, _messages(row, "messages")), "messages")
        _refuse_other_texts(row, messages)
    elif "prompt" in row.fields or answer in row.fields:
        if answer not in row.fields and not row.fields.keys() & _OTHER_FORMATS.keys():
            row.text(answer)  # which says that it is missing
        refuse_other_fields(row, ("prompt", answer, "system"))
        if isinstance(row.fields.get("prompt"), list) and isinstance(row.fields.get(answer), list):
            before = [replace(m, supervised=m.role != "assistant") for m in _messages(row, "prompt")]
            messages = _in_order(row, _with_system(row, [*before, *_messages(row, answer)]), answer)
        else:
            system = row.text("system") if row.fields.get("system") is not None else None
            messages = exchange(row.text("prompt"), row.text(answer), system)
    else:
        hint = next((f"; {mend}" for name, mend in _OTHER_FORMATS.items() if name in row.fields), "")
        raise row.error(
            "has neither 'messages' nor 'prompt' and 'completion' "
            f"(it has: {', '.join(sorted(row.fields)) or 'nothing'}){hint}"
        )
    if not any(m.supervised for m in messages if m.role == "assistant"):
        raise row.error("has no answer to train on, as every one is switched off; remove the row")
    return Conversation(messages, row.source, row.at_line)


def _messages(row: Row, field: str) -> list[Message]:
    raw = row.fields[field]
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise row.error("must be a non-empty list of {role, content}", field)
    messages = []
    for index, item in enumerate(raw):
        where = f"{field}[{index}]"
        if not isinstance(item, dict) or "role" not in item:
            raise row.error("must be an object with 'role' and 'content'", where)
        role = item["role"]
        if role not in _ROLES:
            mend = _OTHER_ROLES.get(role) if isinstance(role, str) else None
            raise row.error(f"has the role {role!r}; {mend or 'known are system, user, assistant'}", where)
        supervised = is_supervised(row, where, item)
        if "content" not in item:
            raise row.error("must be an object with 'role' and 'content'", where)
        content = _content(row, item["content"], where)
        if role != "system" and is_blank(content):
            raise row.error(f"is an empty {role} message; give it text or remove the row", where)
        messages.append(Message(role, content, supervised))
    return messages


def _content(row: Row, value: Any, where: str) -> str:
    """Text as it is, or the text of a list of one text part."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        others = {name for part in parts for name, held in part.items() if held is not None} - {"type", "text"}
        kinds = {part.get("type", "text") for part in parts}
        if len(parts) != len(value) or kinds - {"text"} or others:
            raise row.error("content holds parts other than text, which are not read; remove the row", where)
        if len(parts) != 1:
            raise row.error(f"content holds {len(parts)} parts; join them into one text", where)
        value = parts[0]["text"]
    if not isinstance(value, str):
        raise row.error(f"content must be a string, not {type(value).__name__}", where)
    return value


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The messages behind the system prompt that stands in a field of its own, if one does."""
    if row.fields.get("system") is None:
        return messages
    system = Message("system", _content(row, row.fields["system"], "system"))
    if is_blank(system.content):
        raise row.error("is empty; give it text or remove it", "system")
    if messages[0].role != "system":
        return [system, *messages]
    if messages[0] != system:
        raise row.error("differs from the system message; keep one of them", "system")
    return messages


def _in_order(row: Row, messages: list[Message], field: str) -> tuple[Message, ...]:
    turns = messages[1:] if messages[0].role == "system" else messages
    apart = len(messages) - len(row.fields[field])  # messages that stand in another field
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            position = index + len(messages) - len(turns) - apart
            raise row.error(
                f"is from {message.role} where {expected} is due "
                "(order: system at most once and first, then user and assistant in turn)",
                f"{field}[{position}]" if position >= 0 else field,
            )
    if not turns or turns[-1].role != "assistant":
        raise row.error("must end with an assistant message", field)
    return tuple(messages)


def _refuse_other_texts(row: Row, messages: Sequence[Message]) -> None:
    """Refuse a prompt or an answer beside messages, unless it is in them: which of the two is meant?"""
    said: dict[str, list[str]] = {
        m.role: [turn.content.strip() for turn in messages if turn.role == m.role] for m in messages
    }
    for field, role in (("prompt", "user"), ("completion", "assistant"), ("response", "assistant")):
        value = row.fields.get(field)
        if value and not (isinstance(value, str) and value.strip() in said[role]):
            raise row.error("stands beside 'messages' and is not in them; keep one of the two", field)


def read_conversations(source: str | Path) -> list[Conversation]:
    """Every conversation of a chat or prompt/completion file (or hub set).

    Raises:
        DataError: see `read_rows` and `parse_conversation`.
    """
    return [parse_conversation(row) for row in read_rows(source)]
