"""Whether a judge can be read from the probabilities of its first token; found out once a judge and scale."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from inspect_ai.model import ModelAPI, ModelOutput

from aftertune.judges._expectation import MINIMUM_MASS, expected_value, longest_number
from aftertune.judges._rubric import Rubric

Reading = Literal["logprobs", "samples"]


@dataclass
class Readable:
    """What is known of one judge on one scale.

    Attributes:
        tokens: whether the scale's numbers are single tokens, where the judge's tokenizer is at hand.
        reading: how to read the judge, once it is known.
    """

    tokens: bool | None
    reading: Reading | None


# Keyed by the provider object, since a Model is copied when a role adds settings to it.
_KNOWN: WeakKeyDictionary[ModelAPI, dict[tuple[int, int], Readable]] = WeakKeyDictionary()


def readable(api: ModelAPI, rubric: Rubric) -> Readable:
    """What is known of a judge on a rubric's scale; at first use its tokenizer is asked, if it has one at hand."""
    scales = _KNOWN.setdefault(api, {})
    scale = (rubric.low, rubric.high)
    if scale not in scales:
        tokens = single_tokens(getattr(api, "tokenizer", None), *scale) if rubric.high > 9 else None
        scales[scale] = Readable(tokens, "samples" if tokens is False else None)
    return scales[scale]


def single_tokens(tokenizer: Any, low: int, high: int) -> bool | None:
    """Whether a tokenizer makes one token of each whole number of a scale; None where it cannot be asked."""
    if tokenizer is None:
        return None
    try:
        return all(len(tokenizer.encode(str(n), add_special_tokens=False)) == 1 for n in range(low, high + 1))
    except Exception:  # tokenizers of other providers have other signatures
        return None


def control_tokens(api: ModelAPI) -> Collection[str]:
    """Special tokens of a judge whose tokenizer is at hand."""
    found = getattr(getattr(api, "tokenizer", None), "all_special_tokens", ())
    return [token for token in found if isinstance(token, str)] if isinstance(found, list | tuple) else ()


def first_token(output: ModelOutput) -> dict[str, float] | None:
    """Probabilities of the likeliest first tokens of a reply, white space around them removed; None if not given."""
    logprobs = output.choices[0].logprobs if output.choices else None
    if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
        return None
    found: dict[str, float] = {}
    for token in logprobs.content[0].top_logprobs:
        text = _plain(token.token)
        found[text] = found.get(text, 0.0) + math.exp(min(token.logprob, 0.0))
    return found


def shown_reading(
    rubric: Rubric, output: ModelOutput, probabilities: dict[str, float] | None, *, proven: bool = False
) -> Reading | None:
    """What a reply shows about its judge where no tokenizer is at hand: how to read it, or nothing yet (None).

    A scale with numbers above 9 needs tokens of more than one digit. They are missing where a tokenizer takes digits
    one by one; and a number that goes on after its first token is not to be read from that token. A judge that was
    `proven` by an earlier reply may have none of them among its likeliest tokens.
    """
    if probabilities is None or _begins_blank(output):
        return "samples"
    if rubric.high <= 9:
        return "logprobs"
    if _goes_on(output):
        return "samples"
    _, mass = expected_value(probabilities, 0, 10 ** len(str(rubric.high)) - 1)
    if mass < MINIMUM_MASS:
        return None
    return "logprobs" if proven or longest_number(probabilities) > 1 else "samples"


def _begins_blank(output: ModelOutput) -> bool:
    logprobs = output.choices[0].logprobs
    return logprobs is not None and not _plain(logprobs.content[0].token)


def _goes_on(output: ModelOutput) -> bool:
    logprobs = output.choices[0].logprobs
    tokens = logprobs.content if logprobs is not None else []
    return len(tokens) > 1 and _plain(tokens[0].token).isdigit() and tokens[1].token[:1].isdigit()


def _plain(token: str) -> str:
    # Providers that name tokens as their vocabulary does write a space as one of the first two, a line break as the
    # third.
    return token.strip().strip("Ġ▁Ċ").strip()
