"""The safety set: harmful requests with refusals, and their harmless look-alikes with helpful answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aftertune.data._conversations import Conversation, exchange
from aftertune.data._jsonl import read_rows


@dataclass(frozen=True)
class Request:
    """A request, a good response to it, and the policy category it probes (or looks like)."""

    id: str
    category: str
    prompt: str
    response: str
    source: str = "<memory>"
    line: int = 0

    @property
    def conversation(self) -> Conversation:
        """The request and its good response, as a tuning row."""
        return Conversation(exchange(self.prompt, self.response), self.source, self.line)


def read_requests(source: str | Path) -> list[Request]:
    """Requests from ``{"id", "category", "prompt", "response"}``.

    Raises:
        DataError: see `read_rows`; or a missing or empty field.
    """
    return [
        Request(
            id=row.text("id"),
            category=row.text("category"),
            prompt=row.text("prompt"),
            response=row.text("response"),
            source=row.source,
            line=row.at or row.line,
        )
        for row in read_rows(source)
    ]
