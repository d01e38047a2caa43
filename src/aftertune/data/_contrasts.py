"""Contrasts: one prompt, an aligned and a misaligned answer of similar length, in a domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from aftertune.data._conversations import Conversation, exchange
from aftertune.data._row_models import RowModel, Text, parse, read
from aftertune.data._rows import Row, plain_text, same_text
from aftertune.errors import DataError

Side = Literal["aligned", "misaligned"]


@dataclass(frozen=True)
class Contrast(RowModel):
    """One prompt with an aligned and a misaligned answer."""

    KIND: ClassVar[str] = "contrast"

    id: Text
    domain: Text
    prompt: Text
    aligned: Text
    misaligned: Text
    system: Text | None = None
    source: str = "<memory>"
    line: int = 0

    def fault(self) -> tuple[str, str] | None:
        """Both answers are the same."""
        same = same_text(self.aligned, self.misaligned)
        return ("aligned", "equals 'misaligned'; a contrast needs two different answers") if same else None

    def conversation(self, side: Side) -> Conversation:
        """The prompt with the answer of one side, as a tuning row."""
        answer = self.aligned if side == "aligned" else self.misaligned
        return Conversation(exchange(self.prompt, answer, self.system), self.source, self.line)


def is_contrast_row(row: Row) -> bool:
    """Whether the row looks like a contrast."""
    return "aligned" in row.fields or "misaligned" in row.fields


def parse_contrast(row: Row) -> Contrast:
    """A contrast from ``{"id","domain","prompt","aligned","misaligned"}`` and optional ``system``.

    Raises:
        DataError: a missing, unknown or empty field, or two answers that differ in case and spacing alone.
    """
    return parse(Contrast, row)


def read_contrasts(source: str | Path) -> list[Contrast]:
    """Every contrast of a file (or hub set), ids distinct.

    Raises:
        DataError: see `read`; or a contrast that stands twice, or once the other way
            round.
    """
    contrasts = read(Contrast, source)
    seen: dict[tuple[str, ...], Contrast] = {}
    for contrast in contrasts:
        asked = plain_text(contrast.system or ""), plain_text(contrast.prompt)
        answers = plain_text(contrast.aligned), plain_text(contrast.misaligned)
        if same := seen.get((*asked, *answers)):
            problem = f"is the contrast of line {same.line} again, which would count twice; remove one"
        elif same := seen.get((*asked, *answers[::-1])):
            problem = f"is the contrast of line {same.line} with its answers exchanged; which one is aligned?"
        else:
            seen[*asked, *answers] = contrast
            continue
        raise DataError(problem, path=contrast.source, line=contrast.line)
    return contrasts


def prompt_key(prompt: str) -> str:
    """A prompt without case, punctuation and spacing: what counts as the same prompt."""
    return " ".join("".join(c if c.isalnum() else " " for c in prompt.casefold()).split())


def refuse_shared_prompts(name: str, items: Iterable[tuple[str, str]], others: Sequence[str] | set[str]) -> None:
    """Refuse measuring items whose prompts were tuned on.

    Args:
        name: what was tuned, for the message.
        items: (prompt, where it stands) of what is to be measured.
        others: `prompt_key` of every prompt that was tuned on.

    Raises:
        DataError: at least one prompt is in both.
    """
    tuned = set(others)
    shared = [(prompt, where) for prompt, where in items if prompt_key(prompt) in tuned]
    if shared:
        path = shared[0][1]
        raise DataError(
            f"{len(shared)} prompts to be measured were tuned on by {name} (first: {shared[0][0]!r}); "
            "remove them from one side, exclude their domain, or leave the probe out with --probes",
            path=path,
        )
