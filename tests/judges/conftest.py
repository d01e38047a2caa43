"""Judges for tests: Inspect's stand-in for a hosted model, whose replies and token probabilities a test gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, Model, ModelOutput, ModelUsage, get_model
from inspect_ai.model._model_output import Logprob, Logprobs, TopLogprob

Spoken = Callable[..., ModelOutput]
Judging = Callable[..., "Judge"]


class Judge:
    """A judge and what it was asked: prompts and settings, call by call."""

    def __init__(self, reply: Callable[[str, GenerateConfig], Any], config: GenerateConfig) -> None:
        self.asked: list[tuple[str, GenerateConfig]] = []

        async def outputs(messages: Any, tools: Any, choice: Any, settings: GenerateConfig) -> ModelOutput:
            self.asked.append((messages[-1].text, settings))
            found = reply(messages[-1].text, settings)
            found = await found if hasattr(found, "__await__") else found
            if isinstance(found, Exception):
                raise found
            return found

        self.model: Model = get_model("mockllm/judge", custom_outputs=outputs, config=config)


@pytest.fixture
def spoken() -> Spoken:
    """A reply: its text, and for each token the probabilities of the likeliest ones."""

    def output(text: str, *tokens: Mapping[str, float], stop: Any = "stop") -> ModelOutput:
        made = ModelOutput.from_content("judge", text, stop_reason=stop)
        made.usage = ModelUsage(input_tokens=8, output_tokens=2, total_tokens=10)
        if tokens:
            made.choices[0].logprobs = Logprobs(content=[_logprob(token) for token in tokens])
        return made

    return output


def _logprob(probabilities: Mapping[str, float]) -> Logprob:
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    top = [TopLogprob(token=token, logprob=math.log(p)) for token, p in ranked]
    return Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)


@pytest.fixture
def judging() -> Judging:
    """A judge that replies by a function of prompt and settings, or with given replies in turn."""

    def make(
        reply: Callable[[str, GenerateConfig], Any] | Sequence[Any], config: GenerateConfig | None = None
    ) -> Judge:
        if callable(reply):
            return Judge(reply, config or GenerateConfig())
        queue = iter(reply)
        return Judge(lambda *_: next(queue), config or GenerateConfig())

    return make
