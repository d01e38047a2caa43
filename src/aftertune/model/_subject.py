"""A subject: weights, tokenizer, chat template and identity."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aftertune.model._chat import Chat
from aftertune.model._device import default_batch_tokens
from aftertune.model._identity import Identity
from aftertune.model._offloaded import execution_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(eq=False)
class Subject:
    """A model under study.

    Attributes:
        model: the causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        chat: rendering of conversations for it.
        identity: who it is, for every record.
        max_batch_tokens: bound on the tokens of one forward pass; halved when memory runs out.
        trials: sizes (row, longest path) at which sharing prompts was tried, and whether it was exact.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: Chat
    identity: Identity
    max_batch_tokens: int = field(default=0)
    trials: dict[tuple[int, int], bool] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.max_batch_tokens:
            self.max_batch_tokens = default_batch_tokens(self.device, self.vocabulary)

    @property
    def device(self) -> torch.device:
        """Where input ids go: the device that the input embeddings run on."""
        return execution_device(self.model, self.model.get_input_embeddings())

    @property
    def content(self) -> dict[str, Any]:
        """What decides its numbers: the digests and precision of its identity, and the device."""
        return {**self.identity.content, "device": str(self.device)}

    @property
    def vocabulary(self) -> int:
        """Number of logits per position."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """Longest sequence the model can take, in tokens."""
        config = self.model.config.get_text_config()
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        known = [int(limit) for limit in limits if limit]
        return min(known) if known else 2**20

    @functools.cached_property
    def shares_prompts(self) -> bool:
        """Whether several answers can share one encoded prompt; tried once on a tiny example, not assumed."""
        from aftertune.model._sharing import sharing_is_exact

        return sharing_is_exact(self)

    def shares_prompts_within(self, width: int, depth: int) -> bool:
        """Whether they can in rows of so many tokens, each answer with its prompt so many; tried at that size.

        Attention that reaches back only so far lets short rows share, but not long ones.
        """
        from aftertune.model._sharing import sharing_reaches

        return self.shares_prompts and sharing_reaches(self, width, depth)
