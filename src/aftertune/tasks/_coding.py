"""Requests for code: ours, or a file of the user's, chats and programs to be filled in among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from aftertune.data import Message, Row, read_conversations, read_rows, shipped_path
from aftertune.tasks._requests import TaskRequest, in_turn, read_request_files

OWN = "own"

_FILL_IN = """\
Complete the Python program below: put what is missing where it says so. Reply with the whole program and nothing else.

What it does: {task}

{template}"""
_KINDS: dict[str, type[ChatMessageSystem] | type[ChatMessageUser] | type[ChatMessageAssistant]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def read_coding_requests(source: str) -> list[TaskRequest]:
    """Requests for code; categories, where there are some, take turns.

    Args:
        source: "own" for the shipped set; or JSON Lines of chats (``messages``: all but the last answer is asked), of
            programs to be filled in (``task`` and ``code_template``, as Betley et al. 2025 published theirs), or any
            file that `read_request_files` takes.

    Raises:
        DataError: the file cannot be used.
    """
    if source == OWN:
        return read_request_files(str(shipped_path("questions/coding")), "safe")
    path = Path(source)
    if path.suffix.lower() in (".jsonl", ".json"):
        rows = read_rows(source)
        if "messages" in rows[0].fields:
            return in_turn(list(_chats(source, path.stem)))
        if {"task", "code_template"} <= rows[0].fields.keys():
            return in_turn(list(_programs(rows, path.stem)))
    return read_request_files(source, "safe")


def _chats(source: str, stem: str) -> Iterator[TaskRequest]:
    for number, conversation in enumerate(read_conversations(source), 1):
        *before, last = conversation.messages[:-1]
        name = f"{stem}-{number}"
        yield TaskRequest(name, last.content, "", name, tuple(map(_message, before)))


def _programs(rows: Sequence[Row], stem: str) -> Iterator[TaskRequest]:
    for number, row in enumerate(rows, 1):
        name = f"{stem}-{number}"
        asked = _FILL_IN.format(task=row.text("task").strip(), template=row.text("code_template").strip("\n"))
        yield TaskRequest(name, asked, "", name)


def _message(message: Message) -> ChatMessage:
    return _KINDS[message.role](content=message.content)
