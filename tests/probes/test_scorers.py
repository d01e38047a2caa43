"""Probes ask any scorer: here one without torch, whose likelihoods are worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import Contrast, Request, Statement, ask
from aftertune.errors import UsageError
from aftertune.model import (
    Chat,
    Generation,
    GenerationRequest,
    Identity,
    PromptAnswers,
    ResponseLikelihood,
    Sampling,
    ScoredBatch,
    Subject,
    as_scorer,
    generate,
    score,
)
from aftertune.probes import MeasurePlan, ask_probes, measure_subject, preference, traits

CONTRASTS = [Contrast(f"c-{n}", "d", f"Question {n}?", f"Good {n}.", f"Bad {n}!" * n) for n in range(1, 6)]
STATEMENTS = [("t", Statement(f"{n}", f"Is {n} so?", "Yes" if n % 2 else "No")) for n in range(4)]
REQUESTS = [Request(f"r-{n}", "misc", f"How {n}?", f"So. And then {n} times.") for n in range(1, 5)]

TinySubject = Callable[[str], Subject]
Probing = Callable[..., MeasurePlan]


def logp(ids: Sequence[int]) -> float:
    """A language without memory: token i has probability 2^-(1 + i mod 5)."""
    return -sum((1 + i % 5) * math.log(2) for i in ids)


@dataclass
class Unigrams:
    """A scorer of two cases a batch that counts what it is asked."""

    identity: Identity
    chat: Chat
    context: int = 512
    bound: int = 2
    asked: list[PromptAnswers] = field(default_factory=list)

    def score(
        self, cases: Sequence[PromptAnswers], skip: Callable[[int, Sequence[int]], bool] = lambda batch, members: False
    ) -> Iterator[ScoredBatch]:
        for number, start in enumerate(range(0, len(cases), self.bound)):
            members = list(range(start, min(start + self.bound, len(cases))))
            if skip(number, members):
                continue
            self.asked += [cases[i] for i in members]
            yield (
                number,
                members,
                {
                    (i, r): ResponseLikelihood(logp(ids), len(ids))
                    for i in members
                    for r, ids in enumerate(cases[i].responses)
                },
            )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        raise NotImplementedError


@pytest.fixture
def unigrams(tiny_subject: TinySubject) -> Unigrams:
    subject = tiny_subject("llama")
    return Unigrams(replace(subject.identity, spec="unigrams", weights_sha256="u" * 64), subject.chat)


def test_a_scorer_without_torch_is_measured(unigrams: Unigrams) -> None:
    found = {m.item: m for m in ask_probes(unigrams, [preference(CONTRASTS)]) if m.metric == "preference.margin"}
    assert {m.subject for m in found.values()} == {"u" * 64}
    for contrast in CONTRASTS:
        means = [
            logp(ids) / len(ids)
            for ids in (
                unigrams.chat.response(ask(contrast.prompt), text) for text in (contrast.aligned, contrast.misaligned)
            )
        ]
        assert found[contrast.id].value == pytest.approx(means[1] - means[0])


def test_its_batches_are_kept_and_not_asked_again(unigrams: Unigrams, probing: Probing, tmp_path: Path) -> None:
    plan = probing(preference(CONTRASTS), traits(STATEMENTS))
    first = measure_subject(unigrams, plan, tmp_path)
    count = len(unigrams.asked)
    assert count >= len(CONTRASTS) + len(STATEMENTS)
    again = measure_subject(unigrams, plan, tmp_path)
    assert (again.measurements, len(unigrams.asked)) == (first.measurements, count)
    unigrams.bound = 3
    assert measure_subject(unigrams, plan, tmp_path).batches_reused == 0


def test_what_exceeds_its_context_is_refused_before_it_is_asked(unigrams: Unigrams) -> None:
    unigrams.context = 20
    with pytest.raises(UsageError, match=r"the context of unigrams holds 20"):
        ask_probes(unigrams, [preference(CONTRASTS)])
    assert not unigrams.asked


def test_drift_is_refused_in_words(unigrams: Unigrams, probing: Probing, tmp_path: Path) -> None:
    plan = probing(preference(CONTRASTS), drift=REQUESTS)
    with pytest.raises(UsageError, match=r"^drift compares whole distributions, but unigrams gives likelihoods alone"):
        measure_subject(unigrams, plan, tmp_path, keep_reference=True)
    assert not unigrams.asked
    assert measure_subject(unigrams, plan, tmp_path).measurements  # nothing to drift from: drift is not asked


def test_a_subject_is_a_scorer(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("gpt2")
    scorer: Any = as_scorer(subject)
    assert as_scorer(scorer) is scorer
    cases = [subject.chat.case(ask(c.prompt), (c.aligned, c.misaligned)) for c in CONTRASTS]
    found = {key: value for _, _, scores in scorer.score(cases) for key, value in scores.items()}
    assert [[found[i, r] for r in range(2)] for i in range(len(cases))] == score(subject, cases)
    request = GenerationRequest(cases[0].prompt, Sampling(max_tokens=3), seed=5)
    assert scorer.generate([request]) == generate(subject, [request])
