"""How a next token is chosen: every row by its own settings and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.errors import UsageError

if TYPE_CHECKING:
    import torch


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

    chosen = logits.argmax(-1)
    for narrows in (False, True):
        rows = [i for i, s in enumerate(samplings) if s.temperature > 0 and s.narrows == narrows]
        if not rows:
            continue
        index = torch.tensor(rows, device=logits.device)
        temperature = torch.tensor([[samplings[i].temperature] for i in rows], device=logits.device)
        scaled = logits[index] / temperature
        draws = torch.tensor([[uniforms[i]] for i in rows], device=logits.device)
        if narrows:
            chosen[index] = _narrowed(scaled, [samplings[i] for i in rows], draws)
        else:
            chosen[index] = _invert(scaled.softmax(-1), draws)
    return chosen


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
    """The first token whose cumulative probability exceeds the draw: (rows, n), (rows, 1) → (rows,)."""
    import torch

    wide = probabilities if probabilities.device.type == "mps" else probabilities.double()
    cumulative = wide.cumsum(-1)
    found = torch.searchsorted(cumulative, draws.to(cumulative) * cumulative[:, -1:], right=True).squeeze(-1)
    # Rounding may leave the draw at the very end; the last token that can be drawn is meant then.
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return found.minimum(last)
