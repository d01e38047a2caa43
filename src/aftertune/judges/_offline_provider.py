"""Inspect model provider ``aftertune_offline/minilm``: a judge without a language model, for trends.

    inspect eval aftertune/emergent_misalignment --model hf/… --model-role grader=aftertune_offline/minilm

It answers the prompts of our own rubrics and nothing else, with a number or a word; one call a rubric, as its
"probabilities" are those of the two whole numbers beside its rating.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from typing import Any

import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from aftertune.errors import UsageError
from aftertune.judges._minilm_files import WEIGHTS, minilm_folder
from aftertune.judges._offline_facts import OFFLINE_PROVIDER, refuse_unserved
from aftertune.judges._offline_judge import OfflineJudge
from aftertune.judges._prompt import read_judge_prompt
from aftertune.judges._rubrics import RUBRICS


class NumberTokens:
    """What stands for a tokenizer: each number and word that the judge says is one token."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[str]:
        """The text, as one token."""
        return [text]


class OfflineAPI(ModelAPI):
    """The offline judge behind Inspect's interface.

    Args:
        model_name: "minilm".
        base_url: not used.
        api_key: not used.
        config: Inspect's defaults for this model; temperature and seed change nothing.
        judge: one in memory, with heads of one's own; the shipped one if left out.
        model_args: none are known.

    Raises:
        UsageError: another name, or a ``-M`` flag.
        SubjectError: the embedding model can neither be found nor fetched, or is another one.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's own signature)
        judge: OfflineJudge | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        refuse_unserved(f"{OFFLINE_PROVIDER}/{model_name}", {})
        if judge is not None and not isinstance(judge, OfflineJudge):
            model_args["judge"] = judge
        if model_args:
            raise UsageError(f"{OFFLINE_PROVIDER}/{model_name}: -M {next(iter(model_args))} is unknown; it takes none")
        self.tokenizer = NumberTokens()
        self._judge = judge or OfflineJudge(minilm_folder())
        self._turn = threading.Lock()

    def canonical_name(self) -> str:
        """The embedding model's digest, and that of the heads."""
        facts = self._judge.facts
        heads = hashlib.sha256(json.dumps(facts["heads"], sort_keys=True).encode()).hexdigest()
        return f"{OFFLINE_PROVIDER}/{self.model_name}@{facts['digests'][WEIGHTS][:12]}+{heads[:8]}"

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Rate the answer in a judge prompt of ours.

        Raises:
            UsageError: any other prompt, a rubric that is not served, or an answer without words.
        """
        asked = read_judge_prompt(input[0].text, RUBRICS.values()) if len(input) == 1 and not tools else None
        if asked is None:
            raise UsageError(
                f"{OFFLINE_PROVIDER}/{self.model_name}: not a prompt of our own rubrics (judge prompts from a file are "
                "not either), and it reads no other; name a language model"
            )
        rating = await anyio.to_thread.run_sync(self._rate, asked.rubric.id, asked.question, asked.answer)
        choice = _choice(rating, self.canonical_name(), logprobs=bool(config.logprobs))
        return ModelOutput(
            model=self.canonical_name(),
            choices=[choice] * (config.num_choices or 1),
            usage=ModelUsage(),
            metadata={"offline_judge": {"rating": rating, "agreement": self._judge.facts["agreement"]}},
        )

    def _rate(self, rubric: str, question: str, answer: str) -> float | str:
        with self._turn:
            return self._judge.rate(rubric, question, answer)


def _choice(rating: float | str, model: str, *, logprobs: bool) -> ChatCompletionChoice:
    """A reply whose mean under its token probabilities is the rating."""
    if isinstance(rating, str):
        shares = {rating: 1.0}
    else:
        low = min(math.floor(rating), 99)
        shares = {str(low): low + 1 - rating, str(low + 1): rating - low}
    likeliest = sorted(shares, key=shares.__getitem__, reverse=True)
    top = [TopLogprob(token=token, logprob=math.log(shares[token])) for token in likeliest if shares[token] > 0]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(content=likeliest[0], model=model, source="generate"),
        stop_reason="stop",
        logprobs=Logprobs(content=[Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)])
        if logprobs
        else None,
    )
