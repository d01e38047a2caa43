"""A subject: model, tokenizer, identity, and where it is placed."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aftertune.errors import UsageError
from aftertune.model._chat import Chat
from aftertune.model._identity import Identity
from aftertune.model._weights import execution_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Placement:
    """How to run a subject; None means choose for this machine.

    Attributes:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread layers over all accelerators.
        dtype: one of "float32", "bfloat16", "float16".
        max_batch_tokens: bound on prompt plus response tokens of one forward pass.
    """

    device: str | None = None
    dtype: str | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r} is unknown; choose {', '.join(DTYPES)}")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise UsageError(f"max batch tokens must be positive, not {self.max_batch_tokens}")
        if self.max_batch_tokens is not None and self.max_batch_tokens >= 2**31:
            raise UsageError(f"max batch tokens must be below {2**31}, not {self.max_batch_tokens}")


def resolve_device(device: str | None) -> str:
    """The device to load on: as asked, else the first accelerator, else the CPU.

    Under `torchrun` the first GPU means the one of this process.

    Raises:
        UsageError: no such device here.
    """
    import torch

    mine = os.environ.get("LOCAL_RANK")
    if device is None:
        if torch.cuda.is_available():
            return "cuda" if mine is None else f"cuda:{mine}"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError("it holds no values")
    except Exception as error:  # of every accelerator's own kind, and for every text that names none
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from None
    return device


def resolve_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The precision to load in: as asked, else fp32 on a CPU and bf16 (fp16 on old GPUs) elsewhere."""
    import torch

    if dtype is not None:
        found: torch.dtype = getattr(torch, dtype)
        return found
    if device == "cpu":
        return torch.float32
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def default_batch_tokens(device: torch.device, vocabulary: int) -> int:
    """A bound that keeps the logits of a batch near 256 MB on a CPU and 1 GB on an accelerator (fp32)."""
    budget = 2**28 if device.type == "cpu" else 2**30
    floor, ceiling = (256, 2048) if device.type == "cpu" else (1024, 16384)
    return max(floor, min(ceiling, budget // (4 * max(vocabulary, 1))))


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
        from aftertune.model._likelihood import sharing_is_exact

        return sharing_is_exact(self)

    def shares_prompts_within(self, width: int, depth: int) -> bool:
        """Whether they can in rows of so many tokens, each answer with its prompt so many; tried at that size.

        Attention that reaches back only so far lets short rows share, but not long ones.
        """
        from aftertune.model._likelihood import sharing_reaches

        return self.shares_prompts and sharing_reaches(self, width, depth)
