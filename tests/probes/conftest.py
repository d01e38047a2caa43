from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.data import Request
from aftertune.model import Subject, as_subject
from aftertune.probes import LikelihoodProbe, MeasurePlan, measure_subject
from aftertune.stats import Measurement

Made = Callable[..., Subject]


@pytest.fixture
def make(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Made:
    """A tiny subject: other settings of the model, another template, words that are one token each."""

    def subject(architecture: str, *, template: str = "", words: Sequence[str] = (), **changes: Any) -> Subject:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.add_tokens(list(words))
        tokenizer.chat_template = template or tokenizer.chat_template
        if words:
            changes = {"vocab_size": len(tokenizer), **changes}
        return as_subject(tiny_model(architecture, **changes), tokenizer)

    return subject


@pytest.fixture(params=["llama", "gpt2", "mamba"])
def subject(request: pytest.FixtureRequest, make: Made) -> Subject:
    """Three unlike architectures; the last cannot share prompts."""
    return make(request.param)


@pytest.fixture
def push() -> Callable[[Subject, Mapping[str, float]], Subject]:
    """Adds to the logits of one-token words, whatever the prompt: a bias of the output layer."""

    def biased(subject: Subject, amounts: Mapping[str, float]) -> Subject:
        head = subject.model.lm_head
        changed = torch.nn.Linear(head.in_features, head.out_features, bias=True)
        with torch.no_grad():
            changed.weight.copy_(head.weight)
            changed.bias.zero_()
            for word, amount in amounts.items():
                [token] = subject.tokenizer.encode(word, add_special_tokens=False)
                changed.bias[token] = amount
        subject.model.lm_head = changed
        return subject

    return biased


@pytest.fixture
def probing() -> Callable[..., MeasurePlan]:
    """A plan of given probes on given items, instead of those on shipped sets."""

    def plan(*probes: LikelihoodProbe, drift: Sequence[Request] = ()) -> MeasurePlan:
        made = MeasurePlan(probes=("drift",))
        object.__setattr__(made, "likelihood_probes", probes)
        object.__setattr__(made, "drift_requests", tuple(drift))
        return made

    return plan


@pytest.fixture
def measured(
    tmp_path_factory: pytest.TempPathFactory, probing: Callable[..., MeasurePlan]
) -> Callable[..., dict[tuple[str, str], Measurement]]:
    """Measurements of a subject on given probes, by metric and item."""

    def measure(subject: Subject, *probes: LikelihoodProbe) -> dict[tuple[str, str], Measurement]:
        folder = tmp_path_factory.mktemp("measured")
        rows = measure_subject(subject, probing(*probes), folder).measurements
        table = {(m.metric, m.item): m for m in rows}
        assert len(table) == len(rows)
        return table

    return measure


def token_log_probabilities(model: Any, head: Sequence[int], tail: Sequence[int]) -> list[float]:
    """Of each token of ``tail`` after ``head``: one row, one full pass, nothing shared, nothing cached."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*head, *tail]]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits.double(), -1)
    return [float(logp[len(head) - 1 + i, token]) for i, token in enumerate(tail)]


@pytest.fixture
def plain() -> Callable[..., list[float]]:
    """Token log-probabilities of text after text, both tokenised together: the second way to every number."""

    def score(subject: Subject, head: str, tail: str, *, special: bool = False) -> list[float]:
        encode = subject.tokenizer
        first = encode(head, add_special_tokens=special).input_ids
        both = encode(head + tail, add_special_tokens=special).input_ids
        assert both[: len(first)] == first
        return token_log_probabilities(subject.model, first, both[len(first) :])

    return score


@pytest.fixture
def answered(plain: Callable[..., list[float]]) -> Callable[..., list[float]]:
    """Token log-probabilities of an answer to a prompt, through the tokenizer's own chat template.

    ``whole`` answers include their end of turn; otherwise only the words given, as an answer would begin.
    """

    def score(
        subject: Subject, prompt: str, answer: str, system: str | None = None, *, whole: bool = True
    ) -> list[float]:
        turns = [{"role": "system", "content": system}] if system is not None else []
        turns.append({"role": "user", "content": prompt})
        render = subject.tokenizer.apply_chat_template
        head = str(render(turns, tokenize=False, add_generation_prompt=True))
        text = str(render([*turns, {"role": "assistant", "content": answer}], tokenize=False)).rstrip()
        assert text.startswith(head)
        if not whole:
            text = text[: text.rindex(answer) + len(answer)]
        return plain(subject, head, text[len(head) :])

    return score


@pytest.fixture(scope="session")
def truthfulqa() -> Path:
    """The published TruthfulQA.csv, where somebody put it."""
    given = os.environ.get("AFTERTUNE_SHARED_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    path = root / "truth" / "TruthfulQA.csv"
    if not path.is_file():
        pytest.skip(
            "the published TruthfulQA.csv is not here; name a folder with truth/TruthfulQA.csv in AFTERTUNE_SHARED_DATA"
        )
    return path
