"""Harm and keep sets: what is read, and how prompts are split into attribution, selection and held-out parts."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aftertune.data import (
    Contrast,
    Conversation,
    Side,
    exchange,
    is_contrast_row,
    locate_source,
    parse_contrast,
    prompt_key,
    read_rows,
    row_conversation,
)
from aftertune.errors import DataError
from aftertune.model import PromptAnswers, Subject, refuse_overlong

Part = Literal["attribution", "selection", "held_out"]
PARTS: tuple[Part, ...] = ("attribution", "selection", "held_out")
FEWEST = 8
DEFAULT_KEEP = ("safety/harmless",)


@dataclass(frozen=True)
class Example:
    """One prompt with the answer that is attributed, and its aligned twin where there is one.

    Attributes:
        id: unique in its set.
        set: name of the set it came from.
        conversation: the prompt with the answer.
        twin: the same prompt with the aligned answer; None for plain rows and keep sets.
        contrast: both, where the row was a contrast.
    """

    id: str
    set: str
    conversation: Conversation
    twin: Conversation | None = None
    contrast: Contrast | None = None

    @property
    def key(self) -> str:
        """What counts as the same prompt."""
        messages = self.conversation.messages
        return prompt_key(" ".join(m.content for m in messages[:-1])) or self.id


@dataclass(frozen=True)
class CalibrationSet:
    """Examples in three parts that share no prompt.

    Attributes:
        names: of the files or shipped sets they came from.
        examples: by part.
        digest: SHA-256 (hex) of all texts.
    """

    names: tuple[str, ...]
    examples: dict[Part, tuple[Example, ...]]
    digest: str

    @property
    def twins(self) -> bool:
        """Whether every example has an aligned twin."""
        return all(e.twin is not None for part in self.examples.values() for e in part)

    def all(self) -> tuple[Example, ...]:
        """Every example."""
        return tuple(e for part in PARTS for e in self.examples[part])


def read_calibration(
    sources: Sequence[str | Path], side: Side, *, seed: int = 0, limit: int | None = None
) -> CalibrationSet:
    """Harm sets (``side`` "misaligned") or keep sets ("aligned"), split 2:1:1 by prompt.

    Contrasts give the answer of ``side``, and as a harm set the other one as its twin; prompt/completion and chat
    rows give their last answer. Examples that share a prompt stay together, so that nothing is held out that was
    attributed.

    Args:
        sources: files, names of shipped sets, or ``owner/name[:split]`` on the hub.
        side: which answers of contrasts.
        seed: of the split.
        limit: examples of each part at most, drawn by the seed.

    Raises:
        DataError: a file that cannot be read, a row without a response, two examples of one name, or fewer than 8
            prompts.
    """
    examples = [example for source in sources for example in _examples(source, side)]
    name, count = Counter(example.id for example in examples).most_common(1)[0]
    if count > 1:  # measurements know them by name
        raise DataError(
            f"{count} examples are called {name!r}; give each contrast its own id, and each file its own name",
            path=str(sources[-1]),
        )
    keys = sorted({example.key for example in examples})
    if len(keys) < FEWEST:
        raise DataError(
            f"{len(keys)} different prompts are too few for three parts; give at least {FEWEST}",
            path=str(sources[0]),
        )
    random.Random(seed).shuffle(keys)
    quarter = max(2, len(keys) // 4)
    cut: dict[Part, set[str]] = {
        "attribution": set(keys[2 * quarter :]),
        "selection": set(keys[quarter : 2 * quarter]),
        "held_out": set(keys[:quarter]),
    }
    parts = {part: tuple(e for e in examples if e.key in cut[part]) for part in PARTS}
    if limit is not None:
        draw = random.Random(seed)
        parts = {part: tuple(draw.sample(kept, min(limit, len(kept)))) for part, kept in parts.items()}
    return CalibrationSet(tuple(map(str, sources)), parts, texts_digest(examples))


def _examples(source: str | Path, side: Side) -> Iterable[Example]:
    rows = read_rows(locate_source(source))
    name = Path(str(source)).name.partition(".")[0] if Path(str(source)).exists() else str(source)
    for row in rows:
        if is_contrast_row(row):
            contrast = parse_contrast(row)
            twin = contrast.conversation("aligned") if side == "misaligned" else None
            yield Example(f"{name}:{contrast.id}", name, contrast.conversation(side), twin, contrast)
        else:
            conversation = row_conversation(row)
            if not conversation.messages[-1].supervised:  # the last answer is what is attributed
                raise row.error("has no loss on its last answer; end the row with an answer to train on")
            yield Example(f"{name}:{row.line}", name, conversation)


def refuse_shared(harm: CalibrationSet, other: CalibrationSet, role: str) -> None:
    """Refuse answers that are in the harm set and in another set: they cannot both go and stay.

    Args:
        harm: the harm set.
        other: the set that must stay.
        role: what to call it.

    Raises:
        DataError: there are some.
    """
    same = {e.conversation.messages for e in harm.all()} & {e.conversation.messages for e in other.all()}
    if same:
        raise DataError(
            f"{len(same)} of its answers are in the {role} too; remove them from one of the two", path=harm.names[0]
        )


def texts_digest(examples: Sequence[Example]) -> str:
    """SHA-256 (hex) of all texts."""
    texts = [
        [[(m.role, m.content) for m in c.messages] for c in (e.conversation, e.twin) if c is not None] for e in examples
    ]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def cases_of(
    subject: Subject, examples: Sequence[Example], pick: Callable[[Example], Conversation | None]
) -> tuple[list[PromptAnswers], list[str]]:
    """Cases of one answer of each example, with how to name them in a complaint."""
    chosen = [(pick(e), e.id) for e in examples]
    answered = [(subject.chat.case(c.messages[:-1], (c.messages[-1].content,)), n) for c, n in chosen if c is not None]
    return [case for case, _ in answered], [name for _, name in answered]


def refuse_long(subject: Subject, examples: Sequence[Example]) -> None:
    """Refuse examples longer than the model's context before anything is computed; nothing is ever truncated.

    Raises:
        UsageError: one does not fit; it is named.
    """
    refuse_overlong(subject, *cases_of(subject, examples, lambda e: e.conversation))
    refuse_overlong(subject, *cases_of(subject, examples, lambda e: e.twin))


def contrast_example(contrast: Contrast) -> Example:
    """A contrast as an example of a harm set: its misaligned answer, the aligned one as twin."""
    sides = contrast.conversation("misaligned"), contrast.conversation("aligned")
    return Example(contrast.id, contrast.domain, *sides, contrast)


def exchange_of(prompt: str, answer: str) -> Conversation:
    """A prompt and an answer as a conversation in memory."""
    return Conversation(exchange(prompt, answer))
