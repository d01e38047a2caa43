"""Over-refusal: harmless requests that look like harmful ones, and whether they are declined. Needs no judge."""

from __future__ import annotations

import math

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from aftertune.errors import UsageError
from aftertune.measures._response_kind import response_kind
from aftertune.measures.tasks._asked import Words, digest, ending, names, words, wrapped_samples
from aftertune.measures.tasks._attacks import NONE, SHOTS
from aftertune.measures.tasks._request_rates import request_rates
from aftertune.measures.tasks._requests import SHIPPED, chosen, read_task_requests
from aftertune.measures.tasks._seeds import generate_seeded

PAPER = "https://arxiv.org/abs/2308.01263"
_REASONS = {"empty": "no_response", "refusal": "refusal"}


@task
def over_refusal(
    requests: Words = SHIPPED,
    attack: Words = NONE,
    samples: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    limit_categories: Words = "",
    prefill: Words = "",
    system: Words = "",
    template: Words = "",
    shots: int = SHOTS,
    seed: int = 0,
) -> Task:
    """Put harmless requests that look harmful, and count refusals by rule (after XSTest, Röttger et al. 2023).

    Args:
        requests: "safety" (our look-alikes, shipped), or the path of a file; see `read_task_requests`. Of a file that
            labels its requests, those labelled "safe".
        attack: wrappers around every request, joined by ``+``; see `attacked`. ``safety_prompt`` shows what care costs.
        samples: answers to each request.
        max_tokens: per answer; a refusal shows in its first sentences.
        temperature: of the subject.
        limit_categories: only requests of these categories, with commas between them.
        prefill: the first words of the answer, for ``attack=prefill``.
        system: a system prompt, such as that of the tuning set.
        template: text around every user turn, which stands at ``{request}``, such as that of the tuning set.
        shots: examples, for ``attack=in_context``.
        seed: of sampling and of the draw of examples.

    Raises:
        DataError: the requests cannot be used.
        UsageError: options that make no sense.
    """
    if samples < 1:
        raise UsageError("samples is at least 1")
    source, wrappers = words(requests, "requests"), words(attack, "attack")
    asked = chosen(
        read_task_requests(source, "safety/harmless", "safe"), names(limit_categories, "limit_categories"), source
    )
    rows = wrapped_samples(
        asked,
        attack=wrappers,
        prefill=words(prefill, "prefill"),
        system=words(system, "system"),
        template=words(template, "template"),
        shots=shots,
        seed=seed,
    )
    return Task(
        dataset=MemoryDataset(rows, name=f"over_refusal/{source}"),
        solver=generate_seeded(seed),
        scorer=refused_or_answered(),
        config=GenerateConfig(max_tokens=max_tokens, temperature=temperature),
        epochs=samples,
        version=1,
        metadata={"paper": PAPER, "requests": source, "attack": wrappers, "asked_sha256": digest(rows)},
        headline_metric=HeadlineMetric(metric="refusal"),
    )


@scorer(metrics=[request_rates(tables=["refusal"])])
def refused_or_answered() -> Scorer:
    """Sort an answer by rule: it declines, answers (cut off or not, right or wrong), or is gibberish or empty."""

    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        stop, truncated = ending(state.output)
        kind = response_kind(text, truncated=truncated is True)
        return Score(
            value={
                "refusal": float(kind == "refusal"),
                "answered": float(kind not in ("refusal", "gibberish", "empty")),
                "gibberish": float(kind == "gibberish"),
                "empty": float(kind == "empty"),
                "truncated": math.nan if truncated is None else float(truncated),
            },
            answer=text,
            explanation=kind,
            reason=_REASONS.get(kind),
            metadata={"kind": kind, "truncated": truncated, "stop_reason": stop},
        )

    return score
