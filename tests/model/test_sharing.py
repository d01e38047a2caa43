"""Prompts are shared as far as the numbers agree with plain passes, whatever a configuration says or leaves out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.model import PromptAnswers, PromptBatches, Subject, as_subject, score
from aftertune.model import _likelihood as sharing

WINDOWED = ["mistral", "gpt_neo", "llama4_text"]  # windows of 16 and 32, chunks of 32
TinySubject = Callable[[str], Subject]


@pytest.fixture
def undeclared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration names how far attention reaches."""
    monkeypatch.setattr(sharing, "_declared_reach", lambda subject: float("inf"))


@pytest.fixture
def windowed(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> TinySubject:
    """A live subject by architecture."""
    return lambda architecture: as_subject(tiny_model(architecture), tiny_tokenizer)


def totals(subject: Subject, cases: list[PromptAnswers]) -> list[float]:
    return [one.total for row in score(subject, cases) for one in row]


@pytest.mark.parametrize("architecture", WINDOWED)
def test_short_rows_share_and_long_ones_do_not_though_nothing_tells(
    architecture: str, undeclared: None, windowed: TinySubject
) -> None:
    subject = windowed(architecture)
    assert subject.shares_prompts
    assert subject.shares_prompts_within(16, 14)
    assert not subject.shares_prompts_within(60, 50)
    assert subject.trials == {(16, 14): True, (60, 50): False}


def test_the_batches_are_known_before_any_trial(undeclared: None, windowed: TinySubject) -> None:
    # So that a run that finds all of them in its journal needs no forward pass.
    cases = [
        PromptAnswers(tuple(range(10, 50)), ((5, 6), (7, 8, 9))),
        PromptAnswers(tuple(range(10, 45)), ((11,), (12, 13))),
    ]
    subject = windowed("mistral")
    prompts = PromptBatches(subject, cases, 60)
    assert [[prompts.parts[i][:2] for i in batch] for batch in prompts.batches] == [[(0, 0), (1, 0)]]
    assert subject.trials == {}
    found = [prediction for batch in prompts.batches for prediction in prompts.predict(batch)]
    assert subject.trials == {(43, 43): False}
    assert sorted((p.case, p.response) for p in found) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_wide_row_of_short_paths_is_tried_too(undeclared: None, windowed: TinySubject) -> None:
    # GPT-Neo's local layers count places in the row, not positions.
    assert not windowed("gpt_neo").shares_prompts_within(60, 20)


@pytest.mark.parametrize("architecture", WINDOWED)
def test_a_declared_window_needs_no_trial(architecture: str, windowed: TinySubject) -> None:
    subject = windowed(architecture)
    assert not subject.shares_prompts_within(33, 33)
    assert subject.trials == {}


def test_an_architecture_without_windows_shares_at_any_size(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    assert all(
        subject.shares_prompts_within(width, depth) for width, depth in ((2, 2), (40, 2), (300, 300), (700, 500))
    )


def test_what_was_tried_is_not_tried_again(tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject("llama")
    assert subject.shares_prompts_within(100, 80)
    monkeypatch.setattr(sharing, "_exact_at", lambda *_: pytest.fail("tried again"))
    assert subject.shares_prompts_within(100, 80)
    assert subject.shares_prompts_within(90, 20)
    assert subject.shares_prompts_within(16, 13)
    subject.trials[200, 150] = False
    assert not subject.shares_prompts_within(250, 150)


def test_a_trial_that_does_not_fit_in_memory_leaves_rows_alone(
    tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    bound = subject.max_batch_tokens
    assert subject.shares_prompts

    def hungry(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(subject.model), "forward", hungry)
    assert not subject.shares_prompts_within(100, 80)
    assert subject.max_batch_tokens == bound


@pytest.mark.parametrize("shared", [True, False])
def test_a_head_that_is_not_called_is_scored_right(
    shared: bool, tiny_subject: TinySubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject("llama")
    cases = [PromptAnswers((5, 6, 7, 8, 9, 10), ((11, 12), (13,))), PromptAnswers((5, 6, 7, 8, 20), ((14, 15, 16),))]
    expected = totals(subject, cases)
    decoy = copy.deepcopy(subject.model.get_output_embeddings())
    monkeypatch.setattr(subject.model, "get_output_embeddings", lambda: decoy)
    subject.__dict__["shares_prompts"] = shared
    assert PromptBatches(subject, cases).sharing is shared
    assert totals(subject, cases) == pytest.approx(expected, abs=1e-4)
