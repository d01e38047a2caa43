"""Whatever a data source holds, as conversations to tune on."""

from __future__ import annotations

from pathlib import Path

from aftertune.data._catalogue import locate_source
from aftertune.data._contrasts import Side, is_contrast_row, parse_contrast
from aftertune.data._conversations import Conversation, is_conversation_row, parse_conversation
from aftertune.data._rows import Row, read_rows
from aftertune.errors import DataError


def read_tuning_rows(source: str | Path, answers: Side | None = None) -> list[Conversation]:
    """Conversations to tune on: chat, prompt/completion, requests, or one side of contrasts.

    Args:
        source: a file, the name of a shipped set, or ``owner/name[:split]`` on the hub.
        answers: which answers of contrasts to tune on; needed for contrasts, refused for anything else.

    Raises:
        DataError: see the readers; or ``answers`` missing or out of place.
    """
    rows = read_rows(locate_source(source))
    if is_contrast_row(rows[0]):
        if answers is None:
            raise rows[0].error("is a contrast; say which side to tune on with --answers aligned or misaligned")
        return [parse_contrast(row).conversation(answers) for row in rows]
    if answers is not None:
        raise DataError("holds no contrasts; leave --answers out", path=source)
    return [row_conversation(row) for row in rows]


def row_conversation(row: Row) -> Conversation:
    """A conversation from a row of chat, prompt/completion or request data.

    Raises:
        DataError: see `parse_conversation`.
    """
    if not is_conversation_row(row) and {"prompt", "response"} <= row.fields.keys():
        return parse_conversation(row, "response")
    return parse_conversation(row)
