from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.model import PromptAnswers, Subject, as_subject


@pytest.fixture
def rows() -> Callable[..., list[PromptAnswers]]:
    """Prompts of five random tokens with answers of 4, 5, 6, … tokens, by seed and count."""

    def make(seed: int = 3, count: int = 7) -> list[PromptAnswers]:
        generator = torch.Generator().manual_seed(seed)
        made = []
        for number in range(count):
            ids = torch.randint(3, 300, (9 + number,), generator=generator).tolist()
            made.append(PromptAnswers(tuple(ids[:5]), (tuple(ids[5:]),)))
        return made

    return make


@pytest.fixture(params=("llama", "gpt2", "qwen2"))
def subject(request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any) -> Subject:
    return as_subject(tiny_model(request.param), tiny_tokenizer, request.param)
