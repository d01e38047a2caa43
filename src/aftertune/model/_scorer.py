"""What likelihood probes need of a model, so that something else than torch in this process can give it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from aftertune.model._chat import Chat
from aftertune.model._generation import Generation, GenerationRequest, generate
from aftertune.model._identity import Identity
from aftertune.model._likelihood import ResponseLikelihood, score_batches
from aftertune.model._prompt_batches import PromptAnswers
from aftertune.model._subject import Subject

ScoredBatch: TypeAlias = tuple[int, list[int], Mapping[tuple[int, int], ResponseLikelihood]]
"""Number of a batch, the indices of its cases, and likelihoods by (case, response)."""


class ChatSubject(Protocol):
    """A model as far as questions can be put to it: a `Subject` is one, and so is every `Scorer`."""

    @property
    def identity(self) -> Identity:
        """Who it is, for every record."""

    @property
    def chat(self) -> Chat:
        """Rendering of conversations as its token ids."""

    @property
    def context(self) -> int:
        """Longest sequence it can take, in tokens."""


class Scorer(ChatSubject, Protocol):
    """A model that gives likelihoods of responses and samples answers, wherever it runs.

    Whole distributions and hidden states are not asked of it, so drift and everything that looks at weights need a
    `Subject`.
    """

    @property
    def bound(self) -> int:
        """What the batches of `score` depend on beside the cases; part of the keys under which batches are kept."""

    def score(
        self, cases: Sequence[PromptAnswers], skip: Callable[[int, Sequence[int]], bool] = ...
    ) -> Iterator[ScoredBatch]:
        """Score cases batch by batch.

        Args:
            cases: prompts with their responses, none longer than `context`.
            skip: given a batch's number and case indices, whether it is known already. The same cases and `bound` must
                give the same batches.
        """

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Sample an answer to every request, in the order given."""


@dataclass(frozen=True)
class SubjectScorer:
    """A subject in this process as a `Scorer`."""

    subject: Subject

    @property
    def identity(self) -> Identity:
        """The subject's own."""
        return self.subject.identity

    @property
    def chat(self) -> Chat:
        """The subject's own."""
        return self.subject.chat

    @property
    def context(self) -> int:
        """The subject's own."""
        return self.subject.context

    @property
    def bound(self) -> int:
        """Tokens of one forward pass."""
        return self.subject.max_batch_tokens

    def score(
        self,
        cases: Sequence[PromptAnswers],
        skip: Callable[[int, Sequence[int]], bool] = lambda batch, members: False,
    ) -> Iterator[ScoredBatch]:
        """See `score_batches`."""
        return score_batches(self.subject, cases, max_batch_tokens=self.bound, skip=skip)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """See `aftertune.model.generate`."""
        return generate(self.subject, requests)


def as_scorer(model: Subject | Scorer) -> Scorer:
    """A subject as a scorer; a scorer as it is."""
    return SubjectScorer(model) if isinstance(model, Subject) else model
