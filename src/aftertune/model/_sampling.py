"""How a next token is chosen: every row by its own settings and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.errors import UsageError

if TYPE_CHECKING:
    import torch


_CHUNK = 256


@dataclass(frozen=True)
class Sampling:
    """How to sample one answer.

    Attributes:
        max_tokens: longest answer in tokens, the end-of-turn token included.
        temperature: 0 takes the likeliest token.
        top_p: sample among the likeliest tokens that together reach this probability.
        top_k: sample among so many likeliest tokens; 0 for all.
        stop: the answer ends before the first of these strings.
        top_logprobs: log-probabilities to report for each token, of the token and so many likeliest ones; None
            reports none. They are the model's own, before temperature.

    Raises:
        UsageError: a value is out of range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        wrong = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (math.isfinite(self.temperature) and self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "stop": (all(self.stop), "non-empty strings"),
            "top_logprobs": (self.top_logprobs is None or self.top_logprobs >= 0, "0 or more"),
        }
        for name, (right, rule) in wrong.items():
            if not right:
                raise UsageError(f"{name} must be {rule}, not {getattr(self, name)!r}")

    @property
    def narrows(self) -> bool:
        """Whether some tokens are left out before sampling."""
        return self.top_p < 1 or self.top_k > 0


def choose_tokens(logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> torch.Tensor:
    """The next token of every row.

    A row's choice depends on its own logits, settings and number alone, so it is the same in every batch (as far as
    the logits are).

    Args:
        logits: fp32, shape (rows, vocabulary).
        samplings: settings by row.
        uniforms: a number in [0, 1) by row; unused where the temperature is 0.

    Returns:
        Token ids, shape (rows,), on the device of the logits.
    """
    import torch

    greedy = [i for i, s in enumerate(samplings) if s.temperature == 0]
    plain = [i for i, s in enumerate(samplings) if s.temperature > 0 and not s.narrows]
    narrowed = [i for i, s in enumerate(samplings) if s.temperature > 0 and s.narrows]
    chosen = torch.empty(len(samplings), dtype=torch.long, device=logits.device)
    for rows in filter(None, (greedy, plain, narrowed)):
        index = torch.tensor(rows, device=logits.device)
        # A pass over all rows' vocabularies takes about as long as a layer: none is made for nothing.
        own = logits if len(rows) == len(samplings) else logits[index]
        if rows is greedy:
            chosen[index] = own.argmax(-1)
            continue
        heat = [samplings[i].temperature for i in rows]
        if any(temperature != 1 for temperature in heat):
            own = own / torch.tensor(heat, device=logits.device)[:, None]
        draws = torch.tensor([[uniforms[i]] for i in rows], dtype=_wide(logits), device=logits.device)
        if rows is narrowed:
            chosen[index] = _narrowed(own, [samplings[i] for i in rows], draws)
        else:
            chosen[index] = _invert(own.softmax(-1), draws)
    return chosen


def _wide(logits: torch.Tensor) -> torch.dtype:
    import torch

    return torch.float32 if logits.device.type == "mps" else torch.float64


def _narrowed(logits: torch.Tensor, samplings: Sequence[Sampling], draws: torch.Tensor) -> torch.Tensor:
    """Top-k first, then top-p of what is left, as `transformers` does it."""
    import torch

    vocabulary, device = logits.shape[-1], logits.device
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary, device=device)
    top_k = torch.tensor([[s.top_k or vocabulary] for s in samplings], device=device)
    top_p = torch.tensor([[s.top_p] for s in samplings], device=device)
    probabilities = ordered.masked_fill(rank >= top_k, -math.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # The likeliest token always stays.
    probabilities = probabilities.masked_fill((before >= top_p) & (rank > 0), 0.0)
    return order.gather(-1, _invert(probabilities, draws)[:, None]).squeeze(-1)


def _invert(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative probability exceeds the draw: (rows, n), (rows, 1) → (rows,).

    First the chunk of the vocabulary it falls into, then the place within: only the chunks' sums and one chunk a row
    are added up in the wide type of the draws.
    """
    import torch

    if short := -probabilities.shape[-1] % _CHUNK:
        probabilities = torch.nn.functional.pad(probabilities, (0, short))
    chunks = probabilities.view(len(probabilities), -1, _CHUNK)
    ends = chunks.sum(-1).to(draws).cumsum(-1)
    aim = draws * ends[:, -1:]
    # Rounding may leave the aim at the very end; the last token that can be drawn is meant then.
    chunk = torch.searchsorted(ends, aim, right=True).minimum((ends < ends[:, -1:]).sum(-1, keepdim=True))
    aim = aim - torch.nn.functional.pad(ends, (1, 0)).gather(-1, chunk)
    inside = chunks[torch.arange(len(chunks), device=chunks.device), chunk.squeeze(-1)]
    last = _CHUNK - 1 - (inside.flip(-1) > 0).int().argmax(-1, keepdim=True)
    place = torch.searchsorted(inside.to(draws).cumsum(-1), aim, right=True).minimum(last)
    return (chunk * _CHUNK + place).squeeze(-1)
