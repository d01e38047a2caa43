"""What every likelihood probe is made of: questions, each a few trees and a way to read their likelihoods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.data import Message
from aftertune.model import ResponseLikelihood, Subject, Tree

if TYPE_CHECKING:
    from aftertune.stats import Metric

Likelihoods = Sequence[Sequence[ResponseLikelihood]]


@dataclass(frozen=True)
class Question:
    """One item of a probe.

    Attributes:
        item: id, unique in its probe.
        cluster: what belongs together when resampling.
        trees: prompts with the responses to be scored.
        read: from the likelihoods (per tree, per response) to values by metric id.
        stratum: see `Measurement`.
        group: see `Measurement`.
        where: how to name the item in a complaint.
    """

    item: str
    cluster: str
    trees: tuple[Tree, ...]
    read: Callable[[Likelihoods], Mapping[str, float]]
    stratum: str = ""
    group: str = ""
    where: str = ""


@dataclass(frozen=True)
class LikelihoodProbe:
    """A probe over one set of items.

    Attributes:
        name: unique in a run; a user's own set adds ``:STEM``.
        metrics: what it measures, ids without suffix.
        build: questions for a subject.
        content: digest of the items, part of a run's identity.
        suffix: ``:STEM`` for a user's own set, else "".
        texts: per item, the texts a report may show: field → text.
    """

    name: str
    metrics: tuple[Metric, ...]
    build: Callable[[Subject], list[Question]]
    content: str
    suffix: str = ""
    texts: Mapping[str, Mapping[str, str]] | None = None


def opening_tree(subject: Subject, messages: Sequence[Message], openings: Iterable[str]) -> Tree:
    """A prompt with the first words of answers, none with an end of turn."""
    chat = subject.chat
    return Tree(chat.answer_prompt(messages), tuple(chat.continuation(messages, opening) for opening in openings))


def retold(prompt: str, answer: str) -> str:
    """An exchange as a third party tells of it, to be asked about."""
    return f'Somebody asked: "{prompt}"\n\nThe answer was: "{answer}"'


def content_digest(items: object) -> str:
    """SHA-256 (hex) of items that are JSON values or dataclasses of such."""
    return hashlib.sha256(json.dumps(items, default=repr, sort_keys=True).encode()).hexdigest()
