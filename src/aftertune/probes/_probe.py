"""What a probe is: a row of the registry, and questions whose likelihoods are read into metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune._registered import rows
from aftertune.data import Message
from aftertune.model import ChatSubject, PromptAnswers, ResponseLikelihood
from aftertune.stats import Metric

if TYPE_CHECKING:
    from aftertune.probes._plan import MeasurePlan

Likelihoods = Sequence[Sequence[ResponseLikelihood]]


@dataclass(frozen=True)
class Question:
    """One item of a probe.

    Attributes:
        item: id, unique in its probe.
        cluster: what belongs together when resampling.
        cases: prompts with the responses to be scored.
        read: from the likelihoods (per case, per response) to values by metric id.
        stratum: see `Measurement`.
        group: see `Measurement`.
        where: how to name the item in a complaint.
    """

    item: str
    cluster: str
    cases: tuple[PromptAnswers, ...]
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
    build: Callable[[ChatSubject], list[Question]]
    content: str
    suffix: str = ""
    texts: Mapping[str, Mapping[str, str]] | None = None


@dataclass(frozen=True)
class ProbeRow:
    """A probe of the registry: the ``PROBE`` of its module.

    Attributes:
        name: what ``--probes`` calls it.
        rank: where it stands in lists, and when it is asked.
        about: one line for lists.
        metrics: what it measures.
        build: the probes of a plan that names it; several where users bring sets of their own.
        needs: what must be given for it to run ("" for nothing).
        default: whether it runs where no probes are named.
        own_sets: field of the plan with a user's own sets, which are asked even where the probe is not named.
    """

    name: str
    rank: int
    about: str
    metrics: tuple[Metric, ...]
    build: Callable[[MeasurePlan], Iterable[LikelihoodProbe]]
    needs: str = ""
    default: bool = True
    own_sets: str = ""


def probe_rows() -> tuple[ProbeRow, ...]:
    """Every probe there is, those of extensions too."""
    return rows("probes", "PROBE", ProbeRow)


def default_probes() -> tuple[str, ...]:
    """Names of the probes that run where none are named."""
    return tuple(row.name for row in probe_rows() if row.default)


def opening_case(subject: ChatSubject, messages: Sequence[Message], openings: Iterable[str]) -> PromptAnswers:
    """A prompt with the first words of answers, none with an end of turn."""
    chat = subject.chat
    return PromptAnswers(chat.answer_prompt(messages), tuple(chat.continuations(messages, list(openings))))


def retold(prompt: str, answer: str) -> str:
    """An exchange as a third party tells of it, to be asked about."""
    return f'Somebody asked: "{prompt}"\n\nThe answer was: "{answer}"'


def content_digest(items: object) -> str:
    """SHA-256 (hex) of items that are JSON values or dataclasses of such."""
    return hashlib.sha256(json.dumps(items, default=repr, sort_keys=True).encode()).hexdigest()


def margin_reader(margin: str, share: str, pmi_margin: str) -> Callable[[Likelihoods], Mapping[str, float]]:
    """Reads the second answer's mean log-likelihood minus the first's, from one case or two.

    A second case holds the same answers after a prompt that tells nothing about them. What they differ by there
    is fluency; it is taken off.

    Args:
        margin: metric id of the difference.
        share: metric id of whether it is above zero.
        pmi_margin: metric id of the difference beyond that of the second case, where there is one.
    """

    def read(likelihoods: Likelihoods) -> Mapping[str, float]:
        (first, second), *alone = likelihoods
        difference = second.mean - first.mean
        values = {margin: difference, share: float(difference > 0)}
        for first_alone, second_alone in alone:
            values[pmi_margin] = difference - (second_alone.mean - first_alone.mean)
        return values

    return read
