"""Losses of responses with their gradients: what attribution stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aftertune.model._forest import lay_out, predicting_logits
from aftertune.model._likelihood import token_log_probabilities
from aftertune.model._trees import Tree

if TYPE_CHECKING:
    import torch

    from aftertune.model._subject import Subject


def response_losses(subject: Subject, rows: Sequence[Tree]) -> torch.Tensor:
    """Mean negative log-likelihood per response token of each row, differentiable.

    Logits are computed only where a response token is predicted.

    Args:
        subject: whose loss.
        rows: prompts with one response each.

    Returns:
        fp32 losses, shape (rows,), in nats per token.
    """
    import torch

    layout = lay_out(rows, 0)
    logits = predicting_logits(subject, layout).float()
    logp = token_log_probabilities(logits, layout.targets.to(logits.device))
    owner = layout.rows.to(logits.device)
    tokens = torch.bincount(owner, minlength=len(rows))
    return -torch.zeros(len(rows), device=logits.device).index_add(0, owner, logp) / tokens
